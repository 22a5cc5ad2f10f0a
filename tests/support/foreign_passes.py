"""Passes that are not vamc-py's own: in a file, and in an installed package."""

from __future__ import annotations

from pathlib import Path

HEAD = """\
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tvm import relax

from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import Program
"""
CLAMP = (
    HEAD
    + '''

@dataclass(frozen=True)
class Clamp(Pass):
    """Bounds the logits. A second sentence."""

    limit: float = 30.0
    labels: tuple[str, ...] = ("low", "high")
    how: Literal["both", "above"] = "both"

    name: ClassVar[str] = "clamp"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("kv-cache-layout", "a-pass-that-nobody-has")

    def __post_init__(self) -> None:
        if self.limit <= 0:
            raise ValueError(f"limit is {self.limit}; it must be above 0")

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        bounded = graph.bind(relax.op.clip(graph.outputs()[0], -self.limit, self.limit), "bounded")
        return program.with_function(graph.rebuild(outputs=[bounded])).note(f"clamped at {self.limit}")
'''
)


def write_pass_file(folder: Path, text: str = CLAMP, name: str = "clamp.py") -> str:
    """The file's path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def install(folder: Path, package: str, version: str, entry_points: dict[str, str], **modules: str) -> None:
    """Lays out what pip leaves of a package in a folder of ``sys.path``; the entry points are those of vamc-py."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    information = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (information / "entry_points.txt").write_text("\n".join(["[vamc_py.passes]", *lines, ""]))
