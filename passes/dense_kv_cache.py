"""dense-kv-cache: the step for a model whose attention the compiler does not know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax

from vamc_py.dialect import cache_append, causal_mask
from vamc_py.dialect.attention import CACHE_BLOCK
from vamc_py.errors import UserError
from vamc_py.passes.kv_cache_layout import (
    cache_parameters,
    cache_sizes,
    select_wanted_rows,
    step_inputs,
    step_program,
)
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.matching import shape
from vamc_py.pipeline.program import MAIN, MASK_ATTRIBUTE, ONE_SLOT_ATTRIBUTE, Program, layout

# With the dense cache a token's keys lie at its position, not behind the past: an operator that counts would be wrong.
_COUNTING = {f"relax.{name}" for name in ("arange", "tril", "triu", "cumsum", "cumprod", "argsort", "sort", "flip")}


@dataclass(frozen=True)
class DenseKvCache(Pass):
    """Where kv-cache-layout did not fire: ``concat(past, new)`` becomes ``R.vamc.cache_append``, which writes the new
    tokens into the cache and gives the whole context by position, and the mask input becomes ``R.vamc.causal_mask``.

    Right for any attention whose mask comes from the mask input, and slow: each step reads the whole context. Such a
    step takes the tokens of one slot at a time; the manifest tells the runtime.
    """

    name: ClassVar[str] = "dense-kv-cache"
    stage: ClassVar[Stage] = "rewrite"
    tolerance: ClassVar[float] = 0.05  # likewise
    after: ClassVar[tuple[str, ...]] = ("kv-cache-layout",)
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
            x = R.vamc.embedding(input_ids, table)
            q = R.reshape(x, R.shape([1, 1, n, 4]))
            k = R.concat((past_k_0, q), axis=2)
            v = R.concat((past_v_0, q), axis=2)
            scores = R.add(R.matmul(q, R.permute_dims(k, axes=[0, 1, 3, 2])), attention_mask)
            attended = R.matmul(R.sigmoid(scores), v)
            hidden = R.reshape(attended, R.shape([1, n, 4]))
            logits = R.vamc.linear(hidden, table, bias=False, residual=False)
            out = (logits, k, v)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        if program.name != MAIN:
            return program
        length = -(-context.context // CACHE_BLOCK) * CACHE_BLOCK
        graph = Graph(_with_whole_context(program.function, length))
        _check_no_counting(graph)
        inputs = layout(graph.function)[0]
        n = shape(graph.parameter("input_ids"))[1]
        new_inputs = step_inputs(n)
        _, positions, slots, rows, pages = new_inputs
        caches = _append_to_caches(graph, inputs, length, context.target.cache_dtype, (positions, slots, pages))
        mask = causal_mask(positions, length=length, kind=_mask_kind(graph.function))
        return step_program(
            program,
            graph,
            new_inputs,
            caches,
            select_wanted_rows(graph, rows, n),
            context,
            substitute={graph.parameter("attention_mask"): mask},
            attributes={ONE_SLOT_ATTRIBUTE: 1},
        ).note("dense-kv-cache fired: each step reads the whole context, for one sequence at a time")


def _with_whole_context(function: Any, length: int) -> Any:
    """The function with past + new = ``length`` positions, whatever the number of new tokens."""
    by_name = {parameter.name: parameter for parameter in function.params}
    n, past = shape(by_name["input_ids"])[1], shape(by_name["past_k_0"])[2]
    return function.bind_symbolic_vars({past: length - n})


def _mask_kind(function: Any) -> str:
    return str(function.attrs[MASK_ATTRIBUTE]) if MASK_ATTRIBUTE in function.attrs else "additive"


def _check_no_counting(graph: Graph) -> None:
    counting = sorted({operator_name(value) for value in graph.values.values()} & _COUNTING)
    if counting:
        raise UserError(
            "the model's attention is not of a kind that the compiler knows, and it uses "
            f"{', '.join(counting)}, which may count positions: its KV cache cannot be laid out"
        )


def _append_to_caches(
    graph: Graph, inputs: list[Any], length: int, dtype: str, step: tuple[Any, Any, Any]
) -> list[Any]:
    """Replaces each concat of past and new; returns the cache parameters, k and v by layer."""
    grown = {}
    for var, call in graph.calls("relax.concat"):
        fields = [graph.origin(field) for field in call.args[0].fields] if isinstance(call.args[0], relax.Tuple) else []
        if len(fields) == 2 and fields[0] in inputs and int(call.attrs.axis) in (2, -2):
            grown[fields[0]] = (var, fields[1])
    caches: list[Any] = []
    past = [var for var in inputs if var.name.startswith("past_")]
    sizes = cache_sizes()
    for layer, (past_k, past_v) in enumerate(zip(past[::2], past[1::2], strict=True)):
        if any(var not in grown or graph.users[var] != [grown[var][0]] for var in (past_k, past_v)):
            raise UserError(f"layer {layer} does not append its new keys and values to the past; not supported")
        kv_heads, dim = shape(past_k)[1], shape(past_k)[3]
        pair = cache_parameters(layer, kv_heads, dim, dtype, sizes)
        for var, cache, keys in ((past_k, pair[0], True), (past_v, pair[1], False)):
            concat, new = grown[var]
            graph.replace(concat, cache_append(new, *step, cache, length=length, keys=keys))
        caches += pair
    return caches
