"""Programs for tests of passes: made from TVMScript or a trace, compiled by reference lowerings, called on arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
import tvm
from tvm import relax

from vamc_py._tvm import compile_module
from vamc_py.check.values import to_tvm
from vamc_py.check.weights import make_weight
from vamc_py.frontend.import_relax import import_traced
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.trace import trace
from vamc_py.passes.lower_reference import LowerReference
from vamc_py.pipeline.base import Context, Pass
from vamc_py.pipeline.build import lowering
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.program import Program, layout
from vamc_py.target.description import this_machine
from vamc_py.weights.plan import Cast, ParameterPlan, Recipe

Array = np.ndarray[Any, Any]


def context_for(
    dtype: str = "fp32", *, prefill: int = 128, context: int = 128, features: Collection[str] | None = None
) -> Context:
    """A context for this machine's CPU, or for one that has these features only."""
    target = replace(this_machine(dtype), threads=2)
    if features is not None:
        target = replace(target, features=tuple(features))
    return Context(target, prefill, context)


def program_of(module: Any) -> Program:
    """A program of a TVMScript module; every weight comes from the checkpoint tensor of its own name."""
    program = Program(module, ParameterPlan())
    weights = [weight.name for weight in layout(program.function)[2]]
    plan = ParameterPlan({name: Recipe((name,), (Cast("float32"),)) for name in weights})
    return Program(module, plan)


def traced_program(config: Mapping[str, Any], *, insert_slice: bool = False) -> Program:
    """Our own model for a config.json, imported, before any pass; the same one for the same model."""
    return _traced(ModelConfig.from_hf(config), insert_slice)


@cache
def _traced(model: ModelConfig, insert_slice: bool) -> Program:
    return import_traced(trace(model, insert_slice=insert_slice))


def apply_passes(
    program: Program, *passes: Pass, dtype: str = "fp32", features: Collection[str] | None = None
) -> Program:
    """The passes one after the other, without the runner's checks; ``features`` of the CPU as in ``context_for``."""
    context = context_for(dtype, features=features)
    for one in passes:
        program = one.apply(program, context)
    return program


def assert_rewrites(one: Pass, before: Any, expected: Any, features: Collection[str] | None = None) -> None:
    """The pass turns the function of ``before`` into that of ``expected``; both are TVMScript modules."""
    after = apply_passes(program_of(before), one, features=features)
    relax.analysis.well_formed(after.module)  # raises
    # As Graph.rebuild writes functions: without renamings, with the result in a variable of its own.
    got, wanted = (Graph(program.function).rebuild() for program in (after, program_of(expected)))
    tvm.ir.assert_structural_equal(got, wanted)


def assert_unchanged(one: Pass, module: Any, features: Collection[str] | None = None) -> None:
    """The pass finds nothing to do."""
    assert_rewrites(one, module, module, features)


def operators_in(program: Program) -> Counter[str]:
    """How many calls of each operator the function has, by name without ``relax.``."""
    names = (operator_name(value) for value in Graph(program.function).values.values())
    return Counter(name.removeprefix("relax.") for name in names if name)


class Compiled:
    """A program lowered by reference and compiled for this machine, to be called on numpy arrays."""

    def __init__(self, program: Program) -> None:
        context = context_for()
        lowered = LowerReference().apply(program, context)
        target = context.target.tvm_target()
        executable = compile_module(lowered.module, target, relax_pipeline=lowering())
        self.machine = relax.VirtualMachine(executable, tvm.cpu())
        self.name = program.name
        self.parameters = list(program.function.params)

    def __call__(self, *arguments: Any) -> list[Array]:
        """One argument a parameter: numpy arrays, or tensors of TVM, which the function may change in place."""
        tensors = [tensor(argument) if isinstance(argument, np.ndarray) else argument for argument in arguments]
        result = self.machine[self.name](*tensors)
        return [result.numpy()] if hasattr(result, "numpy") else [field.numpy() for field in result]


def tensor(array: Array) -> Any:
    """A tensor of TVM with a copy of the array."""
    return to_tvm(array)


def random_arguments(
    program: Program, symbols: Mapping[str, int], *, below: int = 4, scale: float = 1.0, seed: int = 0
) -> list[Array]:
    """Arguments for every parameter: normal values times ``scale``, integers below ``below``; ``symbols`` gives the
    symbolic dimensions."""
    rng = np.random.default_rng(seed)
    arguments = []
    for parameter in program.function.params:
        shape = [symbols[str(d)] if str(d) in symbols else int(d) for d in parameter.ty.shape]
        kind = np.dtype(str(parameter.ty.dtype))
        drawn = rng.integers(0, below, shape) if kind.kind == "i" else rng.standard_normal(shape) * scale
        arguments.append(drawn.astype(kind))
    return arguments


def assert_same_results(before: Program, after: Program, symbols: Mapping[str, int], **drawn: Any) -> None:
    """Both programs, which take the same parameters, give the same values for the same random arguments."""
    arguments = random_arguments(before, symbols, **drawn)
    for left, right in zip(Compiled(before)(*arguments), Compiled(after)(*arguments), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-5, atol=2e-5)


def parameters_by_plan(program: Program, weights: Mapping[str, torch.Tensor]) -> list[Any]:
    """The function's weights, made from checkpoint tensors as the plan says."""
    names = [weight.name for weight in layout(program.function)[2]]
    return [to_tvm(make_weight(program.plan[name], lambda source: weights[source].numpy())) for name in names]


class MainModel:
    """A compiled ``main``: one sequence with its past handed in and out."""

    def __init__(self, program: Program, weights: Mapping[str, torch.Tensor]) -> None:
        self.compiled = Compiled(program)
        self.weights = parameters_by_plan(program, weights)

    def __call__(self, tokens: Array, mask: Array, positions: Array, past: Sequence[Array]) -> list[Array]:
        """tokens, positions i64 [1, n]; mask f32 [1, 1, n, p + n]; past: k, v by layer -> logits, grown past."""
        return self.compiled(tokens, mask, positions, *past, *self.weights)


class StepModel:
    """A compiled ``step`` with its caches."""

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, torch.Tensor],
        *,
        pages: Sequence[Sequence[int]] = ((0,),),
        blocks: int = 8,
        compiled: Callable[..., list[Array]] | None = None,
    ) -> None:
        """``compiled``: the program's function where it is compiled already (``compile_together``)."""
        self.compiled = compiled or Compiled(program)
        self.weights = parameters_by_plan(program, weights)
        self.pages = np.array(pages, "int32")
        count = int(self.pages.max()) + 1
        sizes = {"num_pages": count, "blocks": blocks}
        # NaN where nothing was written: reading it would show.
        self.caches = [
            tensor(np.full([sizes.get(str(d)) or int(d) for d in cache.ty.shape], np.nan, str(cache.ty.dtype)))
            for cache in layout(program.function)[1]
        ]

    def __call__(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        *,
        slots: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Array:
        """Logits f32 [m, V] of the wanted rows, all of them by default; slot 0 by default."""
        count = len(tokens)
        slots, rows = slots if slots is not None else [0] * count, rows if rows is not None else range(count)
        integers = [np.array(list(values), "int32") for values in (tokens, positions, slots, rows)]
        return self.compiled(*integers, self.pages, *self.caches, *self.weights)[0]
