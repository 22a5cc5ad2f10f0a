"""quantize-kv-cache: the KV caches become int8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax

from vamc_py.dialect import LinearCall, qkv_attention
from vamc_py.dialect.int8_cache import CACHE_BLOCK, SCALE_ROWS
from vamc_py.errors import UserError
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.matching import constant, shape
from vamc_py.pipeline.program import Program, layout
from vamc_py.weights.plan import MeanRotated, Recipe

_BEHIND_OFFSET = 7  # cos, sin, positions, slots, pages and both caches
_READERS = ("relax.vamc.cached_attention", "relax.vamc.qkv_attention")


@dataclass(frozen=True)
class QuantizeKvCache(Pass):
    """Keys and values are kept as int8 with a scale for each token and head, in half of the bytes.

    Attention rounds them when it writes them, and multiplies the integers: scales go to the scores and the weights.
    What the bias of k gives to rotated keys at all positions alike is taken from them (it changes no softmax): biases
    of Qwen2 reach 240 in pairs that hardly turn, where the rest of a key is a few units.
    Caches that another operator reads, as dense-kv-cache makes them, cannot be int8; the compile ends there.
    """

    name: ClassVar[str] = "quantize-kv-cache"
    stage: ClassVar[Stage] = "rewrite"
    tolerance: ClassVar[float] = 0.05
    requires: ClassVar[tuple[str, ...]] = ("kv-cache-layout",)
    after: ClassVar[tuple[str, ...]] = ("dense-kv-cache", "fuse-attention")
    targets: ClassVar[tuple[str, ...]] = ("llvm", "vacc")
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        qkv: R.Tensor(("n", 32), "float32"),
        cos: R.Tensor(("n", 8), "float32"),
        sin: R.Tensor(("n", 8), "float32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        k_cache: R.Tensor(("num_pages", 1, "blocks", 8, 16), "float16"),
        v_cache: R.Tensor(("num_pages", 1, "blocks", 16, 8), "float16"),
    ):
        R.func_attr({"vamc.inputs": 6, "vamc.caches": 2})
        with R.dataflow():
            out = R.vamc.qkv_attention(
                qkv, cos, sin, positions, slots, pages, k_cache, v_cache,
                heads=2, kv_heads=1, head_dim=8, scale=0.5, epsilon=0.0, products="float32",
            )
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        inputs, caches, weights = layout(program.function)
        new: dict[Any, Any] = {}
        for index, cache in enumerate(caches):
            if str(cache.ty.dtype) == "int8":
                continue
            for user in graph.users[cache]:
                if operator_name(graph.values[user]) not in _READERS:
                    raise UserError(
                        f"quantize-kv-cache: {cache.name} is read by another operator than attention, which cannot be "
                        "int8; --set frontend.quantize.kv8=false"
                    )
            *lead, first, second = shape(cache)
            dim = int(first if index % 2 == 0 else second)
            kind = relax.TensorType([*lead, dim + SCALE_ROWS, CACHE_BLOCK], "int8")
            new[cache] = relax.Var(cache.name, kind)
        plan = program.plan
        for var, call in graph.calls("relax.vamc.qkv_attention"):
            found = _key_bias(graph, call, weights)
            if found is None or call.attrs.get("k_offset", False):
                continue
            bias, frequencies, scaling = found
            recipe = plan[bias.name]
            if len(recipe.sources) != len("qkv"):
                continue
            kv_heads, dim = int(call.attrs["kv_heads"]), int(call.attrs["head_dim"])
            turns = tuple(float(frequency) for frequency in frequencies)
            offset = relax.Var(f"{bias.name}.k_offset", relax.TensorType([kv_heads, dim], "float32"))
            weights = [*weights, offset]
            steps = (*recipe.steps, MeanRotated(turns, scaling, context.context))
            plan = plan.with_recipes({offset.name: Recipe(recipe.sources[1:2], steps)})
            arguments = list(call.args)
            arguments.insert(len(arguments) - _BEHIND_OFFSET, offset)
            attributes = {**dict(call.attrs.items()), "k_offset": True}
            graph.replace(var, qkv_attention(*arguments, **attributes))
        parameters = [*inputs, *(new.get(cache, cache) for cache in caches), *weights]
        return program.with_function(graph.rebuild(parameters=parameters, substitute=new), plan=plan)


def _key_bias(graph: Graph, call: Any, weights: list[Any]) -> tuple[Any, Any, float] | None:
    """The bias of the merged projection that the attention reads, made of those of q, k and v, with the frequencies
    and the scaling of the rotation; None where there is no such bias, or it does not reach the keys as it is."""
    product = graph.call(call.args[0], "relax.vamc.linear")
    angles = graph.value(call.args[-_BEHIND_OFFSET])
    if product is None or call.attrs["epsilon"] or not isinstance(angles, relax.TupleGetItem):
        return None
    made = graph.call(angles.tuple_value, "relax.vamc.rotary_angles")
    bias = LinearCall.of(product).bias
    frequencies = None if made is None else constant(made.args[1])
    if made is None or frequencies is None or bias not in weights:
        return None
    return bias, frequencies, float(made.attrs["scaling"])
