"""Linear layers as commands, in every format of weights, against the operator's reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.vacc_steps import PREFILL, Array, Emitted, Reference, Step, references, use_least_decisions, uses, worst_of

from vamc_py import dialect
from vamc_py.activation import Activation, columns_per_scale
from vamc_py.errors import UserError

FLOAT16 = 1e-3
"""Of the largest value of a row: inputs and weights are rounded to float16, and products add up."""
TOKENS = np.random.default_rng(1).permutation(PREFILL).tolist()


@dataclass(frozen=True)
class Case:
    """A linear layer over an embedding of `depth` features."""

    name: str
    weight: str = "float16"
    depth: int = 80
    columns: int = 112
    scale: str | None = None
    group: int = 0
    zeros: bool = False
    bits: int = 8
    bias: bool = False
    residual: bool = False
    norm: bool = False
    activation: Activation = "int16"
    more: dict[str, Any] = field(default_factory=dict)

    def weights(self) -> dict[str, Array]:
        rng = np.random.default_rng(len(self.name))
        shape = (self.columns, self.depth)
        groups = (self.columns, -(-self.depth // self.group)) if self.group else (self.columns,)
        made = {"table": rng.standard_normal((PREFILL, self.depth)).astype(np.float32)}
        if self.weight == "int8":
            high = 8 if self.bits == 4 else 128
            made["weight"] = rng.integers(-high + 1, high, shape).astype(np.int8)
        else:
            made["weight"] = (rng.standard_normal(shape) * 0.2).astype(ml_dtypes.finfo(self.weight).dtype)
        if self.scale:
            of_integers = {4: 8, 8: 99}[self.bits] if self.weight == "int8" else 1
            made["scale"] = (rng.uniform(0.5, 2, groups) / of_integers).astype(self.scale)
        if self.zeros:
            made["zero"] = rng.integers(-4, 5, groups).astype(np.int8)
        if self.bias:
            made["bias"] = rng.standard_normal(self.columns).astype(np.float32)
        if self.norm:
            made["norm"] = rng.uniform(0.5, 2, self.depth).astype(np.float32)
        return made

    def step(self) -> Step:
        def emit(v: SimpleNamespace) -> Any:
            x = v.bind(dialect.embedding(v.tokens, v.table))
            names = ["weight", "scale", "zero", "bias", "norm"]
            optional = [getattr(v, name) for name in names[1:4] if hasattr(v, name)]
            optional += [x] if self.residual else []
            optional += [v.norm] if self.norm else []
            return dialect.linear(
                x, v.weight, *optional, bias=self.bias, residual=self.residual, bits=self.bits, group=self.group,
                zeros=self.zeros, activation=self.activation, prologue="rms_norm" if self.norm else "none",
                epsilon=1e-6, **self.more,
            )  # fmt: skip

        return Step.of(emit, self.weights())


CASES = [
    Case("float16", bias=True, norm=True),
    Case("float16 of odd sizes", depth=77, columns=50, bias=True),
    Case("float16 with residual", columns=80, residual=True, norm=True),
    Case("int8", "int8", scale="float32", bias=True, norm=True),
    Case("float8 of rows with float16 scales", "float8_e4m3fn", scale="float16"),
    Case("int8 of a row with zeros", "int8", scale="float32", zeros=True),
    Case("int8 of groups", "int8", scale="float16", group=32, bias=True),
    Case("int8 of groups with zeros", "int8", scale="float32", group=32, zeros=True, columns=50),
    Case("int4 of groups", "int8", scale="float16", group=32, bits=4, norm=True),
    Case("int4 of groups with zeros", "int8", scale="float32", group=16, zeros=True, bits=4, depth=77),
    Case("int4 of rows", "int8", scale="float32", bits=4, columns=80, residual=True),
    Case("float8", "float8_e4m3fn", scale="float32"),
    Case("float8 of groups", "float8_e4m3fn", scale="float16", group=32, columns=50, bias=True),
]


SMALL = [
    Case("small float16", depth=96, columns=96, bias=True, residual=True, norm=True),
    Case("small int8", "int8", depth=96, columns=96, scale="float32", residual=True),
    Case("small groups", "int8", depth=96, columns=80, scale="float16", group=32, zeros=True, bits=4),
]
ACTIVATIONS: list[Activation] = ["int8_g32", "int8_g64", "int8_g128", "int8_token"]


def integers(activation: Activation) -> Case:
    """Products of int8 in prefill; decoding has at most 8 rows."""
    return Case(activation, "int8", scale="float32", bias=True, norm=True, activation=activation, more={"wide_rows": 8})


GATED: list[tuple[int, Activation]] = [(112, "int16"), (112, "int8_token"), (144, "int8_g32"), (144, "int8_g128")]


@pytest.fixture(scope="module")
def steps() -> dict[str, Step]:
    """Every step that is compared with its reference."""
    made = {case.name: case.step() for case in (*CASES, *map(integers, ACTIVATIONS), *SMALL)}
    return made | {f"swiglu {columns} {activation}": gated(columns, activation) for columns, activation in GATED}


@pytest.fixture(scope="module")
def reference(steps: dict[str, Step]) -> dict[str, Reference]:
    return dict(zip(steps, references(list(steps.values())), strict=True))


def check(step: Step, reference: Reference, folder: Path, **device: int) -> Emitted:
    """Both stages against the reference."""
    emitted = step.emitted(folder, **device)
    worst_of(emitted.prefill(TOKENS), reference(TOKENS, 0), FLOAT16)
    worst_of(emitted.decode(TOKENS[3], 9)[None], reference(TOKENS[3:4], 9), FLOAT16)
    return emitted


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_every_format(name: str, steps: dict[str, Step], reference: dict[str, Reference], tmp_path: Path) -> None:
    check(steps[name], reference[name], tmp_path)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_int8_activations(name: str, steps: dict[str, Step], reference: dict[str, Reference], tmp_path: Path) -> None:
    emitted = check(steps[name], reference[name], tmp_path)
    assert uses(emitted, "prefill") == {"mma_i8"}
    assert uses(emitted, "decode") == {"mma_f16"}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_products_of_int8_are_exact(activation: Activation, tmp_path: Path) -> None:
    """Bit by bit: integers are summed exactly, and each group of columns is scaled and added in float32 in order."""
    case = Case(activation, "int8", 144, 48, scale="float32", bias=True, activation=activation, more={"wide_rows": 0})
    weights = case.weights()
    x, weight = weights["table"][TOKENS], weights["weight"].astype(np.int64)
    group = columns_per_scale(activation, case.depth)
    assert group is not None
    total = np.zeros((PREFILL, case.columns), np.float32)
    for first in range(0, case.depth, group):
        part = x[:, first : first + group]
        scale = np.abs(part).max(1, keepdims=True) / np.float32(127)
        integers = np.rint(part / scale).astype(np.int64)
        total = total + (integers @ weight[:, first : first + group].T).astype(np.float32) * scale
    expected = total * weights["scale"] + weights["bias"]
    emitted = case.step().emitted(tmp_path)
    np.testing.assert_array_equal(emitted.prefill(TOKENS), expected)
    np.testing.assert_array_equal(emitted.decode(TOKENS[5], 0), expected[5])


def gated(columns: int = 112, activation: Activation = "int16", depth: int = 80) -> Step:
    """silu(gate) * up between two layers of int8 weights, the first with a norm, the second with a residual."""
    rng = np.random.default_rng(columns)

    def layer(name: str, *shape: int) -> dict[str, Array]:
        scale = rng.uniform(0.5, 2, shape[0]).astype(np.float32) / 300
        return {name: rng.integers(-127, 128, shape).astype(np.int8), f"{name}_scale": scale}

    weights = {
        "table": rng.standard_normal((PREFILL, depth)).astype(np.float32),
        "norm": rng.uniform(0.5, 2, depth).astype(np.float32),
        **layer("gate_up", 2 * columns, depth),
        **layer("down", depth, columns),
    }
    numbers = {} if activation == "int16" else {"activation": activation, "wide_rows": 4}

    def emit(v: SimpleNamespace) -> Any:
        x = v.bind(dialect.embedding(v.tokens, v.table))
        norm: dict[str, Any] = {"prologue": "rms_norm", "epsilon": 1e-6, **numbers}
        both = v.bind(dialect.linear(x, v.gate_up, v.gate_up_scale, v.norm, **norm))
        return dialect.linear(both, v.down, v.down_scale, x, residual=True, prologue="swiglu", **numbers)

    return Step.of(emit, weights)


@pytest.mark.parametrize("name", [f"swiglu {columns} {activation}" for columns, activation in GATED])
def test_swiglu(name: str, steps: dict[str, Step], reference: dict[str, Reference], tmp_path: Path) -> None:
    check(steps[name], reference[name], tmp_path)


@pytest.mark.parametrize("name", [*(case.name for case in SMALL), "swiglu 112 int16", "swiglu 144 int8_g32"])
def test_everything_goes_through_ddr(
    name: str,
    steps: dict[str, Step],
    reference: dict[str, Reference],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the narrowest tiles: values between layers lie in DDR, the left factor comes in blocks of 16 rows."""
    roomy = steps[name].written(cores=3)[0].stages["prefill"].program
    use_least_decisions(monkeypatch)
    [die] = check(steps[name], reference[name], tmp_path, cores=3).written
    least = die.stages["prefill"].program
    assert [one.name for one in roomy.tensors if one.role == "scratch"] == []
    assert [one.size > PREFILL * 80 * 4 for one in least.tensors if one.role == "scratch"] == [True]
    assert len(least.commands) > 2 * len(roomy.commands)


def test_what_fits_no_tiling_is_refused() -> None:
    message = (
        r"^prefill of 32 tokens does not fit the memory of made in any tiling: [0-9]+ bytes of SSRAM are needed at a "
        r"time, 8192 are there; most by .*; name a shorter prefill or context \(frontend.shape.input_ids\), more dies"
    )
    with pytest.raises(UserError, match=message):
        gated().written(ssram=8192)


def test_weights_that_do_not_fit_ddr_are_refused() -> None:
    made = Case("float16").step()
    [die] = made.written()
    needed = max(written.program.ddr_bytes for written in die.stages.values())
    made.written(ddr=needed)
    with pytest.raises(UserError, match=f"^a die's weights and caches take [0-9]+ bytes, made has {needed // 2} "):
        made.written(ddr=needed // 2)
