"""kv-cache-layout: step computes what main computes, for any mixture of sequences; what it cannot know is refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import model_config
from support.relax_modules import MainModel, StepModel, apply_passes, assert_rewrites, operators_in, program_of
from support.relax_modules import traced_program as traced
from support.run_torch import built_in, random_weights
from tvm import relax, tirx
from tvm.ir import assert_structural_equal
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from vamc_py.dialect import attention, embedding, linear
from vamc_py.errors import UserError
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.passes.flatten_batch import FlattenBatch
from vamc_py.passes.kv_cache_layout import KvCacheLayout
from vamc_py.passes.simplify import Simplify
from vamc_py.passes.strided_slice import StridedSlice
from vamc_py.pipeline.default import Numbers, default_pipeline
from vamc_py.pipeline.program import Program

RAISE = tuple(one for one in default_pipeline(Numbers("fp32")) if one.stage == "raise")
TO_STEP = (StridedSlice(), KvCacheLayout(), Simplify(), FlattenBatch(), Simplify())


@I.ir_module
class OneSequence:
    @R.function
    def main(
        input_ids: R.Tensor((1, "n"), "int64"),
        attention_mask: R.Tensor((1, 1, "n", "p + n"), "float32"),
        position_ids: R.Tensor((1, "n"), "int64"),
        past_k_0: R.Tensor((1, 1, "p", 4), "float32"),
        past_v_0: R.Tensor((1, 1, "p", 4), "float32"),
        w: R.Tensor((9, 4), "float32"),
    ):
        R.func_attr({"vamc.inputs": 5, "vamc.caches": 0})
        n = T.int64()
        with R.dataflow():
            x = R.vamc.embedding(input_ids, w)
            turn = R.vamc.rotary_angles(position_ids, R.const([1.0, 0.5], "float32"), scaling=1.0)
            q = R.reshape(x, R.shape([1, n, 1, 4]))
            rotated = R.vamc.rotary(q, turn[0], turn[1])
            new = R.permute_dims(q, axes=[0, 2, 1, 3])
            k = R.concat((past_k_0, new), axis=2)
            v = R.concat((past_v_0, new), axis=-2)
            keys = R.permute_dims(k, axes=[0, 2, 1, 3])
            values = R.permute_dims(v, axes=[0, 2, 1, 3])
            mask = R.multiply(R.subtract(R.const(1.0, "float32"), attention_mask), R.const(-1e30, "float32"))
            attended = R.vamc.attention(rotated, keys, values, mask, scale=0.5)
            hidden = R.reshape(attended, R.shape([1, n, 4]))
            last = R.strided_slice(hidden, axes=[1], begin=[n - 1], end=[n], assume_inbound=True)
            logits = R.vamc.linear(last, w, bias=False, residual=False)
            gv = (logits, k, v)
            R.output(gv)
        return gv


@I.ir_module
class Ragged:
    @R.function
    def step(
        tokens: R.Tensor(("n",), "int32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        rows: R.Tensor(("m",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        k_cache_0: R.Tensor(("num_pages", 1, "blocks", 4, 16), "float32"),
        v_cache_0: R.Tensor(("num_pages", 1, "blocks", 16, 4), "float32"),
        w: R.Tensor((9, 4), "float32"),
    ):
        R.func_attr({"vamc.inputs": 5, "vamc.caches": 2, "tir_var_upper_bound": {"n": 128, "m": 128}})
        n = T.int64()
        with R.dataflow():
            x = R.vamc.embedding(R.reshape(tokens, R.shape([1, n])), w)
            q = R.reshape(x, R.shape([1, n, 1, 4]))
            turn = R.vamc.rotary_angles(
                R.reshape(positions, R.shape([1, n])), R.const([1.0, 0.5], "float32"), scaling=1.0
            )
            rotated = R.vamc.rotary(q, turn[0], turn[1])
            new = R.permute_dims(q, axes=[0, 2, 1, 3])
            new_k = R.permute_dims(new, axes=[0, 2, 1, 3])
            new_v = R.permute_dims(new, axes=[0, 2, 1, 3])
            attended = R.vamc.cached_attention(
                rotated, new_k, new_v, positions, slots, pages, k_cache_0, v_cache_0, scale=0.5
            )
            hidden = R.reshape(attended, R.shape([1, n, 4]))
            wanted = R.vamc.select_rows(hidden, rows)
            logits = R.vamc.linear(wanted, w, bias=False, residual=False)
            R.output(logits)
        return logits


def test_main_becomes_step() -> None:
    assert_rewrites(KvCacheLayout(), OneSequence, Ragged)


MODEL = model_config(architecture="qwen3", layers=2, hidden=16, intermediate=16, heads=2, kv_heads=1, head_dim=8)
WEIGHTS = random_weights(ModelConfig.from_hf(MODEL), scale=0.3)
LENGTH = 40  # more than two blocks of 16 positions


class Prompt:
    """A sequence of random tokens with the logits that main gives for it."""

    def __init__(self, main: MainModel, seed: int) -> None:
        self.tokens = np.random.default_rng(seed).integers(0, MODEL["vocab_size"], LENGTH)
        mask = np.triu(np.full((LENGTH, LENGTH), np.finfo(np.float32).min, "float32"), 1)[None, None]
        past = [np.zeros((1, 1, 0, 8), "float32")] * (2 * MODEL["num_hidden_layers"])
        self.logits = main(self.tokens[None], mask, np.arange(LENGTH)[None], past)[0][0]


@pytest.fixture(scope="module")
def raised() -> Program:
    return apply_passes(traced(MODEL), *RAISE)


@pytest.fixture(scope="module")
def prompts(raised: Program) -> list[Prompt]:
    main = MainModel(raised, WEIGHTS)
    return [Prompt(main, seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def step(raised: Program) -> StepModel:
    """Two slots of two pages of 32 positions each, which lie out of order."""
    return StepModel(apply_passes(raised, *TO_STEP), WEIGHTS, pages=[[3, 0], [1, 2]], blocks=2)


def assert_logits(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).max(initial=1)))


def test_whole_prompt(step: StepModel, prompts: list[Prompt]) -> None:
    assert_logits(step(prompts[0].tokens, range(LENGTH)), prompts[0].logits)


def test_wanted_rows_in_any_order(step: StepModel, prompts: list[Prompt]) -> None:
    rows = [LENGTH - 1, 0, 17, 17]
    assert_logits(step(prompts[0].tokens, range(LENGTH), rows=rows), prompts[0].logits[rows])
    assert step(prompts[0].tokens, range(LENGTH), rows=[]).shape == (0, MODEL["vocab_size"])


CUTS = st.lists(st.integers(1, LENGTH - 1), unique=True, max_size=4).map(sorted)


@settings(max_examples=20, deadline=None)
@given(cuts=st.tuples(CUTS, CUTS), order=st.permutations([0, 1]))
def test_two_slots_in_chunks(
    step: StepModel, prompts: list[Prompt], cuts: tuple[list[int], list[int]], order: list[int]
) -> None:
    """Chunk i of both sequences goes into step i; the one with fewer chunks is done earlier."""
    chunks = [[range(first, last) for first, last in pairwise([0, *cuts[slot], LENGTH])] for slot in order]
    for both in zip_longest(*chunks, fillvalue=range(0)):
        parts = [(slot, list(chunk)) for slot, chunk in zip(order, both, strict=True)]
        tokens = np.concatenate([prompts[slot].tokens[chunk] for slot, chunk in parts])
        expected = np.concatenate([prompts[slot].logits[chunk] for slot, chunk in parts])
        slots = [slot for slot, chunk in parts for _ in chunk]
        assert_logits(step(tokens, [at for _, chunk in parts for at in chunk], slots=slots), expected)


def test_half_precision_caches(raised: Program, prompts: list[Prompt]) -> None:
    program = apply_passes(raised, *TO_STEP, dtype="int8")
    caches = [str(p.ty.dtype) for p in program.function.params if "cache" in p.name]
    assert caches == ["float16"] * 4
    logits = StepModel(program, WEIGHTS)(prompts[0].tokens, range(LENGTH))
    assert_logits(logits, prompts[0].logits, 1e-2)


def test_without_a_slice_the_logits_are_selected(raised: Program, prompts: list[Prompt]) -> None:
    program = apply_passes(raised, KvCacheLayout(), Simplify(), FlattenBatch())
    assert operators_in(program)["vamc.select_rows"] == 1
    rows = [3, 0]
    assert_logits(StepModel(program, WEIGHTS)(prompts[0].tokens, range(LENGTH), rows=rows), prompts[0].logits[rows])


Change = Callable[..., Any]


def one_layer(
    *,
    mask: Change = lambda mask, **_: mask,
    key: Change = lambda past, new, **_: relax.op.concat([past, new], axis=2),
    present: Change = lambda k, **_: k,
    hidden: Change = lambda x, **_: x,
) -> Program:
    """A layer of attention over embeddings whose parts may be changed; n new tokens, p past positions."""
    n, p = tirx.Var("n", "int64"), tirx.Var("p", "int64")

    def argument(name: str, *shape: Any, dtype: str = "float32") -> Any:
        return relax.Var(name, relax.TensorType(shape, dtype))

    ids, positions = argument("input_ids", 1, n, dtype="int64"), argument("position_ids", 1, n, dtype="int64")
    mask_input = argument("attention_mask", 1, 1, n, p + n)
    past_k, past_v = argument("past_k_0", 1, 1, p, 4), argument("past_v_0", 1, 1, p, 4)
    table = argument("table", 9, 4)
    parameters = [ids, mask_input, positions, past_k, past_v, table]
    builder = relax.BlockBuilder()
    with builder.function("main", parameters, attrs={"vamc.inputs": 5, "vamc.caches": 0}):
        with builder.dataflow():
            x = builder.emit(embedding(ids, table))
            q = builder.emit(relax.op.reshape(x, [1, n, 1, 4]))
            new = builder.emit(relax.op.permute_dims(q, [0, 2, 1, 3]))
            k = builder.emit(key(past=past_k, new=new, other=past_v))
            v = builder.emit(relax.op.concat([past_v, new], axis=2))
            keys, values = (builder.emit(relax.op.permute_dims(part, [0, 2, 1, 3])) for part in (k, v))
            changed = mask(mask_input, n=n, p=p, positions=positions, emit=builder.emit)
            attended = builder.emit(attention(q, keys, values, changed, scale=0.5))
            merged = builder.emit(relax.op.reshape(attended, [1, n, 4]))
            logits = builder.emit(linear(builder.emit(hidden(merged, n=n, p=p, past=past_v, emit=builder.emit)), table))
            shown = builder.emit(present(k, past=past_k, new=new))
            result = builder.emit_output(relax.Tuple([logits, shown, v]))
        builder.emit_func_output(result)
    return program_of(builder.get())


def _where_not(mask: Any, emit: Any, **_: Any) -> Any:
    """As transformers and the patched files make an additive mask of ones."""
    refused = emit(relax.op.subtract(relax.const(1.0), mask))
    lowest = emit(relax.op.full_like(refused, relax.const(-1e30)))
    return emit(relax.op.where(emit(relax.op.astype(refused, "bool")), lowest, refused))


def test_a_mask_made_of_the_mask_is_dropped() -> None:
    program = apply_passes(one_layer(mask=_where_not), KvCacheLayout())
    assert set(operators_in(program)) & {"where", "full_like", "subtract", "astype"} == set()
    assert operators_in(program)["vamc.cached_attention"] == 1


def _window(mask: Any, n: Any, emit: Any, **_: Any) -> Any:
    return emit(relax.op.add(mask, emit(relax.op.tril(emit(relax.op.full_like(mask, relax.const(-1e30))), -4))))


def _by_position(mask: Any, n: Any, p: Any, emit: Any, **_: Any) -> Any:
    distance = emit(relax.op.astype(emit(relax.op.arange(0, p + n, 1, "int64")), "float32"))
    return emit(relax.op.add(mask, distance))


def _by_position_ids(mask: Any, n: Any, positions: Any, emit: Any, **_: Any) -> Any:
    column = emit(relax.op.reshape(positions, [1, 1, n, 1]))
    return emit(relax.op.add(mask, emit(relax.op.astype(column, "float32"))))


def _by_table(mask: Any, emit: Any, **_: Any) -> Any:
    return emit(relax.op.add(mask, relax.const(np.zeros((1, 2, 1, 1), "float32"))))


def _shifted(mask: Any, n: Any, p: Any, emit: Any, **_: Any) -> Any:
    tail = emit(relax.op.strided_slice(mask, [3], [1], [p + n], assume_inbound=True))
    return emit(relax.op.concat([tail, emit(relax.op.full([1, 1, n, 1], relax.const(0.0)))], axis=3))


def _none(n: Any, p: Any, emit: Any, **_: Any) -> Any:
    return emit(relax.op.full([1, 1, n, p + n], relax.const(0.0)))


REFUSED: dict[str, tuple[dict[str, Change], str]] = {
    "a window": ({"mask": _window}, "computed by relax.tril"),
    "distances": ({"mask": _by_position}, "computed by relax.arange"),
    "positions": ({"mask": _by_position_ids}, "a table or another input"),
    "a table": ({"mask": _by_table}, "a table or another input"),
    "a shift": ({"mask": _shifted}, "computed by relax.(concat|strided_slice)"),
    "no mask": ({"mask": lambda _, **rest: _none(**rest)}, "does not use the attention_mask"),
    "new before past": (
        {"key": lambda past, new, **_: relax.op.concat([new, past], axis=2)},
        "does not read all past keys",
    ),
    "a changed cache": ({"present": lambda k, **_: relax.op.negative(k)}, "does not read all past keys"),
    "the past's length": (
        {"hidden": lambda x, n, p, emit, **_: relax.op.multiply(x, _length(n, p, emit))},
        "p outside of attention",
    ),
    "the past itself": (
        {"hidden": lambda x, past, emit, **_: relax.op.add(x, _summed(past, emit))},
        "p, past_v_0 outside of attention",
    ),
    "the first token's logits": (
        {"hidden": lambda x, **_: relax.op.strided_slice(x, [1], [0], [1], assume_inbound=True)},
        "logits of some tokens only",
    ),
}


def _length(n: Any, p: Any, emit: Any) -> Any:
    ones = emit(relax.op.full([1, p + n, 1], relax.const(1.0)))
    return emit(relax.op.sum(ones, axis=[1], keepdims=True))


def _summed(past: Any, emit: Any) -> Any:
    return emit(relax.op.sum(emit(relax.op.reshape(past, [1, past.ty.shape[2], 4])), axis=[1], keepdims=True))


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_a_cache_would_change(case: str) -> None:
    changes, words = REFUSED[case]
    program = one_layer(**changes)
    relax.analysis.well_formed(program.module)
    with pytest.raises(UserError, match=words):
        apply_passes(program, KvCacheLayout())


LEFT: dict[str, Change] = {
    "the values' past": lambda other, new, **_: relax.op.concat([other, new], axis=2),
    "keys turned after the past": lambda past, new, **_: relax.op.negative(relax.op.concat([past, new], axis=2)),
}


@pytest.mark.parametrize("case", LEFT)
def test_leaves_unusual_keys_to_the_dense_cache(case: str) -> None:
    after = apply_passes(one_layer(key=LEFT[case]), KvCacheLayout())
    assert after.name == "main"
    assert "did not fire" in after.notes[-1]


def test_leaves_a_model_without_known_attention_to_the_dense_cache(raised: Program) -> None:
    program = apply_passes(traced(MODEL), *(one for one in RAISE if one.name != "raise-attention"), StridedSlice())
    after = apply_passes(program, KvCacheLayout())
    assert after.notes == ("kv-cache-layout did not fire: no attention was recognised in layers [0, 1]",)
    assert_structural_equal(after.module, program.module)


def test_torch_and_main_agree(prompts: list[Prompt]) -> None:
    """The reference of the tests above is itself right."""
    mask = torch.full((1, 1, LENGTH, LENGTH), torch.finfo(torch.float32).min).triu(1)
    past = [(torch.zeros(1, 1, 0, 8), torch.zeros(1, 1, 0, 8))] * 2
    model = built_in(ModelConfig.from_hf(MODEL), WEIGHTS)
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(prompts[0].tokens)[None], mask, torch.arange(LENGTH)[None], past)
    assert_logits(prompts[0].logits, logits[0].numpy())
