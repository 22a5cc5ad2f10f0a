"""Which llvm kernel serves a call of an R.vamc operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from vamc_py.pipeline.graph import operator_name
from vamc_py.pipeline.matching import constant, same_shape, shape
from vamc_py.schedules.kernel import Kernel, PackedWeight
from vamc_py.schedules.llvm import attention, elementwise, embedding, linear, rms_norm, rotary, rows, swiglu
from vamc_py.schedules.llvm.layout import PANEL, Array, pack_rows, packed_dtype, packed_shape


@dataclass(frozen=True)
class PackPanels:
    """The step of the parameter plan that lays whole rows out in panels of 64 (see ``layout``)."""

    rows_multiple: int = PANEL

    def apply(self, block: Array) -> Array:
        """[rows, K] -> the panels; rows a multiple of 64, or the last ones."""
        return pack_rows(block)


def select(call: Any) -> Kernel | None:
    """The kernel for a call on rows (float32 [n, …]), None where there is none."""
    rule = _RULES.get(operator_name(call))
    return rule(call) if rule else None


def _width(expression: Any) -> int:
    return int(shape(expression)[-1])


def _weight_type(weight: Any) -> Any:
    return str(weight.ty.dtype)


def _packed(weight: Any) -> PackedWeight:
    n, k = (int(dimension) for dimension in shape(weight))
    dtype = _weight_type(weight)
    return PackedWeight(packed_shape(n, k, dtype), packed_dtype(dtype), PackPanels())


# The factories are cached: layers of one shape share one kernel, which is then generated and compiled once.
_linear = cache(linear.linear)
_embedding = cache(embedding.embedding)
_attention = cache(attention.cached_attention)
_rms_norm = cache(rms_norm.rms_norm)
_swiglu = cache(swiglu.swiglu)
_rotary = cache(rotary.rotary)
_rotary_angles = cache(rotary.rotary_angles)
_select_rows = cache(rows.select_rows)
_gather_table = cache(rows.gather_table)
_add = cache(elementwise.add)


def _select_linear(call: Any) -> Kernel | None:
    if len(shape(call.args[0])) != 2:
        return None
    n, k = (int(dimension) for dimension in shape(call.args[1]))
    dtype = _weight_type(call.args[1])
    bias, residual = bool(call.attrs["bias"]), bool(call.attrs["residual"])
    name = f"linear_{dtype}_{n}x{k}" + ("_bias" if bias else "") + ("_residual" if residual else "")
    return Kernel(name, _linear(n, k, dtype, bias=bias, residual=residual), {1: _packed(call.args[1])})


def _select_embedding(call: Any) -> Kernel | None:
    if len(shape(call.args[0])) != 1 or str(call.args[0].ty.dtype) != "int32":
        return None
    n, k = (int(dimension) for dimension in shape(call.args[1]))
    if constant(call.args[1]) is not None:
        return Kernel(f"gather_table_{n}x{k}", _gather_table(n, k)) if _weight_type(call.args[1]) == "float32" else None
    dtype = _weight_type(call.args[1])
    return Kernel(f"embedding_{dtype}_{n}x{k}", _embedding(n, k, dtype), {1: _packed(call.args[1])})


def _select_rms_norm(call: Any) -> Kernel | None:
    if len(shape(call)) != 2:
        return None
    return Kernel(f"rms_norm_{_width(call)}", _rms_norm(_width(call), call.attrs["epsilon"]))


def _select_swiglu(call: Any) -> Kernel | None:
    if len(shape(call)) != 2:
        return None
    merged = len(call.args) == 1
    return Kernel(f"swiglu_{_width(call)}" + ("_merged" if merged else ""), _swiglu(_width(call), merged))


def _select_rotary(call: Any) -> Kernel | None:
    if len(shape(call)) != 3 or len(shape(call.args[1])) != 2:
        return None
    heads, dim = (int(dimension) for dimension in shape(call)[1:])
    return Kernel(f"rotary_{heads}x{dim}", _rotary(heads, dim))


def _select_rotary_angles(call: Any) -> Kernel | None:
    if len(shape(call.args[0])) != 1 or str(call.args[0].ty.dtype) != "int32":
        return None
    dim = 2 * _width(call.args[1])
    return Kernel(f"rotary_angles_{dim}", _rotary_angles(dim, call.attrs["scaling"]))


def _select_select_rows(call: Any) -> Kernel | None:
    if len(shape(call)) != 2:
        return None
    return Kernel(f"select_rows_{_width(call)}", _select_rows(_width(call)))


def _select_cached_attention(call: Any) -> Kernel | None:
    q, k, cache_argument = call.args[0], call.args[1], call.args[6]
    if len(shape(q)) != 3 or int(shape(q)[2]) % 16:
        return None
    heads, kv_heads, dim = int(shape(q)[1]), int(shape(k)[1]), int(shape(q)[2])
    function = _attention(
        heads, kv_heads, dim,
        cache_dtype=str(cache_argument.ty.dtype), scale=call.attrs["scale"], fused_qkv=False, qk_norm_eps=None,
    )  # fmt: skip
    return Kernel(f"cached_attention_{heads}_{kv_heads}x{dim}", function, in_place=(6, 7))


def _select_qkv_attention(call: Any) -> Kernel | None:
    heads, kv_heads, dim = (int(call.attrs[name]) for name in ("heads", "kv_heads", "head_dim"))
    if dim % 16:
        return None
    last = len(call.args) - 1
    function = _attention(
        heads, kv_heads, dim,
        cache_dtype=str(call.args[last].ty.dtype), scale=call.attrs["scale"], fused_qkv=True,
        qk_norm_eps=call.attrs["epsilon"] if len(call.args) == 10 else None,
    )  # fmt: skip
    return Kernel(f"qkv_attention_{heads}_{kv_heads}x{dim}", function, in_place=(last - 1, last))


def _select_add(call: Any) -> Kernel | None:
    plain = len(shape(call)) == 2 and all(same_shape(shape(argument), shape(call)) for argument in call.args)
    return Kernel(f"add_{_width(call)}", _add(_width(call))) if plain and str(call.ty.dtype) == "float32" else None


_RULES: dict[str, Callable[[Any], Kernel | None]] = {
    "relax.vamc.linear": _select_linear,
    "relax.vamc.embedding": _select_embedding,
    "relax.vamc.rms_norm": _select_rms_norm,
    "relax.vamc.swiglu": _select_swiglu,
    "relax.vamc.rotary": _select_rotary,
    "relax.vamc.rotary_angles": _select_rotary_angles,
    "relax.vamc.select_rows": _select_select_rows,
    "relax.vamc.cached_attention": _select_cached_attention,
    "relax.vamc.qkv_attention": _select_qkv_attention,
    "relax.add": _select_add,
}
