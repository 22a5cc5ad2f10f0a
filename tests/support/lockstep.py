"""The programs of all ranks, run binding by binding side by side: collectives in numpy, the rest by reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from support.checks import interpreter
from tvm import relax

from vamc_py.check.values import Result, Value
from vamc_py.check.weights import make_weight
from vamc_py.pipeline.graph import bindings, operator_name, variables
from vamc_py.pipeline.program import Program, layout

Array = np.ndarray[Any, Any]
COLLECTIVES = ("relax.vamc.all_reduce", "relax.vamc.all_gather")


class Ranks:
    """A step that several ranks share, each with weights and caches of its own."""

    def __init__(
        self,
        programs: Sequence[Program],
        checkpoint: Mapping[str, Array],
        *,
        pages: Sequence[Sequence[int]] = ((0,),),
        blocks: int = 2,
    ) -> None:
        self.programs = programs
        self.pages = np.array(pages, "int32")
        sizes = {"num_pages": int(self.pages.max()) + 1, "blocks": blocks}
        self.caches, self.weights = [], []
        for program in programs:
            _, caches, weights = layout(program.function)
            shapes = [[sizes.get(str(d)) or int(d) for d in cache.ty.shape] for cache in caches]
            types = [str(cache.ty.dtype) for cache in caches]
            # NaN where nothing was written: reading it would show.
            fill = [0 if dtype == "int8" else np.nan for dtype in types]
            self.caches.append([Value(np.full(*one)) for one in zip(shapes, fill, types, strict=True)])
            made = [make_weight(program.plan[weight.name], checkpoint.__getitem__) for weight in weights]
            for weight, array in zip(weights, made, strict=True):
                assert array.shape == tuple(int(d) for d in weight.ty.shape), weight.name
                assert str(array.dtype) == str(weight.ty.dtype), weight.name
            self.weights.append([Value(array) for array in made])

    def __call__(self, tokens: Sequence[int], positions: Sequence[int], rows: Sequence[int]) -> list[Array]:
        """Logits f32 [m, V] of each rank; all tokens are of slot 0."""
        inputs = [Value(np.array(one, "int32")) for one in (tokens, positions, [0] * len(tokens), rows)]
        arguments = [
            [*inputs, Value(self.pages), *caches, *weights]
            for caches, weights in zip(self.caches, self.weights, strict=True)
        ]
        functions = [program.function for program in self.programs]
        known: list[dict[Any, Result]] = [
            dict(zip(function.params, given, strict=True)) for function, given in zip(functions, arguments, strict=True)
        ]
        for step in zip(*(bindings(function) for function in functions), strict=True):
            values = [value for _, value in step]
            [name] = {operator_name(value) for value in values}
            results = (
                _exchanged(name, values, known)
                if name in COLLECTIVES
                else [_computed(value, mine) for value, mine in zip(values, known, strict=True)]
            )
            for (var, _), mine, result in zip(step, known, results, strict=True):
                mine[var] = result
        out = [mine[function.body.body] for function, mine in zip(functions, known, strict=True)]
        return [value.array for value in out if isinstance(value, Value)]


def _exchanged(name: str, calls: Sequence[Any], known: Sequence[dict[Any, Result]]) -> list[Result]:
    assert all(int(call.attrs["ranks"]) == len(calls) for call in calls)
    given: list[list[Array]] = []
    for call, mine in zip(calls, known, strict=True):
        values = [mine[argument] for argument in call.args]
        given.append([value.array for value in values if isinstance(value, Value)])
    if name.endswith("all_gather"):
        whole = np.concatenate([x for (x,) in given], axis=-1)
        return [Value(whole[..., : call.attrs.get("columns", whole.shape[-1])].copy()) for call in calls]
    total = np.sum([x for x, *_ in given], axis=0, dtype=np.float32)
    return [Value(total + residual[0] if residual else total) for _, *residual in given]


def _computed(value: Any, known: Mapping[Any, Result]) -> Result:
    """One binding's value, as a function of the variables that it reads."""
    if isinstance(value, relax.Var):
        return known[value]
    read = list(dict.fromkeys(variables(value)))
    builder = relax.BlockBuilder()
    with builder.function("main", read):
        with builder.dataflow():
            output = builder.emit_output(builder.emit(value))
        builder.emit_func_output(output)
    module = builder.get()
    return interpreter().run(module, module["main"], [known[var] for var in read])
