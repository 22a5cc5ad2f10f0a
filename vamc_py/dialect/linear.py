"""R.vamc.linear: a matrix product with a weight, in every weight format the compiler knows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

from tvm import relax, te, tirx

from vamc_py.activation import Activation, Prologue, columns_per_scale
from vamc_py.dialect.registry import define, dtype_of, shape_of, tensor
from vamc_py.dialect.rms_norm import rms_norm
from vamc_py.dialect.rounding import to_bfloat16
from vamc_py.dialect.swiglu import swiglu

# Attributes that are only there where they say something: a call without any of them reads as it always did.
_OPTIONAL: dict[str, Any] = {
    "bits": 8, "group": 0, "zeros": False,
    "activation": "int16", "wide_rows": 0, "prologue": "none", "epsilon": 0.0,
}  # fmt: skip
QUANTIZED = ("int8", "float8_e4m3fn")
"""The types of weights that have a scale."""


@dataclass(frozen=True, eq=False)
class LinearCall:
    """A call of linear taken apart: ``replace(LinearCall.of(call), residual=r).make()`` is the call with one more."""

    x: Any
    weight: Any
    scale: Any = None
    zero: Any = None
    bias: Any = None
    residual: Any = None
    norm: Any = None
    bits: int = 8
    group: int = 0
    activation: Activation = "int16"
    wide_rows: int = 0
    prologue: Prologue = "none"
    epsilon: float = 0.0

    @classmethod
    def of(cls, call: Any) -> LinearCall:
        """The parts of a call of ``R.vamc.linear``."""
        x, weight, *rest = call.args
        given = iter(rest)
        attributes = {name: call.attrs.get(name, default) for name, default in _OPTIONAL.items()}
        return cls(
            x,
            weight,
            scale=next(given) if dtype_of(weight) in QUANTIZED else None,
            zero=next(given) if attributes["zeros"] else None,
            bias=next(given) if call.attrs["bias"] else None,
            residual=next(given) if call.attrs["residual"] else None,
            norm=next(given) if attributes["prologue"] == "rms_norm" else None,
            bits=int(attributes["bits"]),
            group=int(attributes["group"]),
            activation=str(attributes["activation"]),  # type: ignore[arg-type]
            wide_rows=int(attributes["wide_rows"]),
            prologue=str(attributes["prologue"]),  # type: ignore[arg-type]
            epsilon=float(attributes["epsilon"]),
        )

    def make(self) -> Any:
        """The call of ``R.vamc.linear``."""
        optional = (self.scale, self.zero, self.bias, self.residual, self.norm)
        return linear(
            self.x,
            self.weight,
            *(argument for argument in optional if argument is not None),
            bias=self.bias is not None,
            residual=self.residual is not None,
            bits=self.bits,
            group=self.group,
            zeros=self.zero is not None,
            activation=self.activation,
            wide_rows=self.wide_rows,
            prologue=self.prologue,
            epsilon=self.epsilon,
        )

    @property
    def per_row(self) -> bool:
        """Whether the weight is int8 with one scale for each output row, the format that knows int8 activations."""
        return dtype_of(self.weight) == "int8" and (self.bits, self.group) == (8, 0) and self.zero is None


def _infer(call: Any) -> Any:
    x, weight = call.args[0], call.args[1]
    return tensor([*shape_of(x)[:-1], shape_of(weight)[0]])


def _reference(builder: Any, call: Any) -> Any:
    parts = LinearCall.of(call)
    x = parts.x
    if parts.prologue == "rms_norm":
        x = builder.emit(rms_norm(x, parts.norm, epsilon=parts.epsilon))
    elif parts.prologue == "swiglu":
        x = builder.emit(swiglu(x))
    if parts.activation != "int16":
        x = builder.emit_te(_rounded, x, parts.activation, parts.wide_rows, primfunc_name_hint="rounded")
    if parts.scale is None or parts.per_row:
        weight = relax.op.astype(parts.weight, "float32")
    else:
        numbers = [argument for argument in (x, parts.weight, parts.scale, parts.zero) if argument is not None]
        fewest = parts.wide_rows + 1 if parts.activation == "bf16" else None
        hint = {"primfunc_name_hint": "dequantized"}
        weight = builder.emit_te(_dequantized, *numbers, group=parts.group, round_from=fewest, **hint)
    y = relax.op.matmul(x, relax.op.permute_dims(weight), out_dtype="float32")
    if parts.per_row:
        y = relax.op.multiply(y, parts.scale)
    for term in (parts.bias, parts.residual):
        if term is not None:
            y = relax.op.add(y, term)
    return y


def _dequantized(
    x: Any, weight: Any, scale: Any, zero: Any = None, *, group: int, round_from: int | None = None
) -> Any:
    """(weight - zero) * scale in float32 [N, K], each step rounded once (a te tensor).

    In a product with at least `round_from` rows of x [..., K] it is rounded to bfloat16.
    """

    def of_group(part: Any, row: Any, column: Any) -> Any:
        value = part(row, column // group) if group else part(row)
        return tirx.Cast("float32", value)

    def dequantized(row: Any, column: Any) -> Any:
        stored = weight(row, column)
        value = _decoded(stored) if str(weight.dtype) == "float8_e4m3fn" else tirx.Cast("float32", stored)
        if zero is not None:
            value = value - of_group(zero, row, column)
        value = value * of_group(scale, row, column)
        if round_from is None:
            return value
        return tirx.if_then_else(_rows(x) >= round_from, to_bfloat16(value), value)

    return te.compute(weight.shape, dequantized, "dequantized")


def _rows(x: Any) -> Any:
    """All dimensions but the last multiplied."""
    return math.prod(x.shape[:-1], start=tirx.IntImm("int64", 1))


def _decoded(stored: Any) -> Any:
    """A float8_e4m3fn as float32 by its bits: TVM's own cast is wrong for denormal ones. NaN codes become 480."""
    byte = tirx.Cast("int32", tirx.reinterpret("uint8", stored))
    mantissa, exponent = byte & 7, (byte >> 3) & 15
    denormal = tirx.Cast("float32", mantissa) * tirx.const(2.0**-9, "float32")
    normal = tirx.reinterpret("float32", ((exponent + 120) << 23) | (mantissa << 20))
    magnitude = tirx.if_then_else(exponent == 0, denormal, normal)
    return tirx.if_then_else(byte >= 128, -magnitude, magnitude)


def _rounded(x: Any, activation: Activation, wide_rows: int) -> Any:
    """x f32 [..., K] as a product with more than ``wide_rows`` rows sees it; x itself for fewer rows (a te tensor)."""
    columns = int(x.shape[-1])
    many = _rows(x) > wide_rows
    group = columns_per_scale(activation, columns)
    if group is None:
        return te.compute(x.shape, lambda *i: tirx.if_then_else(many, to_bfloat16(x(*i)), x(*i)), "rounded")
    inside = te.reduce_axis((0, group), "inside")

    def magnitude(*i: Any) -> Any:
        column = i[-1] * group + inside
        return tirx.if_then_else(column < columns, te.abs(x(*i[:-1], column)), tirx.const(0.0, "float32"))

    groups = [*x.shape[:-1], -(-columns // group)]
    largest = te.compute(groups, lambda *i: te.max(magnitude(*i), axis=inside), "largest")

    def rounded(*i: Any) -> Any:
        scale = largest(*i[:-1], i[-1] // group) / tirx.const(127.0, "float32")
        zeros = scale == tirx.const(0.0, "float32")
        return tirx.if_then_else(tirx.any(tirx.Not(many), zeros), x(*i), te.nearbyint(x(*i) / scale) * scale)

    return te.compute(x.shape, rounded, "rounded")


@define("linear", infer_type=_infer, reference=_reference)
def linear(
    x: Any,
    weight: Any,
    *optional: Any,
    bias: bool = False,
    residual: bool = False,
    bits: int = 8,
    group: int = 0,
    zeros: bool = False,
    activation: Activation = "int16",
    wide_rows: int = 0,
    prologue: Prologue = "none",
    epsilon: float = 0.0,
) -> tuple[list[Any], dict[str, Any]]:
    """y = p(x) @ weight.T [+ bias] [+ residual], accumulated in float32 or exactly.

    x f32 [..., K]; weight [N, K], float32, float16, bfloat16, int8 or float8_e4m3fn; then, in this order where they are
    there: scale (int8 and float8 weights), zero (``zeros``), bias f32 [N] (``bias``), residual f32 [..., N]
    (``residual``), norm f32 [K] (``prologue`` "rms_norm") -> f32 [..., N].

    A weight with a scale is (weight[n, k] - zero[n, k // group]) * scale[n, k // group]; ``group`` is how many columns
    share a scale, the last group may be shorter. Scale is float32 or float16 [N, ceil(K / group)], zero int8 of that
    shape. With ``group`` 0 a row has one scale: [N]. ``bits`` 4 says that the values of an int8 weight are from -8 to 7
    and take four bits once they are packed. These attributes, too, are left out where they say nothing.

    ``prologue`` says what p is: "none", x itself; "rms_norm", rms_norm(x, norm) with ``epsilon``; "swiglu": x is
    f32 [..., 2K], gates first, and p is swiglu(x) f32 [..., K].

    ``activation``, for weights with a scale, says how exactly p(x) is taken where x has more than ``wide_rows`` rows
    (all dimensions but the last multiplied): "int16", as it is (a kernel may round it to 16 bits a row); "bf16",
    rounded to bfloat16, in which the values of int8 weights with one scale a row are exact (other weights are
    dequantized and rounded to bfloat16, too). For int8 weights with one scale a row alone: "int8_g32", "int8_g64",
    "int8_g128" and "int8_token", rounded to int8 in groups of so many columns, the last of which may be shorter, or in
    one group a row: p = round(p / s) * s with s = max|p| / 127 of the group. All round half to even. Up to
    ``wide_rows`` rows it is "int16". Attributes that say nothing (these two with "int16", ``epsilon`` without a norm, a
    prologue "none") are left out of the call.

    ValueError for an unknown activation or prologue, or another number of arguments.
    """
    _check_format(weight, bits, group, zeros)
    _check(weight, activation, wide_rows, prologue, per_row=dtype_of(weight) == "int8" and (bits, group) == (8, 0))
    wanted = (dtype_of(weight) in QUANTIZED) + bool(zeros) + bool(bias) + bool(residual) + (prologue == "rms_norm")
    if len(optional) != wanted:
        raise ValueError(f"R.vamc.linear takes {wanted} arguments behind the weight here, not {len(optional)}")
    attributes: dict[str, Any] = {"bias": bool(bias), "residual": bool(residual)}
    said = {"bits": int(bits), "group": int(group), "zeros": bool(zeros)}
    attributes |= {name: value for name, value in said.items() if value != _OPTIONAL[name]}
    if activation != "int16":
        attributes |= {"activation": activation, "wide_rows": int(wide_rows)}
    if prologue != "none":
        attributes["prologue"] = prologue
    if prologue == "rms_norm":
        attributes["epsilon"] = float(epsilon)
    return [x, weight, *optional], attributes


def _check(weight: Any, activation: Activation, wide_rows: int, prologue: str, *, per_row: bool) -> None:
    if activation not in get_args(Activation):
        raise ValueError(f"R.vamc.linear has no activation {activation}; it has {', '.join(get_args(Activation))}")
    if prologue not in get_args(Prologue):
        raise ValueError(f"R.vamc.linear has no prologue {prologue}; it has {', '.join(get_args(Prologue))}")
    if wide_rows < 0:
        raise ValueError(f"wide_rows of R.vamc.linear is a number of rows, not {wide_rows}")
    if activation != "int16" and dtype_of(weight) not in QUANTIZED:
        raise ValueError(f"the activation {activation} of R.vamc.linear needs int8 weights, not {dtype_of(weight)}")
    if columns_per_scale(activation, 1) is not None and not per_row:
        raise ValueError(f"the activation {activation} of R.vamc.linear needs int8 weights with one scale a row")


def _check_format(weight: Any, bits: int, group: int, zeros: bool) -> None:
    dtype = dtype_of(weight)
    if bits not in (4, 8) or group < 0:
        raise ValueError(f"weights of R.vamc.linear have 4 or 8 bits and a group of columns, not {bits} and {group}")
    if dtype not in QUANTIZED and (bits, group) != (8, 0):
        raise ValueError(f"only int8 weights of R.vamc.linear have bits and groups, not {dtype} ones")
    if dtype != "int8" and (bits == 4 or zeros):
        raise ValueError(f"only integers have four bits or zero points in R.vamc.linear, not {dtype}")
