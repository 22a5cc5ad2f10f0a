"""Which quantized weights are worst: their error against the checkpoint's own numbers, block by block."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vamc_py.evaluation.gate import Widening
from vamc_py.weights.execute import BLOCK_ELEMENTS, TensorSource, made_rows
from vamc_py.weights.formats import SCALE, ZERO, Floats, WeightFormat
from vamc_py.weights.grid import group_scales, round_to_grid
from vamc_py.weights.plan import Array, Recipe
from vamc_py.weights.source import VALUES

INT8, FLOAT = "w8a16", "fp16"
_TYPES = {"int4": "w4a16", "int8": INT8}  # by the values of a format; the widest comes last
_INT8_ROWS = WeightFormat("int8")


@dataclass(frozen=True)
class QuantizedWeight:
    """A quantized parameter before it is packed, and how it is made from the tensors of the checkpoint."""

    name: str
    tensors: tuple[str, ...]  # names in the checkpoint, one below the other
    form: WeightFormat
    values: Recipe
    scale: Recipe
    zero: Recipe | None = None


def quantized_weights(program: Any) -> list[QuantizedWeight]:
    """The int4 and int8 weights of the linear layers and embeddings of a program whose weights are not packed yet."""
    from vamc_py.pipeline.graph import Graph

    graph, planned = Graph(program.function), set(program.plan)
    found: dict[str, QuantizedWeight] = {}
    for operator in ("relax.vamc.linear", "relax.vamc.embedding"):
        for _, call in graph.calls(operator):
            name, dtype = getattr(call.args[1], "name", ""), str(call.args[1].ty.dtype)
            if dtype != "int8" or name in found or name not in planned:
                continue
            attributes = call.attrs if operator == "relax.vamc.linear" else {}
            form = WeightFormat(
                "int4" if int(attributes.get("bits", 8)) == 4 else "int8",
                int(attributes.get("group", 0)) or None,
                bool(attributes.get("zeros", False)),
            )
            values, scale = program.plan[name], program.plan[name + SCALE]
            zero = program.plan[name + ZERO] if form.zeros else None
            tensors = tuple(source.removesuffix(VALUES) for source in values.sources)
            found[name] = QuantizedWeight(name, tensors, form, values, scale, zero)
    return list(found.values())


def rank(
    weights: Sequence[QuantizedWeight],
    source: TensorSource,
    shapes: Mapping[str, Sequence[int]],
    original: TensorSource,
    kept: Collection[str] = (),
    progress: Callable[[Sequence[QuantizedWeight]], Iterator[QuantizedWeight]] = iter,
) -> list[Widening]:
    """The widenings of the weights, the worst first: int4 may become int8, and int8 16-bit floats.

    The damage is the relative squared error |W' - W|^2 / |W|^2 of the dequantized weight, which is that of the layer's
    output for inputs that point in all directions alike. It knows nothing of real inputs, nor of how much a layer
    matters; it does see a layer that is off by more than its type explains. ``source`` (``shapes``: its tensors) is
    what the recipes read, ``original`` the checkpoint's own weights as floats. Weights that consist of tensors in
    ``kept`` are left out: they come quantized, so they are exact. Rows are read block by block.
    """
    found: list[Widening] = []
    for weight in progress([one for one in weights if not set(one.tensors) & set(kept)]):
        now, as_int8 = _errors(weight, source, shapes, original)
        if weight.form.values == "int4":
            found.append(Widening(weight.tensors, _TYPES["int4"], INT8, now))
        # Not above the first: the second step of a group comes behind it.
        found.append(Widening(weight.tensors, INT8, FLOAT, min(now, as_int8)))
    return sorted(found, key=lambda one: -one.damage)  # stable: of equal ones, the narrower type's stands first


def _errors(
    weight: QuantizedWeight, source: TensorSource, shapes: Mapping[str, Sequence[int]], original: TensorSource
) -> tuple[float, float]:
    """Relative squared errors of the weight as it is, and as it is where it is int8, else as int8 would make it."""
    whole = own = wider = 0.0
    for floats, made in _blocks(weight, source, shapes, original):
        whole += _square(floats)
        own += _square(made - floats)
        wider += _square(_as_int8(floats) - floats) if weight.form.values == "int4" else 0.0
    return (own / whole, (wider if weight.form.values == "int4" else own) / whole) if whole else (0.0, 0.0)


def _blocks(
    weight: QuantizedWeight, source: TensorSource, shapes: Mapping[str, Sequence[int]], original: TensorSource
) -> Iterator[tuple[Floats, Floats]]:
    """The checkpoint's rows in float32, and the same rows quantized and dequantized."""
    rows = sum(int(shapes[name][0]) for name in weight.tensors)
    length = max(1, BLOCK_ELEMENTS // int(shapes[weight.tensors[0]][1]))
    plain = Recipe(weight.tensors)

    def made(recipe: Recipe, tensors: TensorSource, first: int) -> Array:
        return made_rows(recipe, tensors, shapes, first, min(first + length, rows), weight.name)

    for first in range(0, rows, length):
        zero = made(weight.zero, source, first) if weight.zero is not None else None
        values, scale = made(weight.values, source, first), made(weight.scale, source, first)
        yield made(plain, original, first).astype(np.float32), weight.form.dequantize(values, scale, zero)


def _as_int8(floats: Floats) -> Floats:
    scale, zero = group_scales(floats, _INT8_ROWS)
    return _INT8_ROWS.dequantize(round_to_grid(floats, scale, zero, _INT8_ROWS), scale)


def _square(values: Floats) -> float:
    return float(np.square(values, dtype=np.float64).sum())
