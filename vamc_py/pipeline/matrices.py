"""Which weights may change their element type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vamc_py.pipeline.graph import Graph, operator_name, variables

# Both take their matrix or table in any type, as the second argument.
_READERS = ("relax.vamc.linear", "relax.vamc.embedding")


def matrices(graph: Graph, weights: Iterable[Any]) -> set[Any]:
    """The weights that linear layers read as their matrix or embeddings as their table, and nothing reads otherwise."""
    read = {call.args[1] for reader in _READERS for _, call in graph.calls(reader)}
    return {w for w in weights if w in read and all(_as_matrix(graph.values[user], w) for user in graph.users[w])}


def outer_matrices(graph: Graph) -> set[Any]:
    """The tables of embeddings, and the matrix of the linear layer that makes the logits."""
    head = graph.call(graph.outputs()[0], "relax.vamc.linear")
    tables = {call.args[1] for _, call in graph.calls("relax.vamc.embedding")}
    return tables | ({head.args[1]} if head is not None else set())


def _as_matrix(value: Any, weight: Any) -> bool:
    if operator_name(value) not in _READERS:
        return False
    return [i for i, argument in enumerate(value.args) if weight in variables(argument)] == [1]
