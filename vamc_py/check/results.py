"""What a check found, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from vamc_py.check.compare import Difference
from vamc_py.check.locate import Place

IMPORT, BUILD = "import", "build"


@dataclass(frozen=True)
class StageResult:
    """One line of the table."""

    label: str  # of the pass; "import" and "build" for what is none
    changed: bool
    torch: Difference  # against the torch model
    added: float  # relative, against the stage before; of the import against torch
    allowed: float  # of ``added``
    operator: float | None = None  # the largest error of one operator on right inputs; None where that was not asked
    tolerance: float = 0.0  # of ``operator``


@dataclass(frozen=True)
class Finding:
    """What is wrong, and where it shows."""

    label: str
    origin: str  # what brought the pass; "" for what is none
    function: str  # "main" or "step"
    added: float  # relative error of the logits; nan for a module that does not run
    allowed: float  # of ``added``
    tolerance: float  # relative error of one operator
    place: Place | None = None  # None where no operator could be found
    reason: str = ""  # why the module does not run


@dataclass
class CheckResult:
    """What a check found, as far as it came."""

    description: str = ""  # what was run, in words
    stages: list[StageResult] = field(default_factory=list)
    finding: Finding | None = None


def table(result: CheckResult) -> Iterator[str]:
    """The stages, a line each; nothing where none was run."""
    if not result.stages:
        return
    width = max(len(one.label) for one in result.stages)
    yield f"{'':{width}}  {'logits against torch':<26} {'added to logits':<17} by one operator"
    heads = ("largest", "relative", "argmax", " error", "allowed", " error", "allowed")
    yield f"{'stage':{width}}  {' '.join(f'{head:>8}' for head in heads)}"
    for one in result.stages:
        error = one.torch
        agreeing = f"{error.agreeing}/{error.tokens}"
        numbers = f"{error.largest:8.1e} {error.relative:8.1e} {agreeing:>8}"
        added = f"{one.added:8.1e} {one.allowed:8.1e}" if one.changed else "changed nothing"
        operator = f" {one.operator:8.1e} {one.tolerance:8.1e}" if one.operator is not None else ""
        yield f"{one.label:{width}}  {numbers} {added}{operator}"


def sentences(finding: Finding) -> Iterator[str]:
    """The finding: what is wrong by how much, and the first operator that differs."""
    subject = {IMPORT: "the import", BUILD: "the build"}.get(finding.label, f"the pass {finding.label}")
    origin = f" ({finding.origin})" if finding.origin else ""
    if finding.reason:
        yield f"{subject}{origin} is wrong: {finding.function} does not run after it: {finding.reason}"
        return
    place = finding.place
    if place is not None and finding.added <= finding.allowed:
        yield (
            f"{subject}{origin} is wrong in {finding.function}: one operator differs by {place.error:.1e} from what it "
            f"gave before, {finding.tolerance:.1e} are allowed"
        )
    else:
        yield (
            f"{subject}{origin} is wrong: the logits of {finding.function} differ by {finding.added:.1e} from those "
            f"{'of torch' if finding.label == IMPORT else 'before it'}, {finding.allowed:.1e} are allowed"
        )
    if place is not None:
        yield from _place_sentences(finding, place)


def _place_sentences(finding: Finding, place: Place) -> Iterator[str]:
    by = "" if math.isnan(place.error) else f", relative error {place.error:.1e}"
    yield f"first operator that differs: {place.operator} in {finding.function}, {place.where}{by}"
    yield f"  {place.text}"
    if place.shown != place.binding:
        yield f"  seen in {place.shown}, a part or a view of it"
    if place.before:
        yield f"  before the pass: {place.before}"
    runs = " and ".join(f"tokens {run.first} to {run.stop - 1} of sequence {run.sequence}" for run in place.call)
    yield f"  in the step of {runs}"
