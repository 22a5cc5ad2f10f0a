"""quantize-activations: in which arithmetic int8 weights meet activations, and attention its keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from vamc_py.activation import NO_BF16, Activation, default_wide_rows
from vamc_py.config.patterns import LM_HEAD, matches, without_match
from vamc_py.dialect import LinearCall, cached_attention, qkv_attention
from vamc_py.errors import UserError
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import ACTIVATION_ATTRIBUTE, WIDE_ROWS_ATTRIBUTE, Program

_ATTENTIONS = {"relax.vamc.cached_attention": cached_attention, "relax.vamc.qkv_attention": qkv_attention}
_BF16_TOLERANCE = 0.01
_OUTLIERS_TOLERANCE = 0.2  # one large value in a row of 5,000 leaves the others few of the 127 steps


@dataclass(frozen=True)
class QuantizeActivations(Pass):
    """Linear layers of int8 weights take activations of fewer than 16 bits, in steps of more than ``wide_rows`` rows.

    ``activation`` is int16 (nothing changes), bf16, or int8 for each token and group of columns: int8_g32, int8_g64,
    int8_g128, int8_token; null is bf16 where the target has AVX512-BF16, else int16. Up to ``wide_rows`` rows (null: 8,
    with bf16 24), as in decoding, layers keep 16 bits: reading the weights takes longer than the products. Layers whose
    weight has a name like a pattern of ``wide``, such as ``*.down_proj``, stay as they are. A merged weight has the
    names of all its parts, with or without ``.weight``; the layer that makes the logits has the name ``lm_head``, too.

    int8 activations are for weights with one scale a row alone; layers of other formats (int4, scales for groups of
    columns, float8) take bf16 then where the target has it, else 16 bits.

    Where the target has AVX512-BF16 and the caches 16 bits, attention over several tokens of a sequence multiplies in
    bfloat16, unless ``activation`` is int16.
    """

    activation: Activation | None = None
    wide_rows: int | None = None
    wide: tuple[str, ...] = ()

    name: ClassVar[str] = "quantize-activations"
    stage: ClassVar[Stage] = "rewrite"
    # A group's values are off by up to 1/254 of the largest. A whole row whose largest value stands alone is worst.
    tolerance: ClassVar[float] = 0.05
    after: ClassVar[tuple[str, ...]] = ("quantize-int8",)  # only int8 weights have a choice
    targets: ClassVar[tuple[str, ...]] = ("llvm", "vacc")
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        x: R.Tensor(("n", 256), "float32"),
        up_proj: R.Tensor((512, 256), "int8"),
        up_scale: R.Tensor((512,), "float32"),
        down_proj: R.Tensor((256, 512), "int8"),
        down_scale: R.Tensor((256,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            up = R.vamc.linear(x, up_proj, up_scale, bias=False, residual=False)
            out = R.vamc.linear(up, down_proj, down_scale, x, bias=False, residual=True)
            R.output(out)
        return out
"""

    def __post_init__(self) -> None:
        if self.wide_rows is not None and self.wide_rows < 0:
            raise ValueError(f"wide_rows is a number of rows, not {self.wide_rows}")

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        calls = ((var, LinearCall.of(call)) for var, call in graph.calls("relax.vamc.linear"))
        layers = {var: layer for var, layer in calls if layer.scale is not None}
        names = {var: _names(graph, var, layer.weight, program) for var, layer in layers.items()}
        for pattern in self.wide:
            if not any(matches(pattern, name) for own in names.values() for name in own):
                known = [name for own in names.values() for name in own]
                raise UserError(f"quantize-activations: wide: {without_match(pattern, known)}")
        activation = self.resolved(context)
        if activation == "int16" or not layers:
            return program
        of_groups: Activation = "bf16" if context.target.instruction_set.bf16 else "int16"
        for var, layer in layers.items():
            if not any(matches(pattern, name) for pattern in self.wide for name in names[var]):
                own = activation if layer.per_row else of_groups
                rows = self._wide_rows(own) if own != "int16" else 0
                graph.replace(var, replace(layer, activation=own, wide_rows=rows).make())
        if context.target.instruction_set.bf16:
            _round_attention(graph)
        said = {ACTIVATION_ATTRIBUTE: activation, WIDE_ROWS_ATTRIBUTE: self._wide_rows(activation)}
        return program.with_function(graph.rebuild(attributes={**dict(program.function.attrs.items()), **said}))

    def _wide_rows(self, activation: Activation) -> int:
        return default_wide_rows(activation) if self.wide_rows is None else self.wide_rows

    def resolved(self, context: Context) -> Activation:
        """``activation``, or what null means on the target. UserError for one that the target does not have."""
        has_bf16 = context.target.instruction_set.bf16
        if self.activation == "bf16" and not has_bf16:
            raise UserError(f"quantize-activations: {NO_BF16}")
        return self.activation or ("bf16" if has_bf16 else "int16")

    def tolerance_for(self, context: Context) -> float:
        """By the rounding that takes place."""
        activation = self.resolved(context)
        if activation == "int8_token":
            return _OUTLIERS_TOLERANCE
        return _BF16_TOLERANCE if activation in ("int16", "bf16") else self.tolerance


def _names(graph: Graph, var: Any, weight: Any, program: Program) -> tuple[str, ...]:
    """The names of a layer's weight: the checkpoint's tensors that it is made of, and lm_head's of the last layer."""
    sources = program.plan[weight.name].sources if weight in set(graph.parameters) else ()
    # A tied one has the embedding's name in the checkpoint.
    return (*sources, LM_HEAD) if var == graph.outputs()[0] and LM_HEAD not in sources else sources


def _round_attention(graph: Graph) -> None:
    for operator, make in _ATTENTIONS.items():
        for var, call in graph.calls(operator):
            if str(call.args[-1].ty.dtype) != "float32":
                graph.replace(var, make(*call.args, **{**dict(call.attrs.items()), "products": "bfloat16"}))
