"""quantize-activations: which layers and attentions take which arithmetic, by options, names and target."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

import numpy as np
import pytest
from support.checkpoints import model_config
from support.relax_modules import (
    Compiled,
    apply_passes,
    assert_rewrites,
    assert_unchanged,
    context_for,
    program_of,
    random_arguments,
    traced_program,
)
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.activation import Activation, default_wide_rows
from vamc_py.dialect import LinearCall
from vamc_py.errors import UserError
from vamc_py.passes.quantize_activations import QuantizeActivations
from vamc_py.passes.quantize_int8 import QuantizeInt8
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.default import Numbers, default_pipeline
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.pass_options import make_pass, options_of
from vamc_py.pipeline.program import Program, attribute, layout
from vamc_py.schedules.llvm.instruction_set import AVX512_FEATURES
from vamc_py.weights.plan import ParameterPlan, Recipe

WITHOUT_BF16 = (*AVX512_FEATURES, "avx512vnni")
WITH_BF16 = (*WITHOUT_BF16, "avx512bf16")


@I.ir_module
class Before:
    """A layer of floats, one of int8 with everything, attention over caches of 16 bits."""

    @R.function
    def main(
        x: R.Tensor(("n", 32), "float32"),
        cos: R.Tensor(("n", 8), "float32"),
        sin: R.Tensor(("n", 8), "float32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        k_cache: R.Tensor(("num_pages", 1, "blocks", 8, 16), "float16"),
        v_cache: R.Tensor(("num_pages", 1, "blocks", 16, 8), "float16"),
        half: R.Tensor((32, 32), "float16"),
        weight: R.Tensor((16, 16), "int8"),
        scale: R.Tensor((16,), "float32"),
        bias: R.Tensor((16,), "float32"),
        norm: R.Tensor((16,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 6, "vamc.caches": 2})
        with R.dataflow():
            qkv = R.vamc.linear(x, half, bias=False, residual=False)
            y = R.vamc.qkv_attention(
                qkv, cos, sin, positions, slots, pages, k_cache, v_cache, heads=2, kv_heads=1, head_dim=8, scale=0.5
            )
            out = R.vamc.linear(
                y, weight, scale, bias, y, norm, bias=True, residual=True, prologue="rms_norm", epsilon=0.25
            )
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor(("n", 32), "float32"),
        cos: R.Tensor(("n", 8), "float32"),
        sin: R.Tensor(("n", 8), "float32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        k_cache: R.Tensor(("num_pages", 1, "blocks", 8, 16), "float16"),
        v_cache: R.Tensor(("num_pages", 1, "blocks", 16, 8), "float16"),
        half: R.Tensor((32, 32), "float16"),
        weight: R.Tensor((16, 16), "int8"),
        scale: R.Tensor((16,), "float32"),
        bias: R.Tensor((16,), "float32"),
        norm: R.Tensor((16,), "float32"),
    ):
        R.func_attr({"vamc.activation": "bf16", "vamc.caches": 2, "vamc.inputs": 6, "vamc.wide_rows": 24})
        with R.dataflow():
            qkv = R.vamc.linear(x, half, bias=False, residual=False)
            y = R.vamc.qkv_attention(
                qkv, cos, sin, positions, slots, pages, k_cache, v_cache,
                heads=2, kv_heads=1, head_dim=8, scale=0.5, products="bfloat16",
            )  # fmt: skip
            out = R.vamc.linear(
                y, weight, scale, bias, y, norm,
                bias=True, residual=True, activation="bf16", wide_rows=24, prologue="rms_norm", epsilon=0.25,
            )  # fmt: skip
            R.output(out)
        return out


def test_bf16_is_the_default_where_the_target_has_it() -> None:
    assert_rewrites(QuantizeActivations(), Before, Expected, WITH_BF16)
    assert_rewrites(QuantizeActivations("bf16"), Before, Expected, WITH_BF16)


@pytest.mark.parametrize(
    ("one", "features"),
    [
        (QuantizeActivations(), WITHOUT_BF16),
        (QuantizeActivations("int16"), WITH_BF16),
        (QuantizeActivations("int16", wide_rows=4), WITHOUT_BF16),
    ],
)
def test_with_16_bits_nothing_changes(one: Pass, features: Collection[str]) -> None:
    assert_unchanged(one, Before, features)


def test_bf16_on_a_target_without_it_is_refused() -> None:
    with pytest.raises(UserError, match="needs a CPU with AVX512-BF16, which the target has not; say int8_g128 or"):
        apply_passes(program_of(Before), QuantizeActivations("bf16"), features=WITHOUT_BF16)


@pytest.mark.parametrize("features", [WITHOUT_BF16, WITH_BF16])
@pytest.mark.parametrize("activation", ["int8_g32", "int8_g64", "int8_g128", "int8_token"])
def test_int8_rounds_attention_too_where_the_target_can(activation: Activation, features: Collection[str]) -> None:
    program = apply_passes(program_of(Before), QuantizeActivations(activation), features=features)
    graph = Graph(program.function)
    [half, last] = [LinearCall.of(call) for _, call in graph.calls("relax.vamc.linear")]
    assert (half.activation, last.activation, last.wide_rows) == ("int16", activation, 8)
    [(_, attention)] = graph.calls("relax.vamc.qkv_attention")
    assert attention.attrs["products"] == ("bfloat16" if features is WITH_BF16 else "float32")
    assert program.function.attrs["vamc.activation"] == activation
    assert attribute(program.function, "vamc.wide_rows", 0) == 8


@I.ir_module
class Float32Cache:
    @R.function
    def main(
        q: R.Tensor(("n", 2, 8), "float32"),
        k: R.Tensor(("n", 1, 8), "float32"),
        positions: R.Tensor(("n",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        k_cache: R.Tensor(("num_pages", 1, "blocks", 8, 16), "float32"),
        v_cache: R.Tensor(("num_pages", 1, "blocks", 16, 8), "float32"),
        weight: R.Tensor((16, 8), "int8"),
        scale: R.Tensor((16,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 4, "vamc.caches": 2})
        with R.dataflow():
            y = R.vamc.cached_attention(q, k, k, positions, positions, pages, k_cache, v_cache, scale=0.5)
            out = R.vamc.linear(y, weight, scale, bias=False, residual=False)
            R.output(out)
        return out


def test_attention_over_a_float32_cache_stays() -> None:
    program = apply_passes(program_of(Float32Cache), QuantizeActivations(), features=WITH_BF16)
    [(_, attention)] = Graph(program.function).calls("relax.vamc.cached_attention")
    assert attention.attrs["products"] == "float32"


@I.ir_module
class Floats:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), w: R.Tensor((8, 8), "float16")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            out = R.vamc.linear(x, w, bias=False, residual=False)
            R.output(out)
        return out


def test_float_weights_have_no_choice() -> None:
    assert_unchanged(QuantizeActivations("int8_g128"), Floats)


@I.ir_module
class TwoLayers:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        a: R.Tensor((8, 8), "int8"),
        a_scale: R.Tensor((8,), "float32"),
        b: R.Tensor((8, 8), "int8"),
        b_scale: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, a, a_scale, bias=False, residual=False)
            out = R.vamc.linear(y, b, b_scale, bias=False, residual=False)
            R.output(out)
        return out


def two_layers() -> Program:
    """A merged weight, and a tied head."""
    sources = {
        "a": ("model.layers.7.mlp.gate_proj.weight", "model.layers.7.mlp.up_proj.weight"),
        "b": ("embed.weight",),
    }
    program = program_of(TwoLayers)
    recipes = {name: Recipe(sources[name.partition("_")[0]]) for name in program.plan}
    return Program(program.module, ParameterPlan(recipes))


@pytest.mark.parametrize(
    ("wide", "expected"),
    [
        ((), ["int8_g32", "int8_g32"]),
        (("*.up_proj",), ["int16", "int8_g32"]),
        (("*.gate_proj.weight",), ["int16", "int8_g32"]),
        (("model.layers.7.*",), ["int16", "int8_g32"]),
        (("lm_head",), ["int8_g32", "int16"]),
        (("lm_head.weight",), ["int8_g32", "int16"]),
        (("embed",), ["int8_g32", "int16"]),
        (("lm_head", "*up*"), ["int16", "int16"]),
    ],
)
def test_patterns_are_of_the_checkpoints_names(wide: tuple[str, ...], expected: list[str]) -> None:
    program = apply_passes(two_layers(), QuantizeActivations("int8_g32", wide=wide))
    layers = [LinearCall.of(call) for _, call in Graph(program.function).calls("relax.vamc.linear")]
    assert [layer.activation for layer in layers] == expected


@pytest.mark.parametrize("pattern", ["mlp", "up_proj", "*.scale", "layers.7", "LM_HEAD"])
@pytest.mark.parametrize("activation", [None, "int16", "int8_token"])
def test_a_pattern_without_a_match_is_refused(pattern: str, activation: Activation | None) -> None:
    with pytest.raises(UserError) as caught:
        apply_passes(two_layers(), QuantizeActivations(activation, wide=("lm_head", pattern)), features=WITHOUT_BF16)
    assert str(caught.value) == (
        f"quantize-activations: wide: no int8 weight has a name like {pattern!r}; there are "
        "model.layers.*.mlp.gate_proj, model.layers.*.mlp.up_proj, embed, lm_head"
    )


def test_a_second_run_gives_the_rest_another_arithmetic() -> None:
    """The first leaves down alone, the second everything else."""
    first, second = QuantizeActivations("int8_g32", wide=("lm_head",)), QuantizeActivations("int8_g64", wide=("*up*",))
    program = apply_passes(two_layers(), first, second)
    layers = [LinearCall.of(call) for _, call in Graph(program.function).calls("relax.vamc.linear")]
    assert [layer.activation for layer in layers] == ["int8_g32", "int8_g64"]


@pytest.mark.parametrize("activation", [one for one in get_args(Activation) if one != "int16"])
def test_few_rows_stay_exact_and_many_move_within_the_tolerance(activation: Activation) -> None:
    one = QuantizeActivations(activation)
    before = program_of(TwoLayers)
    after = apply_passes(before, one, features=WITH_BF16)
    tolerance = one.tolerance_for(context_for(features=WITH_BF16))
    wide_rows = default_wide_rows(activation)
    functions = Compiled(before), Compiled(after)
    for rows in (1, wide_rows, wide_rows + 1, 40):
        arguments = random_arguments(before, {"n": rows}, below=127, seed=rows)
        [want], [got] = (function(*arguments) for function in functions)
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert (0 < error < tolerance) if rows > wide_rows else error == 0


def test_wide_rows_is_an_option() -> None:
    before = program_of(TwoLayers)
    after = apply_passes(before, QuantizeActivations("int8_token", wide_rows=0))
    arguments = random_arguments(before, {"n": 1}, below=127)
    assert not np.array_equal(Compiled(before)(*arguments)[0], Compiled(after)(*arguments)[0])


def test_options_in_words() -> None:
    assert [(option.type, option.default) for option in options_of(QuantizeActivations)] == [
        ("int16, bf16, int8_g32, int8_g64, int8_g128, int8_token or null", None),
        ("a whole number or null", None),
        ("a list of text", []),
    ]
    assert make_pass(QuantizeActivations, {"activation": None, "wide": ["a"]}) == QuantizeActivations(wide=("a",))
    with pytest.raises(UserError, match=r"activation of quantize-activations must be int16, bf16, .* or null, not the"):
        make_pass(QuantizeActivations, {"activation": "int4"})


def test_a_negative_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="wide_rows is a number of rows, not -1"):
        QuantizeActivations(wide_rows=-1)


def test_tolerances_follow_the_arithmetic() -> None:
    with_bf16, without = context_for(features=WITH_BF16), context_for(features=WITHOUT_BF16)
    assert QuantizeActivations().tolerance_for(with_bf16) == 0.01
    assert QuantizeActivations().tolerance_for(without) == 0.01  # nothing happens
    assert QuantizeActivations("int8_g128").tolerance_for(without) == QuantizeActivations.tolerance
    assert QuantizeInt8().tolerance_for(without) == QuantizeInt8.tolerance


@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model(tied: bool) -> None:
    """Every layer of the model, by the names that the checkpoint has."""
    model = model_config(architecture="qwen3", layers=2, tied=tied)
    wide = ("*.down_proj", "model.layers.0.*", "lm_head")
    passes = [
        one
        for one in default_pipeline(Numbers("int8", activations=QuantizeActivations("int8_g64", wide=wide)))
        if one.stage != "lower"
    ]
    program = apply_passes(traced_program(model), *passes, dtype="int8", features=WITH_BF16)
    graph = Graph(program.function)
    chosen = {
        str(layer.weight.name).removesuffix(".weight"): layer.activation
        for layer in (LinearCall.of(call) for _, call in graph.calls("relax.vamc.linear"))
    }
    head = "model.embed_tokens" if tied else "lm_head"
    own = {f"model.layers.{i}.{name}" for i in (0, 1) for name in ("self_attn.o_proj", "mlp.down_proj")}
    merged = {
        f"model.layers.{i}.{name}"
        for i in (0, 1)
        for name in ("self_attn.q_proj+k_proj+v_proj", "mlp.gate_proj+up_proj")
    }
    assert set(chosen) == own | merged | {head}
    narrow = {name for name, activation in chosen.items() if activation == "int8_g64"}
    assert narrow == {name for name in own | merged if "layers.1" in name and "down_proj" not in name}
    assert {str(call.attrs["products"]) for _, call in graph.calls("relax.vamc.qkv_attention")} == {"bfloat16"}
    assert len(layout(program.function)[2]) == len(list(program.plan))
