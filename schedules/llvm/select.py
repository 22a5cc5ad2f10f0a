"""Which llvm kernel serves a call of an R.vamc operator."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

from tvm.tirx import PrimFunc

from vamc_py.dialect import LinearCall
from vamc_py.pipeline.graph import operator_name
from vamc_py.pipeline.matching import constant, same_shape, shape
from vamc_py.pipeline.program import (
    ACTIVATION_ATTRIBUTE,
    PRODUCTS_ATTRIBUTE,
    PROLOGUE_ATTRIBUTE,
    WIDE_ROWS_ATTRIBUTE,
)
from vamc_py.schedules.kernel import Kernel, PackedWeight
from vamc_py.schedules.llvm import attention, elementwise, embedding, linear, rms_norm, rotary, rows, simd, swiglu
from vamc_py.schedules.llvm.layout import (
    PANEL,
    Array,
    pack_columns,
    pack_int4_rows,
    pack_rows,
    packed_dtype,
    packed_shape,
)
from vamc_py.weights.formats import WeightFormat


@dataclass(frozen=True)
class PackPanels:
    """The step of the parameter plan that lays whole rows out in panels of 64 (see ``layout``)."""

    rows_multiple: int = PANEL

    def apply(self, block: Array) -> Array:
        """[rows, K] -> the panels; rows a multiple of 64, or the last ones."""
        return pack_rows(block)


@dataclass(frozen=True)
class PackInt4Panels:
    """The step that lays whole rows of values of four bits out in panels of 64 (see ``layout``)."""

    rows_multiple: int = PANEL

    def apply(self, block: Array) -> Array:
        """int8 [rows, K], from -8 to 7 -> the panels; rows a multiple of 64, or the last ones."""
        return pack_int4_rows(block)


@dataclass(frozen=True)
class PackColumns:
    """The step that lays the scales or zero points of groups out in columns of panels (see ``layout``)."""

    rows_multiple: int = PANEL

    def apply(self, block: Array) -> Array:
        """[rows, groups] or, with one group, [rows] -> [rows / 64, groups, 64]; rows a multiple of 64, or the last."""
        return pack_columns(block.reshape(len(block), -1))


def select(call: Any, features: Collection[str]) -> Kernel | None:
    """The kernel for a call on rows (float32 [n, …]) on a CPU with these features, None where there is none."""
    rule = _RULES.get(operator_name(call))
    if rule is None:
        return None
    with simd.using(simd.InstructionSet.of(features)):
        return rule(call)


def _width(expression: Any) -> int:
    return int(shape(expression)[-1])


def _weight_type(weight: Any) -> Any:
    return str(weight.ty.dtype)


def _packed(weight: Any) -> PackedWeight:
    n, k = (int(dimension) for dimension in shape(weight))
    dtype = _weight_type(weight)
    return PackedWeight(packed_shape(n, k, dtype), packed_dtype(dtype), PackPanels())


def _shared(factory: Callable[..., PrimFunc]) -> Callable[..., PrimFunc]:
    """The factory, cached by arguments and instruction set: layers of one shape share one kernel, which is then
    generated and compiled once."""

    @cache
    def made(_instructions: simd.InstructionSet, *sizes: Any, **options: Any) -> PrimFunc:
        return factory(*sizes, **options)

    @wraps(factory)
    def make(*sizes: Any, **options: Any) -> PrimFunc:
        return made(simd.current(), *sizes, **options)

    return make


_linear = _shared(linear.linear)
_embedding = _shared(embedding.embedding)
_attention = _shared(attention.cached_attention)
_rms_norm = _shared(rms_norm.rms_norm)
_swiglu = _shared(swiglu.swiglu)
_rotary = _shared(rotary.rotary)
_rotary_angles = _shared(rotary.rotary_angles)
_select_rows = _shared(rows.select_rows)
_gather_table = _shared(rows.gather_table)
_add = _shared(elementwise.add)


def _select_linear(call: Any) -> Kernel | None:
    if len(shape(call.args[0])) != 2:
        return None
    parts = LinearCall.of(call)
    n, k = (int(dimension) for dimension in shape(parts.weight))
    form = _format(parts)
    if form is not None and form.group is not None and form.group % 16 and form.group < k:
        return None
    dtype: Any = _weight_type(parts.weight) if form is None else form
    bias, residual = parts.bias is not None, parts.residual is not None
    function = _linear(
        n, k, dtype,
        bias=bias, residual=residual, activation=parts.activation, wide_rows=parts.wide_rows,
        prologue=parts.prologue, epsilon=parts.epsilon,
    )  # fmt: skip
    name = f"linear_{_weight_name(parts)}_{n}x{k}{_endings(parts)}"
    attributes: dict[str, str | int] = {}
    if parts.activation != "int16":
        attributes |= {ACTIVATION_ATTRIBUTE: parts.activation, WIDE_ROWS_ATTRIBUTE: parts.wide_rows}
    if parts.prologue != "none":
        attributes |= {PROLOGUE_ATTRIBUTE: parts.prologue}
    return Kernel(name, function, _packed_format(parts, form), attributes=attributes)


def _format(parts: LinearCall) -> WeightFormat | None:
    """The format of a weight with scales; None without, and for int8 with one float32 scale a row, the plain one."""
    if parts.scale is None or (parts.per_row and _weight_type(parts.scale) == "float32"):
        return None
    values: Any = "int4" if parts.bits == 4 else _weight_type(parts.weight)
    scale: Any = _weight_type(parts.scale)
    return WeightFormat(values, parts.group or None, parts.zero is not None, scale)


def _packed_format(parts: LinearCall, form: WeightFormat | None) -> dict[int, PackedWeight]:
    """How the weight lies in memory and, where it has groups, its scales and zero points."""
    if form is None:
        return {1: _packed(parts.weight)}
    n, k = (int(dimension) for dimension in shape(parts.weight))
    groups = -(-n // PANEL), form.groups(k), PANEL
    step = PackInt4Panels() if form.values == "int4" else PackPanels()
    packed = {
        1: PackedWeight(packed_shape(n, k, form.values), packed_dtype(form.values), step),
        2: PackedWeight(groups, form.scale, PackColumns()),
    }
    return {**packed, 3: PackedWeight(groups, "int8", PackColumns())} if form.zeros else packed


def _weight_name(parts: LinearCall) -> str:
    """What a kernel's name calls the weight: "int8", "int4_g128z", "float8_e4m3fn_g128"."""
    values = "int4" if parts.bits == 4 else _weight_type(parts.weight)
    group = f"_g{parts.group}" if parts.group else ""
    return f"{values}{group}{'z' if parts.zero is not None else ''}"


def _endings(parts: LinearCall) -> str:
    """What a layer has beside the plain product, for the name of its kernel: "_norm_g128_residual"."""
    prologue = {"none": None, "rms_norm": "norm"}.get(parts.prologue, parts.prologue)
    activation = None if parts.activation == "int16" else parts.activation.removeprefix("int8_")
    bias = None if parts.bias is None else "bias"
    residual = None if parts.residual is None else "residual"
    return "".join(f"_{ending}" for ending in (prologue, activation, bias, residual) if ending)


def _select_embedding(call: Any) -> Kernel | None:
    if len(shape(call.args[0])) != 1 or str(call.args[0].ty.dtype) != "int32" or "first" in call.attrs:
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
    products = str(call.attrs["products"])
    function = _attention(
        heads, kv_heads, dim,
        cache_dtype=str(cache_argument.ty.dtype), scale=call.attrs["scale"], fused_qkv=False, qk_norm_eps=None,
        products=products,
    )  # fmt: skip
    return _attention_kernel(f"cached_attention_{heads}_{kv_heads}x{dim}", function, products, (6, 7))


def _select_qkv_attention(call: Any) -> Kernel | None:
    heads, kv_heads, dim = (int(call.attrs[name]) for name in ("heads", "kv_heads", "head_dim"))
    if dim % 16:
        return None
    last = len(call.args) - 1
    offset = bool(call.attrs.get("k_offset", False))
    products = str(call.attrs["products"])
    function = _attention(
        heads, kv_heads, dim,
        cache_dtype=str(call.args[last].ty.dtype), scale=call.attrs["scale"], fused_qkv=True,
        qk_norm_eps=call.attrs["epsilon"] if len(call.args) - offset == 10 else None, products=products,
        k_offset=offset,
    )  # fmt: skip
    return _attention_kernel(f"qkv_attention_{heads}_{kv_heads}x{dim}", function, products, (last - 1, last))


def _attention_kernel(name: str, function: Any, products: str, caches: tuple[int, int]) -> Kernel:
    if products == "float32":
        return Kernel(name, function, in_place=caches)
    few = attention.AttentionTile.default().split_tokens  # of a slot: they multiply in float32
    attributes: dict[str, str | int] = {PRODUCTS_ATTRIBUTE: products, WIDE_ROWS_ATTRIBUTE: few}
    return Kernel(f"{name}_bf16", function, in_place=caches, attributes=attributes)


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
