"""R.vamc.rotary_angles and R.vamc.rotary: rotary position embedding (Su et al., RoFormer, 2021)."""

from __future__ import annotations

from typing import Any

from tvm import relax

from vamc_py.dialect.registry import define, shape_of, tensor


def _infer_angles(call: Any) -> Any:
    positions, inv_freq = call.args
    angles = tensor([*shape_of(positions), 2 * int(shape_of(inv_freq)[0])])
    return relax.TupleType([angles, angles])


def _angles_reference(_builder: Any, call: Any) -> Any:
    positions, inv_freq = call.args
    column = relax.op.expand_dims(relax.op.astype(positions, "float32"), [-1])
    half = relax.op.multiply(column, inv_freq)
    angles = relax.op.concat([half, half], axis=-1)
    scaling = relax.const(call.attrs["scaling"], "float32")
    return relax.Tuple(
        [relax.op.multiply(relax.op.cos(angles), scaling), relax.op.multiply(relax.op.sin(angles), scaling)]
    )


@define("rotary_angles", infer_type=_infer_angles, reference=_angles_reference)
def rotary_angles(positions: Any, inv_freq: Any, *, scaling: float = 1.0) -> tuple[list[Any], dict[str, Any]]:
    """positions i32 [...], inv_freq f32 [d/2] -> (cos, sin), each f32 [..., d]: of positions * inv_freq, times scaling.

    The second half of d repeats the first, as Hugging Face's models have it. ``scaling`` is YaRN's attention factor.
    """
    return [positions, inv_freq], {"scaling": float(scaling)}


def _rotary_reference(_builder: Any, call: Any) -> Any:
    x, cos, sin = call.args
    axis = len(shape_of(x)) - 1
    half = int(shape_of(x)[-1]) // 2
    first = relax.op.strided_slice(x, axes=[axis], begin=[0], end=[half], assume_inbound=True)
    second = relax.op.strided_slice(x, axes=[axis], begin=[half], end=[2 * half], assume_inbound=True)
    turned = relax.op.concat([relax.op.negative(second), first], axis=-1)
    cos, sin = relax.op.expand_dims(cos, [-2]), relax.op.expand_dims(sin, [-2])
    return relax.op.add(relax.op.multiply(x, cos), relax.op.multiply(turned, sin))


@define("rotary", infer_type=lambda call: call.args[0].ty, reference=_rotary_reference)
def rotary(x: Any, cos: Any, sin: Any) -> tuple[list[Any], dict[str, Any]]:
    """Turns the pairs (i, i + d/2) of each head: x * cos + concat(-x[d/2:], x[:d/2]) * sin.

    x f32 [..., heads, d]; cos and sin f32 [..., d], one row a token -> f32 [..., heads, d].
    """
    return [x, cos, sin], {}
