"""flatten-batch: the batch dimension of one goes, tokens become rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax

from vamc_py.errors import UserError
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph, operator_name, variables
from vamc_py.pipeline.matching import ELEMENTWISE, shape, static
from vamc_py.pipeline.program import Program

# Operators that work on each token alone: they run on rows as they are.
_DIALECT = {
    f"relax.vamc.{name}"
    for name in (
        "linear", "rms_norm", "rotary", "rotary_angles", "swiglu", "select_rows", "cached_attention", "embedding",
    )
}  # fmt: skip


@dataclass(frozen=True)
class FlattenBatch(Pass):
    """Gives every ``[1, n, …]`` value of ``step`` the shape ``[n, …]``.

    An operator that the pass does not know runs as before, between two reshapes.
    """

    name: ClassVar[str] = "flatten-batch"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("kv-cache-layout", "dense-kv-cache")
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((9, 8), "float32"),
        norm: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        n = T.int64()
        with R.dataflow():
            x = R.vamc.embedding(R.reshape(tokens, R.shape([1, n])), table)
            out = R.add(x, R.vamc.rms_norm(x, norm, epsilon=1e-6))
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        if isinstance(program.function.ret_ty, relax.TupleType):
            raise UserError(
                "flatten-batch takes the step of a model, but nothing has made one of main: leave kv-cache-layout and "
                "dense-kv-cache on, or put a pass of your own there that does it"
            )
        return program.with_function(_Flattener(Graph(program.function)).run())


class _Flattener:
    """``flat`` holds, for each old variable of shape [1, …], its new expression of shape […]."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.flat: dict[Any, Any] = {}
        self.kept: set[Any] = set()  # old variables that still compute: their flat form is a view of them

    def run(self) -> Any:
        for var in list(self.graph.values):
            value = self.graph.values[var]
            if isinstance(value, relax.Call):
                self._visit(var, value)
            elif isinstance(value, relax.TupleGetItem) and value.tuple_value in self.flat:
                self.flat[var] = self.graph.bind(relax.TupleGetItem(self.flat[value.tuple_value], value.index))
            else:
                self._restore(value)
        (logits,) = self.graph.outputs()
        return self.graph.rebuild(outputs=[self.flat.get(logits, logits)])

    def _visit(self, var: Any, call: Any) -> None:
        name = operator_name(call)
        if not _has_batch(var) and not (name in _DIALECT and _is_tuple_with_batch(var)):
            if name == "relax.reshape" and call.args[0] in self.flat:
                self.graph.replace(var, relax.op.reshape(self.flat[call.args[0]], shape(var)))
            else:
                self._restore(call)
            return
        rule = _RULES.get(name)
        new = rule(self, call) if rule else None
        if new is None and name in _DIALECT | ELEMENTWISE:
            arguments = [self._flat_argument(argument, call) for argument in call.args]
            new = relax.Call(call.op, arguments, call.attrs, call.ty_args)
        if new is None:
            self._restore(call)
            self.kept.add(var)
            new = relax.op.reshape(var, shape(var)[1:])
        self.flat[var] = self.graph.bind(new, var.name)

    def _flat_argument(self, argument: Any, call: Any) -> Any:
        if isinstance(argument, relax.Var) and argument in self.flat:
            return self.flat[argument]
        # A parameter of the dialect's operators is a weight: [1, …] is its own shape. Beside a value with a batch
        # dimension it is broadcast, and must not bring the dimension back.
        computed = isinstance(argument, relax.Var) and argument in self.graph.values
        broadcast = operator_name(call) in ELEMENTWISE and len(shape(argument)) == len(shape(call))
        if _has_batch(argument) and (computed or broadcast):
            return self.graph.bind(relax.op.reshape(argument, shape(argument)[1:]))
        return argument

    def _restore(self, value: Any) -> None:
        """Gives what ``value`` uses, which stays as it is, its batch dimension back."""
        for used in variables(value):
            if used in self.flat and used not in self.kept and shape(used):
                self.graph.replace(used, relax.op.reshape(self.flat[used], shape(used)))


def _has_batch(expression: Any) -> bool:
    dimensions = shape(expression)
    return len(dimensions) >= 2 and static(dimensions[0]) == 1


def _is_tuple_with_batch(expression: Any) -> bool:
    kind = expression.ty
    return isinstance(kind, relax.TupleType) and all(static(field.shape[0]) == 1 for field in kind.fields)


def _reshape(flattener: _Flattener, call: Any) -> Any:
    source = flattener.flat.get(call.args[0], call.args[0])
    return relax.op.reshape(source, shape(call)[1:])


def _permute(flattener: _Flattener, call: Any) -> Any | None:
    axes = [int(axis) for axis in call.attrs.axes or []]
    source = flattener.flat.get(call.args[0])
    if source is None or not axes or axes[0] != 0:
        return None
    return relax.op.permute_dims(source, [axis - 1 for axis in axes[1:]])


_RULES: dict[str, Callable[[_Flattener, Any], Any]] = {"relax.reshape": _reshape, "relax.permute_dims": _permute}
