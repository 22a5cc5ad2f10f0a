"""docs/write_a_pass.md, followed from the first to the last line with a tiny checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint
from support.guide import Block, Reader, blocks
from support.project_tree import ROOT

GUIDE = (ROOT / "docs/write_a_pass.md").read_text()
EXAMPLE = ROOT / "examples/custom_pass"


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Somebody in an empty folder. What is installed there, no other test sees."""
    here, packages = tmp_path / "here", tmp_path / "packages"
    here.mkdir()
    packages.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(packages)
    loaded = set(sys.modules)
    yield Reader(packages)
    for name in set(sys.modules) - loaded:
        if Path(getattr(sys.modules[name], "__file__", None) or "").is_relative_to(tmp_path):
            del sys.modules[name]


def test_the_guide_works(reader: Reader) -> None:
    write_checkpoint(Path("model"), architecture="qwen3", scale=0.3)
    for block in blocks(GUIDE):
        reader.follow(block)


def test_the_guides_files_are_the_examples() -> None:
    written = {block.file: block.text for block in blocks(GUIDE) if block.file}
    shipped = {path.name: path.read_text() for path in EXAMPLE.iterdir() if path.suffix in (".py", ".toml")}
    assert {name: written.get(name) for name in shipped} == shipped


def test_every_fence_is_a_block() -> None:
    assert GUIDE.count("```") == 2 * len(blocks(GUIDE))


def test_another_output_is_noticed(reader: Reader) -> None:
    with pytest.raises(AssertionError, match=r"line 7: vamc-py --version"):
        reader.follow(Block("console", None, "$ vamc-py --version\nvamc-py ...\nand more\n", 7))


def test_a_command_that_fails_is_noticed(reader: Reader) -> None:
    with pytest.raises(AssertionError, match="line 7: vamc-py no-such-command"):
        reader.follow(Block("console", None, "$ vamc-py no-such-command\n...\n", 7))


def test_a_fault_of_the_input_is_output(reader: Reader) -> None:
    shown = "vamc-py: error: missing.yaml: ...\n"
    reader.follow(Block("console", None, f"$ vamc-py validate missing.yaml\n{shown}", 1))


def test_another_code_is_shown(reader: Reader) -> None:
    reader.follow(Block("console", None, '$ vamc-py no-such-command; echo "exit code $?"\nexit code 2\n', 1))


def test_python_that_fails_is_noticed(reader: Reader) -> None:
    with pytest.raises(ZeroDivisionError):
        reader.follow(Block("python", None, "1 / 0\n", 1))
