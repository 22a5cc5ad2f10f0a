"""What a pass is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

from vamc_py.pipeline.program import Program
from vamc_py.target.description import TargetDescription
from vamc_py.weights.formats import WeightFormat

Stage = Literal["raise", "rewrite", "lower"]
STAGES: tuple[Stage, ...] = ("raise", "rewrite", "lower")


@dataclass(frozen=True)
class Context:
    """What a pass may ask about the compilation; the same for all passes of a run."""

    target: TargetDescription
    prefill: int  # most tokens in one step
    context: int  # most positions of a sequence
    # The formats of weights that come quantized, by their names in the checkpoint (see ``Checkpoint.quantized``).
    formats: Mapping[str, WeightFormat] = field(default_factory=dict, hash=False)


class Pass(ABC):
    """A change of the program. A subclass is a frozen dataclass: its fields are its options in the YAML.

    Its docstring is its documentation, its first sentence the summary in lists. ``vamc_py.pipeline.runner`` checks
    ``requires``, ``after``, ``stage`` and ``targets`` before any pass runs.
    """

    name: ClassVar[str]  # as on the command line and in the YAML
    stage: ClassVar[Stage]
    requires: ClassVar[tuple[str, ...]] = ()  # passes without which this one cannot work; they run before it
    after: ClassVar[tuple[str, ...]] = ()  # passes that run before this one wherever they run at all
    anywhere: ClassVar[bool] = False  # may run between passes of any stage, and more than once
    targets: ClassVar[tuple[str, ...]] = ("llvm", "cuda", "vacc")
    # How far one operator's result may move that is given the values from before the pass: |after - before| / |before|,
    # Frobenius norms. Above 1e-4 the pass counts as lossy: ``vamc-py check`` then looks at single operators, too, and
    # lets the logits move five times as far.
    tolerance: ClassVar[float] = 1e-4
    # A module in TVMScript; ``vamc-py passes NAME`` shows what the pass makes of it. Empty: none is shown.
    example: ClassVar[str] = ""
    example_formats: ClassVar[Mapping[str, WeightFormat]] = MappingProxyType({})  # ``Context.formats`` for the example

    def tolerance_for(self, context: Context) -> float:
        """``tolerance`` with these options and for this target, where they make a difference."""
        return self.tolerance

    @abstractmethod
    def apply(self, program: Program, context: Context) -> Program:
        """The changed program; the one that was given stays as it is."""
