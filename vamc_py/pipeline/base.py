"""What a pass is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from vamc_py.pipeline.program import Program
from vamc_py.target.description import TargetDescription

Stage = Literal["raise", "rewrite", "lower"]
STAGES: tuple[Stage, ...] = ("raise", "rewrite", "lower")


@dataclass(frozen=True)
class Context:
    """What a pass may ask about the compilation; the same for all passes of a run."""

    target: TargetDescription
    prefill: int  # most tokens in one step
    context: int  # most positions of a sequence


class Pass(ABC):
    """A change of the program. A subclass is a frozen dataclass: its fields are its options in the YAML.

    Its docstring is its documentation. ``requires`` names passes that must have run before; the runner checks it.
    """

    name: ClassVar[str]  # as on the command line and in the YAML
    stage: ClassVar[Stage]
    requires: ClassVar[tuple[str, ...]] = ()
    targets: ClassVar[tuple[str, ...]] = ("llvm", "cuda", "vacc")

    @abstractmethod
    def apply(self, program: Program, context: Context) -> Program:
        """The changed program; the one that was given stays as it is."""
