"""R.vamc.attention (a whole sequence, with a mask) and R.vamc.cached_attention (ragged, over in-place caches)."""

from __future__ import annotations

from typing import Any, Literal, get_args

from tvm import relax
from tvm.script import tirx as T

from vamc_py.dialect.int8_cache import CACHE_BLOCK as CACHE_BLOCK  # positions that lie together in a cache
from vamc_py.dialect.int8_cache import mixed, mixed_block, through_int8
from vamc_py.dialect.registry import define, dtype_of, shape_of, tensor
from vamc_py.dialect.rounding import to_bfloat16

Products = Literal["float32", "bfloat16"]
BFLOAT16_LEEWAY = 0.01  # bfloat16 rounds by up to 2 ** -9 = 0.002


def _reference(_builder: Any, call: Any) -> Any:
    q, k, v, mask = call.args
    heads, kv_heads = int(shape_of(q)[2]), int(shape_of(k)[2])
    q, k, v = (relax.op.permute_dims(x, [0, 2, 1, 3]) for x in (q, k, v))
    if heads != kv_heads:
        k, v = (relax.op.repeat(x, heads // kv_heads, axis=1) for x in (k, v))
    scores = relax.op.matmul(q, relax.op.permute_dims(k, [0, 1, 3, 2]))
    scores = relax.op.add(relax.op.multiply(scores, relax.const(call.attrs["scale"], "float32")), mask)
    out = relax.op.matmul(relax.op.nn.softmax(scores, axis=-1), v)
    return relax.op.permute_dims(out, [0, 2, 1, 3])


@define("attention", infer_type=lambda call: call.args[0].ty, reference=_reference)
def attention(q: Any, k: Any, v: Any, mask: Any, *, scale: float) -> tuple[list[Any], dict[str, Any]]:
    """Grouped-query attention: softmax(q @ k.T * scale + mask) @ v, a head of q using head h * KV // H of k and v.

    q f32 [1, n, H, d]; k, v f32 [1, t, KV, d]; mask f32, broadcast to [1, H, n, t] -> f32 [1, n, H, d].
    """
    return [q, k, v, mask], {"scale": float(scale)}


def _cached_reference(builder: Any, call: Any) -> Any:
    q, k, v, positions, slots, pages, k_cache, v_cache = call.args
    if len(shape_of(q)) != 3:  # a leading 1
        q, k, v = (builder.emit(relax.op.reshape(x, shape_of(x)[1:])) for x in (q, k, v))
    if dtype_of(k_cache) == "int8":
        q, k = mixed(builder, q, 1 / mixed_block(int(shape_of(k)[2]))), mixed(builder, k, 1.0)
        (k, v), (k_cache, v_cache) = through_int8(builder, k, v, [positions, slots, pages], [k_cache, v_cache])
    kernel = cached_attention_reference(
        int(shape_of(q)[1]),
        int(shape_of(k)[1]),
        int(shape_of(q)[2]),
        dtype_of(k_cache),
        call.attrs["scale"],
        str(call.attrs["products"]),
    )
    results = relax.op.call_tir_inplace(
        builder.add_func(kernel, "cached_attention_reference"),
        [q, k, v, positions, slots, pages, k_cache, v_cache],
        [6, 7, -1],
        [k_cache.ty, v_cache.ty, q.ty],
    )
    attended = relax.TupleGetItem(builder.emit(results), 2)
    return attended if len(shape_of(call)) == 3 else relax.op.reshape(builder.emit(attended), shape_of(call))


def _leeway(call: Any) -> float:
    return BFLOAT16_LEEWAY if call.attrs["products"] == "bfloat16" else 0.0


@define("cached_attention", infer_type=lambda call: call.args[0].ty, reference=_cached_reference, leeway=_leeway)
def cached_attention(
    q: Any,
    k: Any,
    v: Any,
    positions: Any,
    slots: Any,
    pages: Any,
    k_cache: Any,
    v_cache: Any,
    *,
    scale: float,
    products: Products = "float32",
) -> tuple[list[Any], dict[str, Any]]:
    """Writes k and v of the new tokens into the caches, then attends over each token's sequence up to its position.

    q f32 [n, H, d] and k, v f32 [n, KV, d] (or with a leading 1), rotated; positions, slots i32 [n]: token i is at
    ``positions[i]`` of sequence slot ``slots[i]``, a slot's tokens lie together in ascending order; pages i32 [s, p]:
    position t of slot s is in page ``pages[s, t // page_size]``. Caches, float16 or float32, changed in place: k_cache
    [pages, KV, blocks, d, 16], v_cache [pages, KV, blocks, 16, d]; page_size = 16 * blocks -> f32 like q.
    Or int8 [pages, KV, blocks, d + 4, 16] both: keys, mixed by a Hadamard transform, and values are rounded to int8
    with a scale for each token and head, and 16 scales, float32, lie behind the 16 * d integers of a block (see
    ``int8_cache``).

    ``products`` "bfloat16": q, the keys and values as the caches give them, and the weights exp(score - largest score)
    are rounded to bfloat16, half to even, before they are multiplied; sums stay float32. A kernel may take another
    score than the largest for the weights, and float32 for the tokens of a slot that has few, as in decoding: its
    leeway is that of the rounding.
    """
    _check_products(products)
    arguments = [q, k, v, positions, slots, pages, k_cache, v_cache]
    return arguments, {"scale": float(scale), "products": str(products)}


def _fused_cached_infer(call: Any) -> Any:
    return tensor([*shape_of(call.args[0])[:-1], call.attrs["heads"] * call.attrs["head_dim"]])


def _fused_cached_reference(builder: Any, call: Any) -> Any:
    qkv, *norms, cos, sin, positions, slots, pages, k_cache, v_cache = call.args
    offset = norms.pop() if call.attrs.get("k_offset", False) else None
    heads, kv_heads, dim = (int(call.attrs[name]) for name in ("heads", "kv_heads", "head_dim"))
    n = shape_of(qkv)[0]
    parts = builder.emit(relax.op.split(qkv, [heads * dim, (heads + kv_heads) * dim], axis=-1))
    q = builder.emit(relax.op.reshape(parts[0], [n, heads, dim]))
    k = builder.emit(relax.op.reshape(parts[1], [n, kv_heads, dim]))
    v = builder.emit(relax.op.reshape(parts[2], [n, kv_heads, dim]))
    if norms:
        q, k = (builder.emit(_normalized(x, w, call.attrs["epsilon"])) for x, w in zip((q, k), norms, strict=True))
    from vamc_py.dialect.rotary import rotary

    q, k = (builder.emit(rotary(x, cos, sin)) for x in (q, k))
    if offset is not None:
        k = builder.emit(relax.op.subtract(k, offset))
    attended = cached_attention(
        q, k, v, positions, slots, pages, k_cache, v_cache, scale=call.attrs["scale"], products=call.attrs["products"]
    )
    return relax.op.reshape(builder.emit(attended), [n, heads * dim])


def _normalized(x: Any, weight: Any, epsilon: float) -> Any:
    from vamc_py.dialect.rms_norm import rms_norm

    return rms_norm(x, weight, epsilon=epsilon)


@define("qkv_attention", infer_type=_fused_cached_infer, reference=_fused_cached_reference, leeway=_leeway)
def qkv_attention(
    *arguments: Any,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    epsilon: float = 0.0,
    products: Products = "float32",
    k_offset: bool = False,
) -> tuple[list[Any], dict[str, Any]]:
    """cached_attention with what comes before it: the split of a merged projection, q and k norm, and the rotation.

    qkv f32 [n, (H + 2 KV) * d]: q heads, then k, then v; [q_norm f32 [d], k_norm f32 [d]: RMSNorm over each head, with
    ``epsilon``]; [k_offset f32 [KV, d], with ``k_offset``: what is taken from rotated keys before they are written, the
    same at every position, which changes no softmax]; cos, sin f32 [n, d]; positions, slots, pages, k_cache, v_cache
    and ``products`` as in cached_attention -> f32 [n, H * d].
    """
    _check_products(products)
    attributes: dict[str, Any] = {
        "heads": int(heads),
        "kv_heads": int(kv_heads),
        "head_dim": int(head_dim),
        "scale": float(scale),
        "epsilon": float(epsilon),
        "products": str(products),
    }
    return list(arguments), {**attributes, "k_offset": True} if k_offset else attributes


def _check_products(products: str) -> None:
    if products not in get_args(Products):
        raise ValueError(f"attention multiplies in {' or '.join(get_args(Products))}, not in {products}")


def cached_attention_reference(
    heads: int, kv_heads: int, dim: int, cache_dtype: str, scale: float, products: str = "float32"
) -> Any:
    """The definition of cached_attention as plain scalar loops: slow, and short enough to be checked by reading."""
    group = heads // kv_heads

    def factor(value: Any) -> Any:
        """A float32 as it is multiplied."""
        return to_bfloat16(value) if products == "bfloat16" else value

    @T.prim_func  # type: ignore[untyped-decorator]
    def reference(
        q_handle: T.handle,
        k_handle: T.handle,
        v_handle: T.handle,
        positions_handle: T.handle,
        slots_handle: T.handle,
        pages_handle: T.handle,
        k_cache_handle: T.handle,
        v_cache_handle: T.handle,
        out_handle: T.handle,
    ) -> None:
        T.func_attr({"op_pattern": 8})
        n, s, p, pages_total, blocks = T.int64(), T.int64(), T.int64(), T.int64(), T.int64()
        q = T.match_buffer(q_handle, (n, heads, dim), "float32")
        k = T.match_buffer(k_handle, (n, kv_heads, dim), "float32")
        v = T.match_buffer(v_handle, (n, kv_heads, dim), "float32")
        positions = T.match_buffer(positions_handle, (n,), "int32")
        slots = T.match_buffer(slots_handle, (n,), "int32")
        pages = T.match_buffer(pages_handle, (s, p), "int32")
        k_cache = T.match_buffer(k_cache_handle, (pages_total, kv_heads, blocks, dim, CACHE_BLOCK), cache_dtype)
        v_cache = T.match_buffer(v_cache_handle, (pages_total, kv_heads, blocks, CACHE_BLOCK, dim), cache_dtype)
        out = T.match_buffer(out_handle, (n, heads, dim), "float32")
        state = T.alloc_buffer((3,), "float32")  # largest score, sum of the weights, the score at hand
        for i, h, d in T.grid(n, kv_heads, dim):
            at = T.cast(positions[i], "int64")
            page = pages[slots[i], at // (blocks * CACHE_BLOCK)]
            k_cache[page, h, at // CACHE_BLOCK % blocks, d, at % CACHE_BLOCK] = T.cast(k[i, h, d], cache_dtype)
            v_cache[page, h, at // CACHE_BLOCK % blocks, at % CACHE_BLOCK, d] = T.cast(v[i, h, d], cache_dtype)
        for i, h in T.grid(n, heads):
            state[0] = T.float32(-3e38)
            state[1] = T.float32(0)
            for d in range(dim):
                out[i, h, d] = T.float32(0)
            for passage in range(2):  # first the largest score, then the weighted sum
                for t in range(T.cast(positions[i], "int64") + T.int64(1)):
                    page = pages[slots[i], t // (blocks * CACHE_BLOCK)]
                    state[2] = T.float32(0)
                    for d in range(dim):
                        state[2] = state[2] + factor(q[i, h, d]) * factor(
                            T.cast(k_cache[page, h // group, t // CACHE_BLOCK % blocks, d, t % CACHE_BLOCK], "float32")
                        )
                    state[2] = state[2] * T.float32(scale)
                    if passage == 0:
                        state[0] = T.max(state[0], state[2])
                    else:
                        state[2] = T.exp(state[2] - state[0])
                        state[1] = state[1] + state[2]
                        for d in range(dim):
                            out[i, h, d] = out[i, h, d] + factor(state[2]) * factor(
                                T.cast(
                                    v_cache[page, h // group, t // CACHE_BLOCK % blocks, t % CACHE_BLOCK, d], "float32"
                                )
                            )
            for d in range(dim):
                out[i, h, d] = out[i, h, d] / state[1]

    return reference
