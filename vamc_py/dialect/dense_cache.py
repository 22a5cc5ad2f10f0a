"""R.vamc.cache_append and R.vamc.causal_mask: the KV cache of an attention that the compiler does not know."""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.script import tirx as T

from vamc_py.dialect.attention import CACHE_BLOCK
from vamc_py.dialect.registry import define, dtype_of, shape_of, tensor

MASKED = -3.4028234663852886e38  # the smallest float32, as transformers masks with


def _infer_append(call: Any) -> Any:
    one, heads, _, dim = shape_of(call.args[0])
    return tensor([one, heads, call.attrs["length"], dim])


def _append_reference(builder: Any, call: Any) -> Any:
    new, positions, slots, pages, cache = call.args
    keys = bool(call.attrs["keys"])
    _, heads, _, dim = (int(d) if i != 2 else d for i, d in enumerate(shape_of(new)))
    kernel = cache_append_reference(heads, dim, dtype_of(cache), int(call.attrs["length"]), keys=keys)
    results = relax.op.call_tir_inplace(
        builder.add_func(kernel, "cache_append_reference"),
        [new, positions, slots, pages, cache],
        [4, -1],
        [cache.ty, call.ty],
    )
    return relax.TupleGetItem(builder.emit(results), 1)


@define("cache_append", infer_type=_infer_append, reference=_append_reference)
def cache_append(
    new: Any, positions: Any, slots: Any, pages: Any, cache: Any, *, length: int, keys: bool
) -> tuple[list[Any], dict[str, Any]]:
    """Writes the new tokens' keys or values into the cache and gives the whole sequence's, by position.

    new f32 [1, KV, n, d] of one sequence; positions, slots, pages, cache as in cached_attention (``keys`` says which of
    the two cache layouts) -> f32 [1, KV, length, d], zero behind the last token. All tokens of a step must be of one
    slot.
    """
    return [new, positions, slots, pages, cache], {"length": int(length), "keys": bool(keys)}


def _infer_mask(call: Any) -> Any:
    return tensor([1, 1, shape_of(call.args[0])[0], call.attrs["length"]])


def _mask_reference(_builder: Any, call: Any) -> Any:
    (positions,) = call.args
    columns = relax.op.arange(0, call.attrs["length"], 1, "int32")
    seen = relax.op.less_equal(columns, relax.op.expand_dims(positions, [1]))
    attend, hide = (1.0, 0.0) if call.attrs["kind"] == "ones" else (0.0, MASKED)
    mask = relax.op.where(seen, relax.const(attend, "float32"), relax.const(hide, "float32"))
    return relax.op.expand_dims(mask, [0, 1])


@define("causal_mask", infer_type=_infer_mask, reference=_mask_reference)
def causal_mask(positions: Any, *, length: int, kind: str) -> tuple[list[Any], dict[str, Any]]:
    """positions i32 [n] -> f32 [1, 1, n, length]: what a token may attend to, the positions up to its own.

    ``kind``: "additive", 0 there and the smallest float32 elsewhere; "ones", 1 there and 0 elsewhere.
    """
    return [positions], {"length": int(length), "kind": str(kind)}


def cache_append_reference(heads: int, dim: int, cache_dtype: str, length: int, *, keys: bool) -> Any:
    """The definition of cache_append as plain loops."""
    inner = (dim, CACHE_BLOCK) if keys else (CACHE_BLOCK, dim)

    @T.prim_func  # type: ignore[untyped-decorator]
    def reference(
        new_handle: T.handle,
        positions_handle: T.handle,
        slots_handle: T.handle,
        pages_handle: T.handle,
        cache_handle: T.handle,
        out_handle: T.handle,
    ) -> None:
        T.func_attr({"op_pattern": 8})
        n, s, p, pages_total, blocks = T.int64(), T.int64(), T.int64(), T.int64(), T.int64()
        new = T.match_buffer(new_handle, (1, heads, n, dim), "float32")
        positions = T.match_buffer(positions_handle, (n,), "int32")
        slots = T.match_buffer(slots_handle, (n,), "int32")
        pages = T.match_buffer(pages_handle, (s, p), "int32")
        cache = T.match_buffer(cache_handle, (pages_total, heads, blocks, inner[0], inner[1]), cache_dtype)
        out = T.match_buffer(out_handle, (1, heads, length, dim), "float32")
        for i, h, d in T.grid(n, heads, dim):
            at = T.cast(positions[i], "int64")
            page = pages[slots[i], at // (blocks * CACHE_BLOCK)]
            block = at // CACHE_BLOCK % blocks
            if keys:
                cache[page, h, block, d, at % CACHE_BLOCK] = T.cast(new[0, h, i, d], cache_dtype)
            else:
                cache[page, h, block, at % CACHE_BLOCK, d] = T.cast(new[0, h, i, d], cache_dtype)
        for h, t, d in T.grid(heads, length, dim):
            out[0, h, t, d] = T.float32(0)
            if t <= T.cast(positions[n - T.int64(1)], "int64"):
                row = pages[slots[0], t // (blocks * CACHE_BLOCK)]
                part = t // CACHE_BLOCK % blocks
                if keys:
                    out[0, h, t, d] = T.cast(cache[row, h, part, d, t % CACHE_BLOCK], "float32")
                else:
                    out[0, h, t, d] = T.cast(cache[row, h, part, t % CACHE_BLOCK, d], "float32")

    return reference
