"""Taking what computes nothing out of an exported graph, so that patterns and TVM's importer need not know it."""

from __future__ import annotations

import operator

import torch
from torch import fx

_aten = torch.ops.aten
_hop = torch.ops.higher_order


def tidy(module: fx.GraphModule) -> None:
    """Inlines regions under no_grad or disabled autocast, then drops idle nodes.

    Idle are casts to a tensor's own dtype, slices of everything, dropout at inference, copies for layout only, results
    that nobody reads and torch.export's assertions about dtypes. The names of the graph's inputs and outputs stay.
    """
    for node in list(module.graph.nodes):
        if (region := _region(node)) is not None:
            _inline(module, node, region)
    for node in list(module.graph.nodes):
        if node.target is _aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
        elif _is_idle(node) and not any(user.op == "output" for user in node.users):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


def _region(node: fx.Node) -> int | None:
    """The position of the subgraph among the arguments of a region that may be inlined; its inputs follow it."""
    if node.target is _hop.wrap_with_set_grad_enabled:
        return 1
    if node.target is _hop.wrap_with_autocast and node.args[2] is False:
        return 4
    return None


def _inline(module: fx.GraphModule, node: fx.Node, region: int) -> None:
    subgraph = getattr(module, node.args[region].target).graph
    inputs = [inner for inner in subgraph.nodes if inner.op == "placeholder"]
    values = dict(zip(inputs, node.args[region + 1 :], strict=True))
    with module.graph.inserting_before(node):
        results = module.graph.graph_copy(subgraph, values)
    for user in list(node.users):
        if user.target is not operator.getitem:
            raise ValueError(f"{node.name} is used whole by {user.name}")
        user.replace_all_uses_with(results[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(node)


def _is_idle(node: fx.Node) -> bool:
    if node.target in (_aten.to.dtype, _aten.to.dtype_layout, _aten.to.device):
        source, result = node.args[0].meta["val"], node.meta["val"]
        return bool(source.dtype == result.dtype and source.device == result.device)
    if node.target is _aten.slice.Tensor:
        # A slice never grows, so an equal shape is the whole tensor.
        return bool(tuple(node.args[0].meta["val"].shape) == tuple(node.meta["val"].shape))
    if node.target is _aten.dropout.default:
        return node.args[2] is False
    return node.target is _aten.contiguous.default
