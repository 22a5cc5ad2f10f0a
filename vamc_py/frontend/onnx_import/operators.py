"""ONNX operators on tensors as Relax operators, in the form in which torch's traces come to the raise passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from vamc_py.frontend.onnx_import.host import Array, Attributes, axes_of, float_type
from vamc_py.frontend.onnx_import.lengths import Lengths
from vamc_py.pipeline.matching import same_dimension, scalar, shape, static


@dataclass(frozen=True)
class Call:
    """A node: ``inputs`` are Relax expressions, or arrays where the graph computes with constants and shapes (None for
    an input left out); ``emit`` binds an expression, ``bound`` gives what a variable is bound to."""

    inputs: list[Any]
    attributes: Attributes
    lengths: Lengths
    emit: Callable[[Any], Any]
    bound: Callable[[Any], Any]

    def tensor(self, position: int) -> Any:
        """An input as a Relax expression; floats are float32 everywhere."""
        value = self.inputs[position]
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype == object:
            raise UnsupportedError("it computes values, not shapes, with the lengths")
        return relax.const(value, value.dtype.name)

    def array(self, position: int) -> Array:
        """An input that has to be constant, or a shape."""
        value = self.inputs[position]
        if not isinstance(value, np.ndarray):
            raise UnsupportedError("its shape or axes depend on the tokens")
        return value

    def axes(self, position: int) -> list[int] | None:
        """``axes``, as attribute or as input."""
        arrays = [self.array(at) for at in range(1, len(self.inputs)) if self.inputs[at] is not None]
        return axes_of(self.attributes, [np.empty(0), *arrays], position)


class UnsupportedError(Exception):
    """What a node asks for cannot be said in Relax as the passes know it; the message says what."""


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Call], Any]:
    return lambda call: function(call.tensor(0), call.tensor(1))


def _unary(function: Callable[[Any], Any]) -> Callable[[Call], Any]:
    return lambda call: function(call.tensor(0))


def _cast(call: Call) -> Any:
    x, dtype = call.tensor(0), float_type(call.attributes["to"]).name
    return x if str(x.ty.dtype) == dtype else relax.op.astype(x, dtype)


def _divide(call: Call) -> Any:
    root = call.bound(call.inputs[1])
    if isinstance(call.inputs[0], np.ndarray) and scalar(call.tensor(0)) == 1.0 and _is(root, "relax.sqrt"):
        return relax.op.rsqrt(root.args[0])
    return _binary(relax.op.divide)(call)


def _reciprocal(call: Call) -> Any:
    x = call.tensor(0)
    root = call.bound(x)
    return relax.op.rsqrt(root.args[0]) if _is(root, "relax.sqrt") else relax.op.divide(relax.const(1.0, "float32"), x)


def _is(value: Any, operator: str) -> bool:
    return isinstance(value, relax.Call) and getattr(value.op, "name", "") == operator


def _gather(call: Call) -> Any:
    return relax.op.take(call.tensor(0), call.tensor(1), axis=int(call.attributes.get("axis", 0)))


def _reshape(call: Call) -> Any:
    x = call.tensor(0)
    return relax.op.reshape(x, call.lengths.reshaped(shape(x), list(call.array(1))))


def _expand(call: Call) -> Any:
    """Both sides may have the ones; a length of the source stays the length it is."""
    x = call.tensor(0)
    source, target = shape(x), list(call.array(1))
    rank = max(len(source), len(target))
    source = [*[1] * (rank - len(source)), *source]
    target = [*[1] * (rank - len(target)), *target]
    wide = [call.lengths.simple(size) if static(have) == 1 else have for have, size in zip(source, target, strict=True)]
    return relax.op.broadcast_to(x, wide)


def _unsqueeze(call: Call) -> Any:
    return relax.op.expand_dims(call.tensor(0), call.axes(1))


def _squeeze(call: Call) -> Any:
    return relax.op.squeeze(call.tensor(0), call.axes(1))


def _transpose(call: Call) -> Any:
    return relax.op.permute_dims(call.tensor(0), list(call.attributes["perm"]) if "perm" in call.attributes else None)


def _concat(call: Call) -> Any:
    """Without empty constants: the past of a model that was exported without one."""
    filled = [at for at, value in enumerate(call.inputs) if not (isinstance(value, np.ndarray) and value.size == 0)]
    parts = [call.tensor(at) for at in filled]
    return parts[0] if len(parts) == 1 else relax.op.concat(parts, axis=int(call.attributes["axis"]))


def _split(call: Call) -> Any:
    x, axis = call.tensor(0), int(call.attributes.get("axis", 0))
    if len(call.inputs) > 1 and call.inputs[1] is not None:
        ends = np.cumsum([int(size) for size in call.array(1)])[:-1]
        return relax.op.split(x, [int(end) for end in ends], axis=axis)
    return relax.op.split(x, int(call.attributes["outputs"]), axis=axis)


def _slice(call: Call) -> Any:
    x = call.tensor(0)
    starts, ends = call.array(1), call.array(2)
    given = [call.array(at) if len(call.inputs) > at and call.inputs[at] is not None else None for at in (3, 4)]
    axes = [int(axis) % len(shape(x)) for axis in (np.arange(len(starts)) if given[0] is None else given[0])]
    strides = [1] * len(axes) if given[1] is None else [int(step) for step in given[1]]
    if any(step < 1 for step in strides):
        raise UnsupportedError("it slices backwards")
    bounds = [
        call.lengths.sliced(shape(x)[axis], start, end) for axis, start, end in zip(axes, starts, ends, strict=True)
    ]
    whole = all(
        static(begin) == 0 and same_dimension(end, shape(x)[axis])
        for axis, (begin, end) in zip(axes, bounds, strict=True)
    )
    if whole and set(strides) == {1}:
        return x
    begins, stops = [begin for begin, _ in bounds], [end for _, end in bounds]
    return relax.op.strided_slice(x, axes, begins, stops, strides, assume_inbound=True)


def _mean(call: Call) -> Any:
    return relax.op.mean(call.tensor(0), axis=call.axes(1), keepdims=bool(call.attributes.get("keepdims", 1)))


def _gemm(call: Call) -> Any:
    """A linear layer with a bias; no layer has alpha, beta or transA."""
    said = {key: call.attributes.get(key, default) for key, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))}
    if said != {"alpha": 1.0, "beta": 1.0, "transA": 0}:
        raise UnsupportedError("it scales or transposes its input")
    weight = call.tensor(1)
    if call.attributes.get("transB", 0):
        weight = call.emit(relax.op.permute_dims(weight, [1, 0]))
    product = relax.op.matmul(call.tensor(0), weight)
    return relax.op.add(call.emit(product), call.tensor(2)) if len(call.inputs) > 2 else product


def _quantized_linear(call: Call) -> Any:
    """x @ weight.T with the weight dequantized: the checkpoint says that it comes in int8."""
    columns = call.emit(relax.op.permute_dims(call.tensor(1), [1, 0]))
    return relax.op.matmul(call.tensor(0), columns)


def _where(call: Call) -> Any:
    return relax.op.where(call.tensor(0), call.tensor(1), call.tensor(2))


CONVERTERS: Mapping[str, Callable[[Call], Any]] = {
    "Add": _binary(relax.op.add),
    "Cast": _cast,
    "Concat": _concat,
    "Cos": _unary(relax.op.cos),
    "Div": _divide,
    "Equal": _binary(relax.op.equal),
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _gemm,
    "Greater": _binary(relax.op.greater),
    "Less": _binary(relax.op.less),
    "MatMul": _binary(relax.op.matmul),
    "Max": _binary(relax.op.maximum),
    "Min": _binary(relax.op.minimum),
    "Mul": _binary(relax.op.multiply),
    "Neg": _unary(relax.op.negative),
    "Not": _unary(relax.op.logical_not),
    "Pow": _binary(relax.op.power),
    "QuantizedLinearPerChannel": _quantized_linear,
    "Reciprocal": _reciprocal,
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "Sigmoid": _unary(relax.op.sigmoid),
    "Sin": _unary(relax.op.sin),
    "Slice": _slice,
    "Softmax": lambda call: relax.op.nn.softmax(call.tensor(0), axis=int(call.attributes.get("axis", -1))),
    "Split": _split,
    "Sqrt": _unary(relax.op.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(relax.op.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""By ONNX operator: its value, an expression that is bound by the caller."""
