"""What docs/performance.md says in numbers that the code decides."""

from __future__ import annotations

import re
from collections import Counter

from support.checkpoints import model_config
from support.project_tree import ROOT
from support.relax_modules import context_for, traced_program

from benchmarks import tables
from benchmarks.checkpoints import RANDOM_MODELS
from vamc_py.passes.quantize_activations import QuantizeActivations
from vamc_py.pipeline.default import Numbers, default_pipeline
from vamc_py.pipeline.graph import Graph

TEXT = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
SHAPE = RANDOM_MODELS["qwen3-0.6b"]


def kernels(layers: int) -> Counter[str]:
    """Calls of each kernel in a step of an int8 Qwen3."""
    program, context = traced_program(model_config(architecture="qwen3", layers=layers)), context_for("int8")
    for one in default_pipeline(Numbers("int8", activations=QuantizeActivations("int16"))):
        program = one.apply(program, context)
    graph = Graph(program.function)
    calls = graph.calls("relax.call_tir") + graph.calls("relax.call_tir_inplace")
    return Counter(call.args[0].name_hint for _, call in calls)


def said(pattern: str) -> int:
    """The number that the page has in the place of the group."""
    found = re.findall(pattern, TEXT)
    assert len(found) == 1, pattern
    return int(found[0])


def test_the_marks_for_the_tables_are_there() -> None:
    tables.put_between_marks(TEXT, "", "docs/performance.md")


def test_kernels_of_a_step() -> None:
    two, three = kernels(2), kernels(3)
    a_layer = said(r"\*\*(\d+) kernels a layer\*\*")
    assert (three - two).total() == a_layer
    assert two.total() == 2 * a_layer + said(r"\*\*(\d+) kernels more a step\*\*")


def test_bytes_and_operations() -> None:
    assert round(SHAPE.weight_bytes / 1e6) == said(r"reads each weight once, (\d+) MB")
    assert round(SHAPE.cache_bytes / 1e3) == said(r"x 2 bytes = (\d+) kB")
    for context in (128, 1024, 2048):
        megabytes = round(SHAPE.decode(context, 1, 1).read / 1e6)
        assert re.search(rf"[Aa]fter {context}( tokens)?\s(that|it) is {megabytes} MB", TEXT)
    assert round(SHAPE.prefill(512).operations / 1e9) == said(r"512 tokens is (\d+) billion")
    assert round(SHAPE.prefill(1024).operations / 1e9) == said(r"one of 1024 is (\d+) billion")
    assert round(SHAPE.decode(128, 16, 1).read / 1e6) == said(r"after 128 tokens read (\d+) MB")
