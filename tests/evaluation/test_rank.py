"""The ranking of quantized weights, against their whole matrices in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_py.evaluation import rank as module
from vamc_py.evaluation.rank import QuantizedWeight, rank
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.grid import group_scales, round_to_grid
from vamc_py.weights.plan import Cast, QuantizeRows, Recipe

ROWS = WeightFormat("int8")


class Tensors:
    """A checkpoint of arrays."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.arrays = arrays
        self.shapes = {name: array.shape for name, array in arrays.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        return self.arrays[name][start:stop]


@dataclass(frozen=True)
class Ruin:
    """A step of a plan that leaves int8 values two bits."""

    rows_multiple: int = 1

    def apply(self, block: Any) -> Any:
        return (np.clip(np.rint(block / 64.0), -2, 1) * 64).astype(np.int8)


def int8_weight(name: str, tensors: tuple[str, ...], *more: Any) -> QuantizedWeight:
    plain = Recipe(tensors, (Cast("float32"),))
    return QuantizedWeight(
        name, tensors, ROWS, plain.then(QuantizeRows("values"), *more), plain.then(QuantizeRows("scale"))
    )


def random_tensors(random: np.random.Generator, *names: str, columns: int = 40) -> Tensors:
    return Tensors({n: random.normal(size=(random.integers(1, 30), columns)).astype(np.float32) for n in names})


def test_the_ruined_layer_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"layers.{i}.weight" for i in range(6)]
    tensors = random_tensors(np.random.default_rng(0), *names)
    weights = [int8_weight(name, (name,), *([Ruin()] if index == 4 else [])) for index, name in enumerate(names)]
    order = rank(weights, tensors, tensors.shapes, tensors)
    assert order[0].tensors == ("layers.4.weight",)
    assert order[0].damage > 100 * order[1].damage
    assert {(one.type, one.wider) for one in order} == {("w8a16", "fp16")}
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 80)  # two rows at a time
    again = rank(weights, tensors, tensors.shapes, tensors)
    assert [one.tensors for one in again] == [one.tensors for one in order]
    assert [one.damage for one in again] == pytest.approx([one.damage for one in order], rel=1e-12)


@given(columns=st.integers(1, 150), group=st.sampled_from([None, 32, 64]), zeros=st.booleans(), seed=st.integers(0, 99))
def test_int4_of_merged_tensors(columns: int, group: int | None, zeros: bool, seed: int) -> None:
    """Values, scales and zero points that come as tensors, in groups of which the last may be short."""
    form = WeightFormat("int4", group, zeros)
    parts = random_tensors(np.random.default_rng(seed), "q", "k", columns=columns)
    arrays: dict[str, Any] = dict(parts.arrays)
    for name, weight in parts.arrays.items():
        made = quantized(weight, form)
        arrays |= {f"{name}{ending}": part for ending, part in zip((".values", ".scale", ".zero"), made, strict=True)}
    source = Tensors(arrays)
    recipes = [Recipe(tuple(f"{name}{ending}" for name in "qk")) for ending in (".values", ".scale", ".zero")]
    weight = QuantizedWeight("q+k", ("q", "k"), form, recipes[0], recipes[1], recipes[2] if zeros else None)
    first, second = rank([weight], source, source.shapes, parts)
    whole = np.concatenate(list(parts.arrays.values()))
    assert (first.type, first.wider, second.type, second.wider) == ("w4a16", "w8a16", "w8a16", "fp16")
    assert first.damage == pytest.approx(relative_error(whole, form), rel=1e-6, abs=1e-12)
    as_int8 = min(first.damage, relative_error(whole, ROWS))
    assert second.damage == pytest.approx(as_int8, rel=1e-6, abs=1e-12)


def quantized(weight: Any, form: WeightFormat) -> tuple[Any, Any, Any]:
    columns = weight.shape[1]
    width = form.group or columns
    made = []
    for first in range(0, columns, width):
        part = weight[:, first : first + width]
        scale, zero = group_scales(part, form)
        made.append((round_to_grid(part, scale, zero, form), scale, zero if zero is not None else np.zeros(len(part))))
    values = np.concatenate([one[0] for one in made], axis=1)
    scale, zero = (np.stack([one[i] for one in made], axis=1) for i in (1, 2))
    return (values, scale, zero) if form.group else (values, scale[:, 0], zero[:, 0])


def relative_error(weight: Any, form: WeightFormat) -> float:
    values, scale, zero = quantized(weight, form)
    wide = weight.astype(np.float64)
    error = form.dequantize(values, scale, zero if form.zeros else None).astype(np.float64) - wide
    return float((error**2).sum() / (wide**2).sum())


def test_weights_that_come_quantized_are_left_out() -> None:
    tensors = random_tensors(np.random.default_rng(1), "a", "b", "c")
    weights = [int8_weight("ab", ("a", "b")), int8_weight("c", ("c",))]
    assert [one.tensors for one in rank(weights, tensors, tensors.shapes, tensors, kept={"b"})] == [("c",)]


def test_zeros_have_no_error() -> None:
    tensors = Tensors({"a": np.zeros((3, 5), np.float32)})
    assert [one.damage for one in rank([int8_weight("a", ("a",))], tensors, tensors.shapes, tensors)] == [0.0]
