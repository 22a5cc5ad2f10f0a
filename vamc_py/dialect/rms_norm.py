"""R.vamc.rms_norm."""

from __future__ import annotations

from typing import Any

from tvm import relax

from vamc_py.dialect.registry import define


def _reference(_builder: Any, call: Any) -> Any:
    x, weight = call.args
    mean = relax.op.mean(relax.op.multiply(x, x), axis=[-1], keepdims=True)
    factor = relax.op.rsqrt(relax.op.add(mean, relax.const(call.attrs["epsilon"], "float32")))
    return relax.op.multiply(relax.op.multiply(x, factor), weight)


@define("rms_norm", infer_type=lambda call: call.args[0].ty, reference=_reference)
def rms_norm(x: Any, weight: Any, *, epsilon: float) -> tuple[list[Any], dict[str, Any]]:
    """x / sqrt(mean(x²) + epsilon) * weight over the last dimension. x f32 [..., H], weight f32 [H] -> f32 [..., H].

    Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """
    return [x, weight], {"epsilon": float(epsilon)}
