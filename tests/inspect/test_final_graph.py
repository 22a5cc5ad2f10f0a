"""The graph of the report: what it reads, where it belongs, and what of it is TVM's own loops."""

from __future__ import annotations

import pytest

from vamc_py.errors import UserError
from vamc_py.inspect.costs import StepSize
from vamc_py.inspect.dump import Dump, DumpIndex
from vamc_py.inspect.final_graph import final_graph, nodes
from vamc_py.inspect.report_model import Node

DECODE = StepSize(tokens=1, rows=1, start=16, context=128)
PREFILL = StepSize(tokens=64, rows=1, start=0, context=128)
LAYER = ["linear", "qkv_attention", "linear", "linear", "linear"]
LAST_LAYER = ["linear", "qkv_attention", "select_rows", "select_rows", "linear", "linear", "linear"]


@pytest.fixture(scope="module")
def shown(dump_with_kernels: Dump) -> tuple[Node, ...]:
    return nodes(final_graph(dump_with_kernels), DECODE, PREFILL)


def test_nodes_are_the_calls_in_order(shown: tuple[Node, ...]) -> None:
    kinds = [node.kind for node in shown if node.kind != "rotary_angles"]  # once, somewhere before the first attention
    assert kinds == ["embedding", *LAYER, *LAST_LAYER, "linear"]
    assert len({node.id for node in shown}) == len(shown)
    assert all(node.kernel for node in shown)


def test_layers(shown: tuple[Node, ...]) -> None:
    assert [node.kind for node in shown if node.layer == 0] == LAYER
    assert [node.kind for node in shown if node.layer == 1] == LAST_LAYER
    outside = [node.kind for node in shown if node.layer is None]
    assert outside == ["embedding", "rotary_angles", "linear"]


def test_edges_lead_to_what_runs_before(shown: tuple[Node, ...]) -> None:
    known = {"tokens", "positions", "slots", "rows", "pages"}
    known |= {f"{part}_cache_{layer}" for part in "kv" for layer in (0, 1)}
    for node in shown:
        assert set(node.inputs) <= known
        known.add(node.id)
    read = {name for node in shown for name in node.inputs}
    assert known - read == {shown[-1].id}  # everything but the logits is read


def test_parameters_have_their_names_and_sizes(shown: tuple[Node, ...]) -> None:
    down, last = ([node for node in shown if node.kind == "linear" and node.layer == layer][-1] for layer in (0, 1))
    assert down.parameters == (
        "model.layers.0.mlp.down_proj.weight uint8[1, 24, 4, 16, 4]",
        "model.layers.0.mlp.down_proj.weight.scale float32[64]",
    )
    assert down.parameter_bytes == 24 * 256 + 4 * 64
    assert (down.shape, down.dtype) == ("[n, 64]", "float32")
    assert (down.decode_operations, down.prefill_operations) == (2 * 64 * 96, 64 * 2 * 64 * 96)
    assert (last.shape, last.prefill_operations) == ("[m, 64]", 2 * 64 * 96)  # for the one wanted token


def test_what_no_kernel_serves_is_named_by_its_loops(dump_with_loops: Dump) -> None:
    by_kind = {node.kind: node for node in nodes(final_graph(dump_with_loops), DECODE, PREFILL)}
    attention = by_kind["cached_attention_reference"]
    assert (attention.kernel, attention.layer) == ("", 1)
    assert attention.decode_operations == 4 * 4 * 8 * 17  # heads, head_dim, positions
    assert by_kind["linear"].kernel.startswith("linear_float32")
    assert any(node.kind.startswith("fused_") and node.decode_operations > 0 for node in by_kind.values())


def test_a_dump_that_ends_early(dump_with_kernels: Dump) -> None:
    dump = dump_with_kernels
    for last in ("import", "select-kernels"):
        stages = dump.index.stages[: dump.find(last).index + 1]
        fields = {**dict(dump.index), "stages": stages}
        short = Dump(dump.folder, DumpIndex(**fields), {})
        with pytest.raises(UserError, match=f"the passes end after {last}, before there is a module to report on"):
            final_graph(short)
