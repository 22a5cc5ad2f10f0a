"""R.vamc.linear: a matrix product with a weight, in every weight format the compiler knows."""

from __future__ import annotations

from typing import Any

from tvm import relax

from vamc_py.dialect.registry import define, dtype_of, shape_of, tensor


def _infer(call: Any) -> Any:
    x, weight = call.args[0], call.args[1]
    return tensor([*shape_of(x)[:-1], shape_of(weight)[0]])


def _reference(_builder: Any, call: Any) -> Any:
    x, weight, *rest = call.args
    optional = iter(rest)
    scale = next(optional) if dtype_of(weight) == "int8" else None
    y = relax.op.matmul(x, relax.op.permute_dims(relax.op.astype(weight, "float32")), out_dtype="float32")
    if scale is not None:
        y = relax.op.multiply(y, scale)
    if call.attrs["bias"]:
        y = relax.op.add(y, next(optional))
    if call.attrs["residual"]:
        y = relax.op.add(y, next(optional))
    return y


@define("linear", infer_type=_infer, reference=_reference)
def linear(
    x: Any,
    weight: Any,
    *optional: Any,
    bias: bool = False,
    residual: bool = False,
) -> tuple[list[Any], dict[str, Any]]:
    """y = x @ weight.T [* scale] [+ bias] [+ residual], accumulated in float32 or exactly.

    x f32 [..., K]; weight [N, K], float32, float16, bfloat16 or int8; then, in this order where they are there: scale
    f32 [N] (int8 weights only, one a row), bias f32 [N] (``bias``), residual f32 [..., N] (``residual``)
    -> f32 [..., N].
    """
    return [x, weight, *optional], {"bias": bool(bias), "residual": bool(residual)}
