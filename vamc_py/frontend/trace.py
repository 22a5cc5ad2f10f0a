"""From a model's config to the graph that torch.export traces; no weight is read or allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.export.graph_signature import InputKind, InputSpec

from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.qwen2 import Qwen2ForCausalLM
from vamc_py.frontend.models.qwen3 import Qwen3ForCausalLM
from vamc_py.frontend.repeat_layers import repeat_layers
from vamc_py.frontend.tidy import tidy
from vamc_py.frontend.weightless import build_weightless

Mask = Literal["additive", "ones"]

_MODELS: dict[str, type[Qwen2ForCausalLM]] = {"qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}
# Lengths of the example call: different from each other, and from 0 and 1, which torch.export takes for constants.
_NEW, _PAST = 3, 5


@dataclass(frozen=True)
class Inputs:
    """Names of the graph's placeholders. n new tokens, p past positions, both dynamic."""

    input_ids: str  # i64 [1, n]
    attention_mask: str  # f32 [1, 1, n, p+n]
    position_ids: str  # i64 [1, n]
    past: tuple[tuple[str, str], ...]  # for each layer k and v, f32 [1, kv_heads, p, head_dim]


@dataclass(frozen=True)
class Outputs:
    """Names of the graph's results, in the order in which it returns them: logits, then k and v of each layer."""

    logits: str  # f32 [1, n, vocab], or [1, 1, vocab] with insert_slice
    present: tuple[tuple[str, str], ...]  # for each layer k and v, f32 [1, kv_heads, p+n, head_dim]


@dataclass(frozen=True)
class Traced:
    """An exported model with the roles of its inputs, parameters and outputs."""

    program: torch.export.ExportedProgram
    model: ModelConfig
    mask: Mask  # "additive": added to the scores; "ones": 1 where a token attends, 0 elsewhere
    inputs: Inputs
    parameters: Mapping[str, str]  # placeholder -> checkpoint tensor; a tied lm_head maps to model.embed_tokens.weight
    buffers: Mapping[str, str]  # placeholder -> qualified name of the buffer; its value is in buffer_values
    outputs: Outputs

    def buffer_values(self) -> dict[str, torch.Tensor]:
        """Placeholder -> tensor. Buffers of equal value share one tensor."""
        values = {**self.program.constants, **self.program.state_dict}
        return {placeholder: values[name] for placeholder, name in self.buffers.items()}


def trace(model: ModelConfig, *, insert_slice: bool = False) -> Traced:
    """Traces our own model; with ``insert_slice`` only the last token's logits are computed.

    Layers are alike, so two are traced and the second is repeated.
    """
    traced_model = replace(model, layers=min(model.layers, 2))
    module = build_weightless(lambda: _MODELS[model.architecture](traced_model, insert_slice=insert_slice))
    program = _export(module, traced_model)
    if model.layers > 2:
        program = repeat_layers(program, model.layers, _example(model)[0])
    return _describe(program, model, "additive", prefix="")


def trace_module(module: nn.Module, model: ModelConfig, *, mask: Mask, prefix: str = "") -> Traced:
    """Traces a module that is called as our models are: by name, and returning (logits, k and v of each layer).

    ``prefix`` is taken off the front of the module's parameter names to get the checkpoint's.
    """
    return _describe(_export(module, model), model, mask, prefix)


def _export(module: nn.Module, model: ModelConfig) -> torch.export.ExportedProgram:
    arguments, dynamic = _example(model)
    with torch.no_grad():
        program = torch.export.export(module, (), arguments, dynamic_shapes=dynamic, strict=False)
    tidy(program.graph_module)
    return _without_unused_buffers(program)


def importable(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same graph for TVM's importer: parameters are ordinary inputs, their values are gone.

    ``from_exported_program(importable(program), run_ep_decomposition=False)`` then gives a function of them all. The
    importer copies every parameter to a dense tensor even where it is asked to keep it an input: 2.4 GB and 8 s for
    Qwen3-0.6B's shape, against nothing and 0.1 s. It takes the graph without decomposition.
    """
    specs = [
        InputSpec(InputKind.USER_INPUT, spec.arg, None) if spec.kind is InputKind.PARAMETER else spec
        for spec in program.graph_signature.input_specs
    ]
    buffers = {name: value for name, value in program.state_dict.items() if name in program.graph_signature.buffers}
    return _with_inputs(program, specs, buffers)


def _without_unused_buffers(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Drops the inputs for buffers that nothing reads: layers that share a table are given one each by torch.export."""
    unused = {node.name: node for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    specs = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.BUFFER and spec.arg.name in unused:
            program.graph.erase_node(unused[spec.arg.name])
        else:
            specs.append(spec)
    return _with_inputs(program, specs, program.state_dict)


def _with_inputs(
    program: torch.export.ExportedProgram, specs: list[InputSpec], state_dict: dict[str, torch.Tensor]
) -> torch.export.ExportedProgram:
    """The same graph under other input specs, without the constants of buffers that are no inputs any more."""
    kept = {spec.target for spec in specs}
    gone = set(program.graph_signature.buffers) - kept
    return torch.export.ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=replace(program.graph_signature, input_specs=specs),
        state_dict={name: value for name, value in state_dict.items() if name not in gone},
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        constants={name: value for name, value in program.constants.items() if name not in gone},
    )


def _example(model: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the example call, and which of their dimensions are dynamic."""
    auto = torch.export.Dim.AUTO
    past_shape = (1, model.kv_heads, _PAST, model.head_dim)
    arguments = {
        "input_ids": torch.zeros((1, _NEW), dtype=torch.int64),
        "attention_mask": torch.zeros((1, 1, _NEW, _PAST + _NEW)),
        "position_ids": torch.arange(_PAST, _PAST + _NEW)[None],
        "past_key_values": [(torch.zeros(past_shape), torch.zeros(past_shape)) for _ in range(model.layers)],
    }
    dynamic = {
        "input_ids": {1: auto},
        "attention_mask": {2: auto, 3: auto},
        "position_ids": {1: auto},
        "past_key_values": [({2: auto}, {2: auto}) for _ in range(model.layers)],
    }
    return arguments, dynamic


def _describe(program: torch.export.ExportedProgram, model: ModelConfig, mask: Mask, prefix: str) -> Traced:
    signature = program.graph_signature
    ids, attention_mask, positions, *past = signature.user_inputs
    logits, *present = signature.user_outputs
    parameters = {
        placeholder: _tensor_name(name.removeprefix(prefix), model)
        for placeholder, name in signature.inputs_to_parameters.items()
    }
    return Traced(
        program=program,
        model=model,
        mask=mask,
        inputs=Inputs(ids, attention_mask, positions, _pairs(past)),
        parameters=parameters,
        buffers=dict(signature.inputs_to_buffers),
        outputs=Outputs(logits, _pairs(present)),
    )


def _tensor_name(parameter: str, model: ModelConfig) -> str:
    return "model.embed_tokens.weight" if model.tied_embedding and parameter == "lm_head.weight" else parameter


def _pairs(names: list[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(names[::2], names[1::2], strict=True))
