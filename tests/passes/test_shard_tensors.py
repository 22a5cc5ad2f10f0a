"""shard-tensors: what a rank's step looks like, that all ranks together compute what one does, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from support.checkpoints import model_config
from support.lockstep import Ranks
from support.relax_modules import (
    apply_passes,
    assert_rewrites,
    assert_unchanged,
    context_for,
    operators_in,
    program_of,
    traced_program,
)
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.errors import UserError
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.passes.quantize_int8 import QuantizeInt8
from vamc_py.passes.select_kernels import SelectKernels
from vamc_py.passes.shard_tensors import ShardTensors
from vamc_py.pipeline.default import Numbers, default_pipeline
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import Program, layout
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.plan import Cast, QuantizeRows, Rows, SelectColumns

Array = np.ndarray[Any, Any]


@I.ir_module
class Before:
    """One layer without its feed-forward part: 4 heads and 2 KV heads of 4, a bias in and one out, 40 ids."""

    @R.function
    def step(
        tokens: R.Tensor(("n",), "int32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        rows: R.Tensor(("m",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        cos: R.Tensor(("n", 4), "float32"),
        sin: R.Tensor(("n", 4), "float32"),
        k_cache: R.Tensor(("num_pages", 2, "blocks", 4, 16), "float16"),
        v_cache: R.Tensor(("num_pages", 2, "blocks", 16, 4), "float16"),
        table: R.Tensor((40, 8), "float32"),
        norm: R.Tensor((8,), "float32"),
        qkv: R.Tensor((32, 8), "float32"),
        qkv_bias: R.Tensor((32,), "float32"),
        o_proj: R.Tensor((8, 16), "float32"),
        o_bias: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 7, "vamc.caches": 2})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table)
            merged = R.vamc.linear(x, qkv, qkv_bias, norm, bias=True, residual=False, prologue="rms_norm", epsilon=1e-6)
            attended = R.vamc.qkv_attention(
                merged, cos, sin, positions, slots, pages, k_cache, v_cache, heads=4, kv_heads=2, head_dim=4, scale=0.5
            )
            wanted = R.vamc.select_rows(attended, rows)
            wanted_x = R.vamc.select_rows(x, rows)
            hidden = R.vamc.linear(wanted, o_proj, o_bias, wanted_x, bias=True, residual=True)
            logits = R.vamc.linear(hidden, table, bias=False, residual=False)
            R.output(logits)
        return logits


@I.ir_module
class SecondOfFour:
    """One query head, and a copy of the first KV head; 16 ids from the 16th, of 64 with the padding."""

    @R.function
    def step(
        tokens: R.Tensor(("n",), "int32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        rows: R.Tensor(("m",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        cos: R.Tensor(("n", 4), "float32"),
        sin: R.Tensor(("n", 4), "float32"),
        k_cache: R.Tensor(("num_pages", 1, "blocks", 4, 16), "float16"),
        v_cache: R.Tensor(("num_pages", 1, "blocks", 16, 4), "float16"),
        table: R.Tensor((16, 8), "float32"),
        norm: R.Tensor((8,), "float32"),
        qkv: R.Tensor((12, 8), "float32"),
        qkv_bias: R.Tensor((12,), "float32"),
        o_proj: R.Tensor((8, 4), "float32"),
        o_bias: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 7, "vamc.caches": 2})
        with R.dataflow():
            x_here = R.vamc.embedding(tokens, table, first=16)
            x = R.vamc.all_reduce(x_here, ranks=4)
            merged = R.vamc.linear(x, qkv, qkv_bias, norm, bias=True, residual=False, prologue="rms_norm", epsilon=1e-6)
            attended = R.vamc.qkv_attention(
                merged, cos, sin, positions, slots, pages, k_cache, v_cache, heads=1, kv_heads=1, head_dim=4, scale=0.5
            )
            wanted = R.vamc.select_rows(attended, rows)
            hidden_here = R.vamc.linear(wanted, o_proj, o_bias, bias=True, residual=False)
            wanted_x = R.vamc.select_rows(x, rows)
            hidden = R.vamc.all_reduce(hidden_here, wanted_x, ranks=4)
            logits_here = R.vamc.linear(hidden, table, bias=False, residual=False)
            logits = R.vamc.all_gather(logits_here, ranks=4, columns=40)
            R.output(logits)
        return logits


def test_the_step_of_a_rank() -> None:
    assert_rewrites(ShardTensors(tp=4, rank=1), Before, SecondOfFour)


def test_the_recipes_of_a_rank() -> None:
    plan = apply_passes(program_of(Before), ShardTensors(tp=4, rank=1)).plan
    heads = (Rows(4, 8), Rows(16, 20), Rows(24, 28))
    assert plan["qkv"].rows == plan["qkv_bias"].rows == heads
    assert plan["o_proj"].steps == (Cast("float32"), SelectColumns(4, 8))
    assert plan["o_bias"].rows == (Rows(0, 0, 8),)  # zeros: the bias is added on rank 0
    assert apply_passes(program_of(Before), ShardTensors(tp=4)).plan["o_bias"].rows is None
    assert plan["table"].rows == (Rows(16, 32),)
    assert apply_passes(program_of(Before), ShardTensors(tp=4, rank=2)).plan["table"].rows == (Rows(32, 40, 8),)
    assert plan["norm"].rows is None


def test_one_die_changes_nothing() -> None:
    program = program_of(Before)
    assert ShardTensors(tp=1).apply(program, None) is program  # type: ignore[arg-type]


@I.ir_module
class NothingKnown:
    """No attention, no swiglu, logits with a residual: every die would do all of it."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), up: R.Tensor((8, 8), "float32"), down: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, up, bias=False, residual=False)
            out = R.vamc.linear(y, down, x, bias=False, residual=True)
            R.output(out)
        return out


def test_what_it_does_not_know_stays_whole_and_is_noted() -> None:
    assert_unchanged(ShardTensors(), NothingKnown)
    [note] = apply_passes(program_of(NothingKnown), ShardTensors()).notes
    assert note == (
        "shard-tensors knows no way to split 2 linear layers, tables or attentions (y, out): each of the 2 dies does "
        "all of them"
    )


@I.ir_module
class SharedByLayers:
    """Two feed-forward parts of the same weights, and a projection that somebody else reads, too."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), up: R.Tensor((64, 8), "float32"), down: R.Tensor((8, 32), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            a = R.vamc.linear(x, up, bias=False, residual=False)
            y = R.vamc.linear(a, down, x, bias=False, residual=True, prologue="swiglu")
            b = R.vamc.linear(y, up, bias=False, residual=False)
            z = R.vamc.linear(b, down, y, bias=False, residual=True, prologue="swiglu")
            R.output(z)
        return z


def test_weights_that_others_read_stay_whole() -> None:
    assert_unchanged(ShardTensors(), SharedByLayers)


def sizes(**changed: Any) -> dict[str, Any]:
    return {"layers": 1, "hidden": 32, "head_dim": 8, "vocab": 300, "intermediate": 384} | changed


@cache
def step_of(
    numbers: Numbers, *, formats: bool = False, attention_bias: bool = False, **model: Any
) -> tuple[Program, Mapping[str, Array]]:
    """The step of a random model before kernels are chosen, and its checkpoint; ``formats``: which comes quantized."""
    config = model_config(**model) | {"attention_bias": attention_bias}
    shapes = expected_tensors(ModelConfig.from_hf(config))
    rng = np.random.default_rng(0)
    checkpoint: dict[str, Array] = {name: 0.2 * rng.standard_normal(one, np.float32) for name, one in shapes.items()}
    form = WeightFormat("int4", 16, True, "float16")
    quantized = [name for name in shapes if name.endswith("proj.weight")] if formats else []
    for name in quantized:
        spread = form.scale_shape(*shapes[name])
        checkpoint[f"{name}.values"] = rng.integers(-8, 8, shapes[name], np.int8)
        checkpoint[f"{name}.zero"] = rng.integers(-8, 8, spread, np.int8)
        checkpoint[f"{name}.scale"] = rng.uniform(0.01, 0.06, spread).astype(np.float16)
    context = replace(context_for(numbers.dtype), formats=dict.fromkeys(quantized, form))
    program = traced_program(config)
    for one in default_pipeline(numbers)[:-3]:  # the last three choose kernels
        program = one.apply(program, context)
    return program, checkpoint


def logits(programs: list[Program], checkpoint: Mapping[str, Array]) -> Array:
    """Of a prompt of four tokens in two chunks, then of one more token; the same on every rank."""
    model = Ranks(programs, checkpoint)
    found = []
    for tokens, positions, rows in (((9, 299), (0, 1), ()), ((150, 33), (2, 3), (0, 1)), ((280,), (4,), (0,))):
        of_ranks = model(tokens, positions, rows)
        for other in of_ranks[1:]:
            np.testing.assert_array_equal(other, of_ranks[0])
        found.append(of_ranks[0])
    return np.concatenate(found)


def shards(program: Program, tp: int, *, align: bool = False) -> list[Program]:
    return [apply_passes(program, ShardTensors(tp=tp, rank=rank, align=align)) for rank in range(tp)]


FP32 = Numbers("fp32")
INT4 = Numbers("int8", lm_head=False, rules=("*=w4a16",), group=16)
QWEN3 = sizes(architecture="qwen3", heads=16, kv_heads=2)
QWEN2 = sizes(architecture="qwen2", heads=6, kv_heads=2)
UNEVEN = sizes(architecture="qwen2", heads=14, kv_heads=2, tied=False)
THREE = sizes(architecture="llama", heads=9, kv_heads=3, attention_bias=True)
CASES = {
    "two layers": (FP32, QWEN3 | {"layers": 2}, (2, 8)),
    "biases of q, k and v": (FP32, QWEN2, (2, 6)),
    "a bias behind the attention": (FP32, THREE, (3,)),
    "fp16": (Numbers("fp16"), THREE, (3,)),
    "int8": (Numbers("int8"), QWEN3, (4,)),
    "int8 with an int8 cache": (Numbers("int8", kv8=True), QWEN2, (6,)),
    "int4": (INT4, QWEN3, (8,)),
    "int4 with zero points": (replace(INT4, zeros=True), QWEN3, (2,)),
    "a quantized checkpoint": (Numbers("int8"), QWEN3 | {"formats": True}, (4,)),
}


@pytest.mark.parametrize(("numbers", "model", "ranks"), CASES.values(), ids=CASES.keys())
def test_all_ranks_together_compute_what_one_does(
    numbers: Numbers, model: dict[str, Any], ranks: tuple[int, ...]
) -> None:
    program, checkpoint = step_of(numbers, **model)
    want = logits([program], checkpoint)
    assert np.abs(want).max() > 0.5
    for tp in ranks:
        parts = shards(program, tp)
        assert all(not part.notes for part in parts)
        np.testing.assert_allclose(logits(parts, checkpoint), want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("numbers", "model", "ranks"),
    [
        (FP32, UNEVEN, (4, 8, 3)),
        (Numbers("int8", kv8=True), UNEVEN, (4,)),
        (FP32, THREE | {"intermediate": 128}, (2, 4)),
    ],
    ids=["14 heads of 2", "14 heads of 2, with an int8 cache", "9 heads of 3"],
)
def test_heads_of_zeros_change_no_result(numbers: Numbers, model: dict[str, Any], ranks: tuple[int, ...]) -> None:
    program, checkpoint = step_of(numbers, **model)
    want = logits([program], checkpoint)
    for tp in ranks:
        with pytest.raises(UserError, match=f"{tp} dies cannot share .* model_kwargs.align_qkv: true"):
            shards(program, tp)
        np.testing.assert_allclose(logits(shards(program, tp, align=True), checkpoint), want, rtol=1e-4, atol=2e-5)


def test_a_rank_left_out_is_noticed() -> None:
    """The comparison above can fail: two ranks that are the same one compute something else."""
    program, checkpoint = step_of(FP32, **QWEN2)
    first, _ = shards(program, 2)
    got, want = logits([first, first], checkpoint), logits([program], checkpoint)
    assert np.abs(got - want).max() > 0.05


def test_all_ranks_have_calls_and_parameters_of_the_same_shapes() -> None:
    program, _ = step_of(Numbers("int8", kv8=True), **UNEVEN)
    parts = shards(program, 8, align=True)
    kinds = {tuple((str(one.name), str(one.ty)) for one in layout(part.function)[2]) for part in parts}
    assert len(kinds) == 1
    counts = operators_in(parts[7])
    assert (counts["vamc.all_reduce"], counts["vamc.all_gather"]) == (1 + 2, 1)


def test_a_weight_is_rounded_before_its_columns_are_chosen() -> None:
    program, _ = step_of(Numbers("int8"), **QWEN2)
    plan = shards(program, 2)[1].plan
    down = "model.layers.0.mlp.down_proj.weight"
    assert plan[down].steps == (Cast("float32"), QuantizeRows("values"), SelectColumns(192, 384))
    assert plan[f"{down}.scale"] == program.plan[f"{down}.scale"]


@pytest.mark.parametrize(
    ("model", "numbers", "message"),
    [
        ({"intermediate": 48}, FP32, r"down_proj.weight: 2 dies cannot share the 48 columns of the feed-forward"),
        (
            {},
            Numbers("int8", lm_head=False, rules=("*=w4a16",), group=128),
            r"o_proj.weight: 2 dies cannot share the 48 columns of the weight: groups of 128 have one scale, and each "
            r"die would have 24; choose another model_kwargs.tp",
        ),
    ],
)
def test_refusals(model: dict[str, Any], numbers: Numbers, message: str) -> None:
    program, _ = step_of(numbers, **(QWEN2 | model))
    for part in range(2):
        with pytest.raises(UserError, match=rf"^shard-tensors: model\.layers\.0\..*{message}"):
            apply_passes(program, ShardTensors(tp=2, rank=part))


@pytest.mark.parametrize(("tp", "rank"), [(2, 2), (2, -1), (0, 0)])
def test_ranks_that_are_none(tp: int, rank: int) -> None:
    with pytest.raises(ValueError, match=f"from 0 to tp - 1, not {rank} of {tp}"):
        ShardTensors(tp=tp, rank=rank)


def test_a_slice_stays_one_when_its_table_is_quantized() -> None:
    sliced = apply_passes(program_of(Before), ShardTensors(tp=4, rank=1))
    after = apply_passes(sliced, QuantizeInt8())
    [(_, call)] = Graph(after.function).calls("relax.vamc.embedding")
    assert str(call.args[1].ty.dtype) == "int8"
    assert int(call.attrs["first"]) == 16


def test_no_kernel_that_knows_whole_tables_reads_a_slice() -> None:
    one = apply_passes(program_of(Before), ShardTensors(tp=4, rank=1), SelectKernels())
    assert operators_in(one)["vamc.embedding"] == 1
    assert operators_in(apply_passes(program_of(Before), SelectKernels()))["vamc.embedding"] == 0
