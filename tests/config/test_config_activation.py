"""frontend.quantize.activation and .wide: what is refused, where, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from vamc_py.activation import Activation
from vamc_py.config import LoadedConfig, check_activation, check_compilable, check_wide, load_text
from vamc_py.config.patterns import matches
from vamc_py.errors import ConfigError
from vamc_py.passes.quantize_activations import QuantizeActivations
from vamc_py.pipeline.resolve import resolve_pipeline

TEXT = """\
name: small
frontend:
  checkpoint: models/small
  shape:
    input_ids: [[512], [2048]]
  quantize:
    activation: {activation}
    wide: {wide}
backend:
  type: tvm_llvm
  dtype: int8
"""
NAMES = ["model.embed_tokens.weight", *(f"model.layers.{i}.mlp.down_proj.weight" for i in range(11))]


def load(activation: str = "null", wide: str = "[]", *overrides: str) -> LoadedConfig:
    return load_text(TEXT.format(activation=activation, wide=wide), Path("c.yaml"), overrides)


def faults(loaded: LoadedConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_compilable(loaded)
    return caught.value.faults


@pytest.mark.parametrize(
    ("activation", "overrides", "kept"),
    [
        ("int8_g64", (), ("lm_head",)),
        ("int8_token", (), ("lm_head",)),
        ("int8_g64", ("frontend.quantize.lm_head=false",), ()),  # its weight is no int8 then
        ("bf16", (), ()),
        ("int16", (), ()),
        ("null", (), ()),
    ],
)
def test_lm_head_stays_wide_beside_int8_by_default(
    activation: Activation, overrides: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    loaded = load(activation, "null", *overrides)
    check_compilable(loaded)
    [chosen] = [step.one for step in resolve_pipeline(loaded) if isinstance(step.one, QuantizeActivations)]
    assert chosen.wide == kept


@pytest.mark.parametrize("activation", ["null", "int16", "bf16", "int8_g32", "int8_g64", "int8_g128", "int8_token"])
def test_reaches_the_pass(activation: Activation) -> None:
    wide = () if activation == "int16" else ("lm_head", "*.down_proj")
    loaded = load(activation, str(list(wide)))
    check_compilable(loaded)
    [one] = [step.one for step in resolve_pipeline(loaded) if isinstance(step.one, QuantizeActivations)]
    assert one == QuantizeActivations(None if activation == "null" else activation, wide=wide)


def test_left_out_means_the_default_of_the_pass() -> None:
    loaded = load_text(TEXT.partition("  quantize:")[0] + "backend: {type: tvm_llvm, dtype: int8}\n", Path("c.yaml"))
    assert QuantizeActivations() in [step.one for step in resolve_pipeline(loaded)]


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize(("key", "value"), [("activation", "int8_g64"), ("wide", '["lm_head"]')])
def test_float_weights_have_no_choice(dtype: str, key: str, value: str) -> None:
    arguments = (value, "[]") if key == "activation" else ("null", value)
    loaded = load(*arguments, f"backend.dtype={dtype}")
    line = 7 if key == "activation" else 8
    column = 5 + len(key) + 2
    assert faults(loaded) == [
        f"c.yaml:{line}:{column}: frontend.quantize.{key}: contradicts backend.dtype {dtype}, which keeps "
        "floating-point weights; --set backend.dtype=int8, or --set frontend.quantize=null"
    ]
    assert not any(isinstance(step.one, QuantizeActivations) for step in resolve_pipeline(loaded))


def test_exceptions_from_nothing() -> None:
    assert faults(load("int16", '["lm_head"]')) == [
        "c.yaml:8:11: frontend.quantize.wide: says nothing beside activation int16, which keeps 16 bits for all "
        "weights; remove it, or choose another activation"
    ]


def test_bf16_needs_a_target_that_has_it() -> None:
    for activation in ("null", "int16", "int8_token"):
        check_activation(load(activation), bf16=False)
    check_activation(load("bf16"), bf16=True)
    with pytest.raises(ConfigError) as caught:
        check_activation(load("bf16"), bf16=False)
    assert caught.value.faults == [
        "c.yaml:7:17: frontend.quantize.activation: the activation bf16 needs a CPU with AVX512-BF16, which the target "
        "has not; say int8_g128 or int16"
    ]


def test_an_unknown_activation_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load("int8_g256")
    [fault] = caught.value.faults
    assert fault.startswith("c.yaml:7:17: frontend.quantize.activation: ")
    assert "int8_g128" in fault


@pytest.mark.parametrize("wide", ["lm_head", '[""]', "[3]"])
def test_wide_is_a_list_of_texts(wide: str) -> None:
    with pytest.raises(ConfigError, match=r"frontend\.quantize\.wide"):
        load("bf16", wide)


@pytest.mark.parametrize(
    ("wide", "tied", "overrides"),
    [
        ('["*.down_proj", "model.layers.1?.*", "lm_head.weight"]', False, ()),
        ('["*down*", "lm_head", "model.embed_tokens"]', True, ()),
        ('["*.down_proj.weight"]', False, ("frontend.quantize.lm_head=false",)),
    ],
)
def test_patterns_of_the_models_weights(wide: str, tied: bool, overrides: tuple[str, ...]) -> None:
    check_wide(load("bf16", wide, *overrides), NAMES, tied=tied)


@pytest.mark.parametrize(
    ("pattern", "tied", "overrides", "known"),
    [
        ("down_proj", False, (), "model.layers.*.mlp.down_proj, lm_head"),
        ("model.layers.11.*", True, (), "model.embed_tokens, model.layers.*.mlp.down_proj, lm_head"),
        ("model.embed_tokens", False, (), "model.layers.*.mlp.down_proj, lm_head"),  # no linear layer reads it
        ("lm_head", True, ("frontend.quantize.lm_head=false",), "model.layers.*.mlp.down_proj"),
    ],
)
def test_a_pattern_without_a_match_is_refused_at_its_place(
    pattern: str, tied: bool, overrides: tuple[str, ...], known: str
) -> None:
    loaded = load("null", f'["*.down_proj", "{pattern}"]', *overrides)
    with pytest.raises(ConfigError) as caught:
        check_wide(loaded, NAMES, tied=tied)
    assert caught.value.faults == [
        f"c.yaml:8:27: frontend.quantize.wide[1]: no int8 weight has a name like {pattern!r}; there are {known}"
    ]


def test_patterns_fit_whole_names() -> None:
    assert matches("lm_head", "lm_head.weight")
    assert matches("*.0.*", "model.layers.0.mlp.up_proj.weight")
    assert not matches("*.0.*", "model.layers.10.mlp.up_proj.weight")
    assert not matches("up_proj", "model.layers.0.mlp.up_proj.weight")
    assert not matches("LM_HEAD", "lm_head.weight")


def test_vacc_heeds_them() -> None:
    loaded = load("int8_g128", '["*.down_proj"]', "backend.type=tvm_vacc")
    assert loaded.notices == ()
    [one] = [planned.one for planned in resolve_pipeline(loaded) if isinstance(planned.one, QuantizeActivations)]
    assert (one.activation, one.wide) == ("int8_g128", ("*.down_proj",))
    in_float16 = resolve_pipeline(load("int16", "[]", "backend.type=tvm_vacc"))
    assert not any(isinstance(planned.one, QuantizeActivations) for planned in in_float16)
