"""Passes with one fault each, as a slip in writing a pass would leave it; a check has to find and name them.

Those that work on a finished graph stand behind the genuine pass; the others take its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from vamc_py.dialect import linear, rms_norm, swiglu
from vamc_py.dialect.attention import attention
from vamc_py.passes.fuse_residual import FuseResidual
from vamc_py.passes.kv_cache_layout import KvCacheLayout
from vamc_py.passes.merge_linear import MergeLinear
from vamc_py.passes.quantize_int8 import QuantizeInt8
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.matching import shape
from vamc_py.pipeline.program import Program
from vamc_py.weights.plan import Array, Recipe


@dataclass(frozen=True)
class DroppedBias(Pass):
    """Linear layers lose their bias."""

    name: ClassVar[str] = "dropped-bias"
    stage: ClassVar[Stage] = "raise"
    after: ClassVar[tuple[str, ...]] = ("raise-linear",)

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.linear"):
            if call.attrs["bias"]:
                graph.replace(var, linear(call.args[0], call.args[1]))
        return program.with_function(graph.rebuild())


@dataclass(frozen=True)
class SwappedHalves(Pass):
    """The rotation turns the halves of a head the other way round."""

    name: ClassVar[str] = "swapped-halves"
    stage: ClassVar[Stage] = "raise"
    after: ClassVar[tuple[str, ...]] = ("raise-rotary",)

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.rotary"):
            sin = graph.bind(relax.op.negative(call.args[2]), "opposite")
            graph.replace(var, relax.Call(call.op, [call.args[0], call.args[1], sin], call.attrs, call.ty_args))
        return program.with_function(graph.rebuild())


@dataclass(frozen=True)
class MaskIsLeftOut(Pass):
    """Every token sees the tokens behind it."""

    name: ClassVar[str] = "mask-is-left-out"
    stage: ClassVar[Stage] = "raise"
    after: ClassVar[tuple[str, ...]] = ("raise-attention",)

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.attention"):
            none = graph.bind(relax.op.multiply(call.args[3], relax.const(0.0, "float32")), "none")
            graph.replace(var, attention(*call.args[:3], none, scale=call.attrs["scale"]))
        return program.with_function(graph.rebuild())


@dataclass(frozen=True)
class PositionsOffByOne(KvCacheLayout):
    """A token attends up to the position before its own, and is written there."""

    def apply(self, program: Program, context: Context) -> Program:
        program = super().apply(program, context)
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.cached_attention"):
            arguments = list(call.args)
            shifted = graph.bind(relax.op.subtract(arguments[3], relax.const(1, "int32")), "before")
            arguments[3] = graph.bind(relax.op.maximum(shifted, relax.const(0, "int32")), "shifted")
            graph.replace(var, relax.Call(call.op, arguments, call.attrs, call.ty_args))
        return program.with_function(graph.rebuild())


@dataclass(frozen=True)
class OtherSlot(KvCacheLayout):
    """All sequences are kept in the slot of the last token: right as long as there is one sequence."""

    def apply(self, program: Program, context: Context) -> Program:
        program = super().apply(program, context)
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.cached_attention"):
            arguments = list(call.args)
            n = shape(arguments[4])[0]
            last = relax.op.strided_slice(arguments[4], axes=[0], begin=[n - 1], end=[n], assume_inbound=True)
            arguments[4] = graph.bind(relax.op.broadcast_to(graph.bind(last, "last_slot"), [n]), "one_slot")
            graph.replace(var, relax.Call(call.op, arguments, call.attrs, call.ty_args))
        return program.with_function(graph.rebuild())


@dataclass(frozen=True)
class RollRows:
    """The step of the parameter plan that moves each row to the next place."""

    rows_multiple: int = 1

    def apply(self, block: Array) -> Array:
        """Same shape and type."""
        return np.roll(block, 1, axis=0)


@dataclass(frozen=True)
class ScalesOffByOne(QuantizeInt8):
    """Rows are multiplied with the scale of their neighbour, in weights that have ``only`` in their name."""

    only: str = ""

    def apply(self, program: Program, context: Context) -> Program:
        program = super().apply(program, context)
        scales = [name for name in program.plan if name.endswith(".scale") and self.only in name]
        recipes = {name: program.plan[name].then(RollRows()) for name in scales}
        return program.with_function(program.function, plan=program.plan.with_recipes(recipes))


@dataclass(frozen=True)
class OtherEpsilon(Pass):
    """The norms' epsilon is not that of the model."""

    epsilon: float = 0.05

    name: ClassVar[str] = "other-epsilon"
    stage: ClassVar[Stage] = "raise"
    after: ClassVar[tuple[str, ...]] = ("raise-rms-norm",)

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.rms_norm"):
            graph.replace(var, rms_norm(*call.args, epsilon=self.epsilon))
        return program.with_function(graph.rebuild())


@dataclass(frozen=True)
class UpIsGate(Pass):
    """SwiGLU takes gate for up and up for gate."""

    name: ClassVar[str] = "up-is-gate"
    stage: ClassVar[Stage] = "raise"
    after: ClassVar[tuple[str, ...]] = ("raise-swiglu",)

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.swiglu"):
            graph.replace(var, swiglu(call.args[1], call.args[0]))
        return program.with_function(graph.rebuild())


@dataclass(frozen=True)
class OtherResidual(FuseResidual):
    """The second residual sum of a layer takes the values from before the first."""

    def apply(self, program: Program, context: Context) -> Program:
        program = super().apply(program, context)
        graph = Graph(program.function)
        sums = [(var, call) for var, call in graph.calls("relax.vamc.linear") if call.attrs["residual"]]
        for (_, first), (var, second) in zip(sums[::2], sums[1::2], strict=True):
            arguments = [*second.args[:-1], first.args[-1]]
            graph.replace(var, relax.Call(second.op, arguments, second.attrs, second.ty_args))
        return program.with_function(graph.rebuild())


@dataclass(frozen=True)
class ValuesAreKeys(MergeLinear):
    """The merged weights hold v where the split takes k."""

    def apply(self, program: Program, context: Context) -> Program:
        program = super().apply(program, context)
        recipes = {
            name: Recipe((recipe.sources[0], recipe.sources[2], recipe.sources[1]), recipe.steps)
            for name, recipe in program.plan.recipes.items()
            if len(recipe.sources) == 3
        }
        return program.with_function(program.function, plan=program.plan.with_recipes(recipes))


@dataclass(frozen=True)
class HeadsInterleaved(Pass):
    """Query heads read the key and value heads in turn instead of in groups."""

    name: ClassVar[str] = "heads-interleaved"
    stage: ClassVar[Stage] = "raise"
    after: ClassVar[tuple[str, ...]] = ("raise-attention",)

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.attention"):
            repeats = int(shape(call.args[0])[2]) // int(shape(call.args[1])[2])
            k, v = (self._in_turn(graph, x, repeats) for x in call.args[1:3])
            graph.replace(var, attention(call.args[0], k, v, call.args[3], scale=call.attrs["scale"]))
        return program.with_function(graph.rebuild())

    @staticmethod
    def _in_turn(graph: Graph, x: Any, repeats: int) -> Any:
        return graph.bind(relax.op.concat([x] * repeats, axis=2), "in_turn")


@dataclass(frozen=True)
class UnderOtherNames(Pass):
    """Every binding has another name, and the first norm of a layer is left out."""

    name: ClassVar[str] = "under-other-names"
    stage: ClassVar[Stage] = "raise"
    after: ClassVar[tuple[str, ...]] = ("raise-rms-norm",)

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        new: dict[Any, Any] = {}
        for var, value in list(graph.values.items()):
            renamed = value
            if isinstance(value, relax.Call):
                reads = [new.get(x, x) if isinstance(x, relax.Var) else _renamed(x, new) for x in value.args]
                renamed = relax.Call(value.op, reads, value.attrs, value.ty_args)
            if operator_name(value) == "relax.vamc.rms_norm" and "input_layernorm" in str(value.args[1].name):
                renamed = relax.op.multiply(reads[0], relax.const(0.5, "float32"))
            if not isinstance(value, relax.Tuple):
                new[var] = graph.bind(renamed, f"other_{len(new)}")
        outputs = [new[output] for output in graph.outputs()]
        return program.with_function(graph.rebuild(outputs=outputs))


def _renamed(expression: Any, new: dict[Any, Any]) -> Any:
    if isinstance(expression, relax.Tuple):
        return relax.Tuple([new.get(field, field) for field in expression.fields])
    return expression


@dataclass(frozen=True)
class Unrunnable(Pass):
    """SwiGLU becomes a call of a function that nobody has."""

    name: ClassVar[str] = "unrunnable"
    stage: ClassVar[Stage] = "raise"
    after: ClassVar[tuple[str, ...]] = ("raise-swiglu",)

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.swiglu"):
            graph.replace(var, relax.op.call_dps_packed("nobody.has.this", list(call.args), call.ty))
        return program.with_function(graph.rebuild())
