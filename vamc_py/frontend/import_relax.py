"""From the graph that torch.export traced to a Relax module whose weights are named parameters."""

from __future__ import annotations

from typing import Any

from tvm import relax, tirx
from tvm.relax.frontend.torch import from_exported_program

from vamc_py import _tvm
from vamc_py.errors import CheckpointError
from vamc_py.frontend.trace import Traced, importable
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import shape, static
from vamc_py.pipeline.program import CACHES_ATTRIBUTE, INPUTS_ATTRIBUTE, MASK_ATTRIBUTE, Program
from vamc_py.weights.plan import Cast, ParameterPlan, Recipe


def import_traced(traced: Traced) -> Program:
    """The traced model as ``main(input_ids, attention_mask, position_ids, past…, weights…)``, nothing raised yet.

    input_ids, position_ids i64 [1, n]; attention_mask f32 [1, 1, n, p + n]; for each layer k and v f32 [1, KV, p, d];
    weights f32, named as in the checkpoint, a tied weight once -> (logits f32 [1, n, V], k and v of each layer grown).
    """
    module = from_exported_program(
        importable(traced.program),
        run_ep_decomposition=False,
        unwrap_unit_return_tuple=True,
        custom_convert_map=_tvm.torch_converters(),
    )
    return _named(module, traced)


def _with_readable_symbols(function: Any, traced: Traced) -> Any:
    """The symbolic dimensions as n (new tokens) and p (past positions) instead of torch's numbered ones."""
    by_name = {parameter.name: parameter for parameter in function.params}
    n = by_name[traced.inputs.input_ids].ty.shape[1]
    p = by_name[traced.inputs.past[0][0]].ty.shape[2]
    return function.bind_symbolic_vars({n: tirx.Var("n", "int64"), p: tirx.Var("p", "int64")})


def _named(module: Any, traced: Traced) -> Program:
    """Weights under their checkpoint names, a tied weight once, unused ones dropped, inputs in a fixed order."""
    function = _with_readable_symbols(module["main"], traced)
    graph = Graph(function)
    inputs = traced.inputs
    names = [inputs.input_ids, inputs.attention_mask, inputs.position_ids, *(n for pair in inputs.past for n in pair)]
    by_name = {parameter.name: parameter for parameter in graph.parameters}
    roles = ["input_ids", "attention_mask", "position_ids"]
    roles += [f"past_{part}_{layer}" for layer in range(len(inputs.past)) for part in ("k", "v")]
    substitute: dict[Any, Any] = {}
    parameters: list[Any] = []
    for name, role in zip(names, roles, strict=True):
        substitute[by_name[name]] = relax.Var(role, by_name[name].ty)
        parameters.append(substitute[by_name[name]])
    weights: dict[str, Any] = {}
    for placeholder, tensor in traced.parameters.items():
        old = by_name.get(placeholder)
        if old is None or not graph.users[old]:
            continue
        if tensor not in weights:
            weights[tensor] = relax.Var(tensor, old.ty)
        substitute[old] = weights[tensor]
    parameters += weights.values()
    left = [p.name for p in graph.parameters if p not in substitute and graph.users[p]]
    if left:
        raise ValueError(f"the trace has inputs without a role: {', '.join(left)}")
    _check_logits(graph.outputs()[0], traced)
    function = graph.rebuild(
        parameters=parameters,
        substitute=substitute,
        attributes={INPUTS_ATTRIBUTE: len(names), CACHES_ATTRIBUTE: 0, MASK_ATTRIBUTE: traced.mask},
    )
    plan = ParameterPlan({tensor: Recipe((tensor,), (Cast("float32"),)) for tensor in weights})
    return Program(module, plan).with_function(function)


def _check_logits(logits: Any, traced: Traced) -> None:
    width = static(shape(logits)[-1])
    if width != traced.model.vocab_size:
        raise CheckpointError(
            f"the model returns {width} values a token instead of logits over its {traced.model.vocab_size} tokens: "
            "only causal language models compile; an embedding model does not yet"
        )
