"""R.vamc.swiglu."""

from __future__ import annotations

from typing import Any

from tvm import relax

from vamc_py.dialect.registry import define, shape_of, tensor


def _infer(call: Any) -> Any:
    shape = shape_of(call.args[0])
    return tensor([*shape[:-1], int(shape[-1]) // 2]) if len(call.args) == 1 else call.args[0].ty


def _reference(builder: Any, call: Any) -> Any:
    if len(call.args) == 2:
        gate, up = call.args
    else:
        halves = builder.emit(relax.op.split(call.args[0], 2, axis=-1))
        gate, up = halves[0], halves[1]
    return relax.op.multiply(relax.op.multiply(gate, relax.op.sigmoid(gate)), up)


@define("swiglu", infer_type=_infer, reference=_reference)
def swiglu(gate: Any, *up: Any) -> tuple[list[Any], dict[str, Any]]:
    """silu(gate) * up with silu(x) = x / (1 + exp(-x)) (Shazeer, GLU Variants Improve Transformer, 2020).

    gate and up f32 [..., F]; or one argument f32 [..., 2F] that holds gate, then up -> f32 [..., F].
    """
    return [gate, *up], {}
