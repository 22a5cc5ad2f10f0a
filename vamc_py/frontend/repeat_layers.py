"""Growing the exported graph of a two-layer model to any number of equal layers.

torch.export takes 0.4 s a layer, most of it reasoning about symbolic lengths; copying a layer's nodes takes
milliseconds. The result is node for node what torch.export gives for the whole model (a test compares them).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputSpec, OutputSpec, TensorArgument
from torch.utils import _pytree as pytree

_OF_LAYER_1 = re.compile(r"(?<=layers[._])1(?=[._])|(?<=past_key_values_)1(?=_)")


def repeat_layers(
    program: torch.export.ExportedProgram, layers: int, arguments: dict[str, Any]
) -> torch.export.ExportedProgram:
    """The program of ``layers`` ≥ 2 layers from that of two, whose second layer is the pattern.

    The modules of a layer are called ``….layers.N.…`` and its past ``past_key_values_N_…``; the program returns logits
    and, for each layer, k and v. ``arguments`` are those of an example call with all layers. ``program`` is used up.
    """
    growth = _Growth(program)
    for layer in range(2, layers):
        growth.add(layer)
    return growth.finish(arguments)


class _Growth:
    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.graph: fx.Graph = program.graph
        self.body = [node for node in self.graph.nodes if _layer(node) == 1]
        self.entry = [node for node in self.graph.nodes if _layer(node) == 0][-1]
        self.exit = self.body[-1]
        self.specs: list[InputSpec] = list(program.graph_signature.input_specs)
        self.pattern = {spec.arg.name: spec for spec in self.specs if _OF_LAYER_1.search(spec.arg.name)}
        self.placeholders = [node for node in self.graph.nodes if node.name in self.pattern]
        # Where the next layer goes: its placeholders behind the last layer's of their kind, its body behind the last's.
        self.tails = {self.pattern[node.name].kind: node for node in self.placeholders}
        self.hidden = self.exit
        self.readers = [user for user in self.exit.users if user not in self.body]
        self.present: list[fx.Node] = []
        self.parameters: dict[str, nn.Parameter] = {}

    def add(self, layer: int) -> None:
        copies = {self.entry: self.hidden}
        for node in self.placeholders:
            copies[node] = self._add_placeholder(node, layer)
        point = self.hidden
        for node in self.body:
            with self.graph.inserting_after(point):
                point = copies[node] = self.graph.node_copy(node, lambda old: copies.get(old, old))
        self.hidden = point
        self.present += [copies[node] for node in self.graph.output_node().args[0][-2:]]

    def _add_placeholder(self, node: fx.Node, layer: int) -> fx.Node:
        spec = self.pattern[node.name]
        with self.graph.inserting_after(self.tails[spec.kind]):
            copy = self.graph.placeholder(_OF_LAYER_1.sub(str(layer), node.name))
        self.tails[spec.kind] = copy
        copy.meta = dict(node.meta)
        target = None
        if spec.target is not None:
            target = _OF_LAYER_1.sub(str(layer), spec.target)
            self.parameters[target] = _like(self.program.state_dict[spec.target])
        self.specs.append(InputSpec(spec.kind, TensorArgument(copy.name), target))
        return copy

    def finish(self, arguments: dict[str, Any]) -> torch.export.ExportedProgram:
        for reader in self.readers:
            reader.replace_input_with(self.exit, self.hidden)
        output = self.graph.output_node()
        output.args = ((*output.args[0], *self.present),)
        self.program.graph_module.recompile()
        signature = self.program.graph_signature
        return torch.export.ExportedProgram(
            root=self.program.graph_module,
            graph=self.graph,
            graph_signature=replace(signature, input_specs=self._input_specs(), output_specs=self._output_specs()),
            state_dict=self.program.state_dict | self.parameters,
            range_constraints=self.program.range_constraints,
            module_call_graph=self._calls(arguments),
            constants=self.program.constants,
        )

    def _input_specs(self) -> list[InputSpec]:
        """In the order of the placeholders."""
        by_name = {spec.arg.name: spec for spec in self.specs}
        return [by_name[node.name] for node in self.graph.nodes if node.op == "placeholder"]

    def _output_specs(self) -> list[OutputSpec]:
        known = self.program.graph_signature.output_specs
        return [*known, *(OutputSpec(known[-1].kind, TensorArgument(node.name), None) for node in self.present)]

    def _calls(self, arguments: dict[str, Any]) -> list[Any]:
        """How the whole program is called; what torch.export knows of the calls inside it is dropped."""
        whole = self.program.module_call_graph[0]
        layers = len(arguments["past_key_values"])
        signature = replace(
            whole.signature,
            inputs=[spec.arg for spec in self._input_specs() if spec.target is None],
            outputs=[spec.arg for spec in self._output_specs()],
            in_spec=pytree.tree_structure(((), arguments)),
            out_spec=pytree.tree_structure((0, [(0, 0)] * layers)),
        )
        return [replace(whole, signature=signature)]


def _layer(node: fx.Node) -> int | None:
    """The layer in whose module a node was traced."""
    for path, _ in reversed(node.meta.get("nn_module_stack", {}).values()):
        if found := re.search(r"(?:^|\.)layers\.(\d+)(?:\.|$)", path):
            return int(found[1])
    return None


def _like(parameter: torch.Tensor) -> nn.Parameter:
    """Another stride-0 parameter of the same shape."""
    return nn.Parameter(torch.zeros((), dtype=parameter.dtype).expand(parameter.shape), requires_grad=False)
