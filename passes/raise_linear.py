"""raise-linear: products with a transposed weight become R.vamc.linear."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tvm import ir

from vamc_py.dialect import LinearCall, linear
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import same_dimension, same_shape, shape, static
from vamc_py.pipeline.program import Program, layout


@dataclass(frozen=True)
class RaiseLinear(Pass):
    """``matmul(x, permute_dims(weight)) [+ bias]`` becomes ``R.vamc.linear(x, weight[, bias])``.

    Weight and bias must be parameters; a product of two activations is left alone. An int8 weight with a scale for each
    row becomes ``R.vamc.linear(x, weight, scale[, bias])``: ``float(weight) * scale[:, None]`` in the weight's place,
    as a QuantizedLinear of the patched models computes it, or the product with ``float(weight)`` times ``scale``, as
    the ONNX node QuantizedLinearPerChannel does. They may be constants, too, as in a trace of ``model.quantize()``.
    """

    name: ClassVar[str] = "raise-linear"
    stage: ClassVar[Stage] = "raise"
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        weight: R.Tensor((4, 8), "float32"),
        bias: R.Tensor((4,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            product = R.matmul(x, R.permute_dims(weight, axes=[1, 0]))
            out = R.add(product, bias)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        weights = set(layout(program.function)[2])
        for var, call in graph.calls("relax.matmul"):
            weight = _untransposed(graph, call.args[1])
            if weight is None or len(shape(call.args[0])) < 2:
                continue
            if weight in weights:
                graph.replace(var, linear(call.args[0], weight))
                _absorb_bias(graph, var, weights)
            elif (found := _quantized(graph, var, weight, weights)) is not None:
                result, values, scale = found
                graph.replace(result, linear(call.args[0], values, scale))
                _absorb_bias(graph, result, weights)
        return program.with_function(graph.rebuild())


def _untransposed(graph: Graph, expression: Any) -> Any | None:
    """w [N, K] of ``permute_dims(w)`` [K, N]."""
    call = graph.call(expression, "relax.permute_dims")
    if call is None or len(shape(call)) != 2:
        return None
    axes = [1, 0] if call.attrs.axes is None else [int(axis) % 2 for axis in call.attrs.axes]
    return call.args[0] if axes == [1, 0] else None


def _absorb_bias(graph: Graph, var: Any, weights: set[Any]) -> None:
    user = graph.only_user(var)
    for product, bias in graph.either(user, "relax.add") if user is not None else []:
        one_a_row = bias in weights and len(shape(bias)) == 1 and same_dimension(shape(bias)[0], shape(var)[-1])
        if product == var and one_a_row:
            graph.replace(user, replace(LinearCall.of(graph.values[var]), bias=bias).make())
            return


def _quantized(graph: Graph, product: Any, weight: Any, weights: set[Any]) -> tuple[Any, Any, Any] | None:
    """(the result, int8 values [N, K], scale f32 [N]) of a product with a scaled weight, or of a scaled product."""
    candidates = [(product, cast, _column(graph, scale)) for cast, scale in graph.either(weight, "relax.multiply")]
    user = graph.only_user(product)
    for scaled, scale in graph.either(user, "relax.multiply") if user is not None else []:
        if graph.origin(scaled) == product:
            candidates.append((user, weight, scale))
    for result, cast, scale in candidates:
        values = _int8(graph, cast)
        if values is None or scale is None or str(scale.ty.dtype) != "float32":
            continue
        stored = all(isinstance(part, ir.GenericConst) or graph.origin(part) in weights for part in (values, scale))
        if stored and same_shape(shape(scale), shape(values)[:1]):
            return result, values, scale
    return None


def _int8(graph: Graph, expression: Any) -> Any | None:
    """The int8 matrix behind its cast to float32."""
    cast = graph.call(expression, "relax.astype")
    if cast is None or str(cast.ty.dtype) != "float32" or str(cast.args[0].ty.dtype) != "int8":
        return None
    return cast.args[0] if len(shape(cast.args[0])) == 2 else None


def _column(graph: Graph, expression: Any) -> Any | None:
    """v [N] of a column [N, 1]."""
    for operator in ("relax.expand_dims", "relax.reshape"):
        call = graph.call(expression, operator)
        if call is not None and len(shape(call)) == 2 and static(shape(call)[1]) == 1:
            return call.args[0]
    return None
