"""Every built-in pass brings an example, and fires on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.foreign_passes import CLAMP, write_pass_file
from tvm import relax

from vamc_py.errors import UserError
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.example import example_context, example_program, run_example
from vamc_py.pipeline.registry import built_in_passes, load_pass_file
from vamc_py.pipeline.runner import PassRun, planned

KINDS = [one.kind for one in built_in_passes().values()]
MOST_LINES = 15  # of a function's body: an example is read in a terminal


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_pass_fires_on_its_example(kind: type[Pass]) -> None:
    before = example_program(kind.example)
    relax.analysis.well_formed(before.module)
    after = kind().apply(before, example_context(kind))
    relax.analysis.well_formed(after.module)
    assert PassRun(1, planned([kind()])[0], before, after, 0.0).changed
    body = kind.example.partition("with R.dataflow():\n")[2].partition("R.output(")[0]
    assert 1 <= len(body.splitlines()) - 1 <= MOST_LINES


def test_the_texts_show_what_changed() -> None:
    kinds = {kind.name: kind for kind in KINDS}
    before, after = run_example(kinds["fuse-residual"])
    assert "R.add(x, product)" in before
    assert "R.add" not in after
    assert "residual=True" in after
    _, after = run_example(kinds["select-kernels"])
    assert "R.call_tir(swiglu_64_merged" in after


@pytest.mark.parametrize("example", ["no module at all", ""])
def test_an_example_that_tvm_cannot_read(tmp_path: Path, example: str) -> None:
    text = CLAMP.replace("    stage:", f"    example: ClassVar[str] = {example!r}\n    stage:")
    kind = load_pass_file(f"{write_pass_file(tmp_path, text)}:Clamp").kind
    with pytest.raises(UserError, match="the example of the pass clamp does not run: "):
        run_example(kind)
