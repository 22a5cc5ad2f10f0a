"""kv-cache-layout: from one sequence with a growing past to the ragged step over in-place caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax, tirx

from vamc_py.dialect import cached_attention, select_rows
from vamc_py.dialect.attention import CACHE_BLOCK
from vamc_py.errors import UserError
from vamc_py.passes.strided_slice import last_token
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph, operator_name, variables
from vamc_py.pipeline.matching import constant, same_shape, scalar, shape
from vamc_py.pipeline.program import CACHES_ATTRIBUTE, INPUTS_ATTRIBUTE, STEP, Program, layout

_HEADS_BEHIND_TOKENS = [0, 2, 1, 3]


@dataclass(frozen=True)
class KvCacheLayout(Pass):
    """Turns ``main`` (one sequence, past in, past + new out) into ``step``, which takes any mixture of sequences.

    ``step(tokens i32[n], positions i32[n], slots i32[n], rows i32[m], pages i32[s, p], caches…, weights…) -> logits
    f32[m, V]``. ``concat(past, new)`` with attention becomes ``R.vamc.cached_attention`` on caches changed in place.
    The mask is dropped: it must come from the ``attention_mask`` input alone, which is causal by the runtime's
    contract. The last token's slice becomes the wanted ``rows``.
    """

    name: ClassVar[str] = "kv-cache-layout"
    stage: ClassVar[Stage] = "rewrite"
    tolerance: ClassVar[float] = 0.05  # a float16 cache, and keys far from zero
    after: ClassVar[tuple[str, ...]] = ("raise-attention", "strided-slice")
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        input_ids: R.Tensor((1, "n"), "int64"),
        attention_mask: R.Tensor((1, 1, "n", "p + n"), "float32"),
        position_ids: R.Tensor((1, "n"), "int64"),
        past_k_0: R.Tensor((1, 1, "p", 4), "float32"),
        past_v_0: R.Tensor((1, 1, "p", 4), "float32"),
        table: R.Tensor((9, 4), "float32"),
    ):
        R.func_attr({"vamc.inputs": 5})
        n = T.int64()
        with R.dataflow():
            q = R.reshape(R.vamc.embedding(input_ids, table), R.shape([1, n, 1, 4]))
            new = R.permute_dims(q, axes=[0, 2, 1, 3])
            k = R.concat((past_k_0, new), axis=2)
            v = R.concat((past_v_0, new), axis=2)
            keys = R.permute_dims(k, axes=[0, 2, 1, 3])
            values = R.permute_dims(v, axes=[0, 2, 1, 3])
            attended = R.vamc.attention(q, keys, values, attention_mask, scale=0.5)
            hidden = R.reshape(attended, R.shape([1, n, 4]))
            logits = R.vamc.linear(hidden, table, bias=False, residual=False)
            out = (logits, k, v)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        inputs = layout(program.function)[0]
        unknown = _layers_without_attention(graph, inputs)
        if unknown:
            return program.note(f"kv-cache-layout did not fire: no attention was recognised in layers {unknown}")
        new_inputs = step_inputs(shape(graph.parameter("input_ids"))[1])
        tokens, positions, slots, rows, pages = new_inputs
        caches = _replace_attention(graph, inputs, context.target.cache_dtype, (positions, slots, pages))
        logits = select_wanted_rows(graph, rows, shape(tokens)[0])
        return step_program(program, graph, new_inputs, caches, logits, context)


def step_program(
    program: Program,
    graph: Graph,
    new_inputs: list[Any],
    caches: list[Any],
    logits: Any,
    context: Context,
    *,
    substitute: Mapping[Any, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Program:
    """The program with ``step``, built from the graph of ``main``, in its place.

    ``substitute`` replaces further inputs of ``main``; ``attributes`` are further ones of the function. UserError when
    something is left that only ``main`` has.
    """
    tokens, positions, *_ = new_inputs
    n = shape(tokens)[0]  # the trace's own symbol: shapes in the graph are written with it
    function = graph.rebuild(
        parameters=[*new_inputs, *caches, *layout(graph.function)[2]],
        substitute={
            graph.parameter("input_ids"): relax.op.reshape(tokens, [1, n]),
            graph.parameter("position_ids"): relax.op.reshape(positions, [1, n]),
            **(substitute or {}),
        },
        outputs=[logits],
        attributes={
            INPUTS_ATTRIBUTE: len(new_inputs),
            CACHES_ATTRIBUTE: len(caches),
            "tir_var_upper_bound": {"n": context.prefill, "m": context.prefill},  # memory is planned by it
            **(attributes or {}),
        },
    )
    _check_closed(function)
    return program.with_function(function, name=STEP)


def cache_parameters(layer: int, kv_heads: Any, dim: Any, dtype: str, sizes: tuple[Any, Any]) -> tuple[Any, Any]:
    """The k and v cache of a layer; ``sizes`` are the symbols (number of pages, blocks of a page)."""
    pages, blocks = sizes
    shapes = {"k": [pages, kv_heads, blocks, dim, CACHE_BLOCK], "v": [pages, kv_heads, blocks, CACHE_BLOCK, dim]}
    k, v = (relax.Var(f"{p}_cache_{layer}", relax.TensorType(dims, dtype)) for p, dims in shapes.items())
    return k, v


def cache_sizes() -> tuple[Any, Any]:
    """The symbols that all caches share: the number of pages and the blocks of a page."""
    return tirx.Var("num_pages", "int64"), tirx.Var("blocks", "int64")


def _layers_without_attention(graph: Graph, inputs: list[Any]) -> list[int]:
    """Layers whose past no R.vamc.attention reads."""
    known: set[Any] = set()
    for _, call in graph.calls("relax.vamc.attention"):
        for argument in call.args[1:3]:
            known |= _past_behind(graph, argument)
    past_keys = [var for var in inputs if var.name.startswith("past_k_")]
    return [layer for layer, var in enumerate(past_keys) if var not in known]


def _past_behind(graph: Graph, expression: Any) -> set[Any]:
    """The past inputs that a key or value argument is made of, through transposes and concatenations."""
    value = graph.value(expression)
    if isinstance(value, relax.Call) and value.op.name in ("relax.permute_dims", "relax.concat"):
        return {past for var in variables(value) for past in _past_behind(graph, var)}
    return {value} if isinstance(value, relax.Var) else set()


def _check_closed(function: Any) -> None:
    """Nothing may be left of what only ``main`` has: the past, its length, the mask."""
    left = {var.name for var in [*relax.analysis.free_vars(function), *relax.analysis.free_symbolic_vars(function)]}
    if left:
        raise UserError(
            f"the model computes with {', '.join(sorted(left))} outside of attention (p is the length of the past): "
            "the KV cache cannot be laid out"
        )


def step_inputs(n: Any) -> list[Any]:
    m, s, p = (tirx.Var(name, "int64") for name in ("m", "s", "p"))
    shapes = {"tokens": [n], "positions": [n], "slots": [n], "rows": [m], "pages": [s, p]}
    return [relax.Var(name, relax.TensorType(dimensions, "int32")) for name, dimensions in shapes.items()]


def _replace_attention(graph: Graph, inputs: list[Any], dtype: str, step: tuple[Any, Any, Any]) -> list[Any]:
    """Replaces every attention; returns the cache parameters, k and v by layer."""
    mask_input = graph.parameter("attention_mask")
    past = [var for var in inputs if var.name.startswith("past_")]
    present = dict(zip(past, graph.outputs()[1:], strict=True))
    sizes = cache_sizes()
    caches: dict[str, Any] = {}
    for var, call in graph.calls("relax.vamc.attention"):
        q, k, v, mask = call.args
        _check_mask(graph, mask, mask_input)
        (past_k, new_k), (past_v, new_v) = (_grown(graph, x, present) for x in (k, v))
        layer = past_k.name.removeprefix("past_k_")
        if past_v.name != f"past_v_{layer}" or f"k_cache_{layer}" in caches:
            raise UserError(
                f"the attention of layer {layer} mixes the caches of two layers; this model is not supported"
            )
        k_cache, v_cache = cache_parameters(int(layer), shape(k)[2], shape(k)[3], dtype, sizes)
        caches[f"k_cache_{layer}"], caches[f"v_cache_{layer}"] = k_cache, v_cache
        graph.replace(var, cached_attention(q, new_k, new_v, *step, k_cache, v_cache, scale=call.attrs["scale"]))
    layers = len(past) // 2
    return [caches[f"{part}_cache_{layer}"] for layer in range(layers) for part in ("k", "v")]


def _grown(graph: Graph, expression: Any, present: dict[Any, Any]) -> tuple[Any, Any]:
    """(past input, new [1, n, KV, d]) of ``permute_dims(concat(past, new))``, where the concat is returned as well."""
    permuted = graph.call(expression, "relax.permute_dims")
    concat = graph.call(permuted.args[0], "relax.concat") if permuted is not None else None
    if permuted is not None and concat is not None and isinstance(concat.args[0], relax.Tuple):
        fields = [graph.origin(field) for field in concat.args[0].fields]
        along_positions = int(concat.attrs.axis) in (2, -2) and list(permuted.attrs.axes or []) == _HEADS_BEHIND_TOKENS
        if len(fields) == 2 and along_positions and graph.origin(permuted.args[0]) == present.get(fields[0]):
            return fields[0], graph.bind(relax.op.permute_dims(fields[1], _HEADS_BEHIND_TOKENS), "new")
    raise UserError(
        "an attention does not read all past keys and values followed by the new ones, as the model returns them; "
        "this model is not supported"
    )


def _check_mask(graph: Graph, mask: Any, mask_input: Any) -> None:
    """The mask may be any pointwise function of the mask input; one that knows positions (a window, say) may not be
    dropped, and it would show here as an operator such as arange or tril, or as another input."""
    stack, seen = [mask], set()
    while stack:
        var = stack.pop()
        if var in seen or scalar(var) is not None:
            continue
        seen.add(var)
        if var == mask_input:
            continue
        value = graph.value(var)
        if operator_name(value) not in _POINTWISE:
            source = operator_name(value) or "a table or another input"
            raise UserError(
                f"the attention mask is computed by {source} besides the attention_mask input; "
                "only causal attention is supported"
            )
        stack.extend(a for a in value.args if isinstance(a, relax.Var) or constant(a) is not None)
    if mask_input not in seen:
        raise UserError("an attention does not use the attention_mask input; only causal attention is supported")


_POINTWISE = {
    f"relax.{name}"
    for name in (
        "add", "subtract", "multiply", "divide", "negative", "minimum", "maximum", "clip", "astype",
        "where", "equal", "not_equal", "greater", "less", "logical_not",
        "full", "full_like", "zeros", "zeros_like", "ones", "ones_like",
        "broadcast_to", "expand_dims", "reshape", "squeeze",
    )
}  # fmt: skip


def select_wanted_rows(graph: Graph, rows: Any, n: Any) -> Any:
    """Replaces the last token's slice before lm_head by the wanted rows; without one the logits are selected."""
    logits = graph.origin(graph.outputs()[0])
    at, hidden = _last_token_before(graph, logits)
    if not same_shape(shape(hidden)[:-1], [1, n]):
        raise UserError("the model computes the logits of some tokens only, in a way that the compiler does not know")
    if at == logits:
        return graph.bind(select_rows(hidden, rows), "wanted_logits")
    graph.replace(at, select_rows(hidden, rows))
    return logits


def _last_token_before(graph: Graph, logits: Any) -> tuple[Any, Any]:
    """(the slice of the last token, what it slices), searched behind lm_head and the final norm; else logits twice."""
    at = logits
    while True:
        hidden = last_token(graph, at)
        if hidden is not None:
            return at, hidden
        call = graph.value(at)
        if operator_name(call) not in ("relax.vamc.linear", "relax.vamc.rms_norm"):
            return logits, logits
        at = graph.origin(call.args[0])
