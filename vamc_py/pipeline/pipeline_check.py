"""Whether a list of passes can run, told before any of them does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vamc_py.pipeline.base import STAGES, Pass

LAST = "bundle-parameters"  # makes the parameters what the runtime hands over
# Targets whose lowering is not a pass take their parameters one by one.
_WITHOUT_LAST = ("vacc",)


@dataclass(frozen=True)
class PipelineFault:
    """Why a list of passes cannot run."""

    message: str
    index: int | None = None  # of the pass at fault, from 0; None: the list as a whole
    others: tuple[str, ...] = ()  # names of further passes that it is about: what is missing, what stands wrongly


def check_pipeline(passes: Sequence[Pass], target: str, *, whole: bool = False) -> None:
    """ValueError with all of ``pipeline_faults``."""
    faults = [fault.message for fault in pipeline_faults(passes, target, whole=whole)]
    if faults:
        raise ValueError("\n".join(faults))


def pipeline_faults(passes: Sequence[Pass], target: str, *, whole: bool = False) -> Iterator[PipelineFault]:
    """A pass that does not serve the target, runs before its stage, before or without what it requires, or before what
    it comes after; ``whole``: also a list that does not end as a compile needs it."""
    first = {one.name: index for index, one in reversed(list(enumerate(passes)))}
    for index, one in enumerate(passes):
        if target not in one.targets:
            served = ", ".join(one.targets)
            message = f"the pass {one.name} does not serve the target {target}, only {served}; leave it out"
            yield PipelineFault(message, index)
        missing = tuple(name for name in one.requires if first.get(name, index) >= index)
        if missing:
            instead = "" if one.name == LAST else f", or leave {one.name} out, too"
            message = f"the pass {one.name} needs {', '.join(missing)} to run before it; put that there{instead}"
            yield PipelineFault(message, index, missing)
        late = tuple(name for name in one.after if first.get(name, -1) > index and not passes[first[name]].anywhere)
        if late:
            yield PipelineFault(f"the pass {one.name} must run after {', '.join(late)}; put it behind", index, late)
    yield from _stage_faults(passes)
    if whole and target not in _WITHOUT_LAST:
        yield from _ending_faults(passes)


def _stage_faults(passes: Sequence[Pass]) -> Iterator[PipelineFault]:
    latest: Pass | None = None
    for index, one in enumerate(passes):
        if one.anywhere:
            continue
        if latest is not None and STAGES.index(one.stage) < STAGES.index(latest.stage):
            yield PipelineFault(
                f"the passes do not keep the order of the stages ({', '.join(STAGES)}): {one.name} ({one.stage}) "
                f"stands behind {latest.name} ({latest.stage}); put it before",
                index,
                (latest.name,),
            )
        else:
            latest = one


def _ending_faults(passes: Sequence[Pass]) -> Iterator[PipelineFault]:
    at = [index for index, one in enumerate(passes) if one.name == LAST]
    if not at:
        yield PipelineFault(f"the list must end with {LAST}, which the runtime relies on; put it there", None, (LAST,))
    elif len(at) > 1:
        yield PipelineFault(f"{LAST} runs {len(at)} times; it must run once, at the end", at[1], (LAST,))
    elif at[0] != len(passes) - 1:
        last = passes[-1].name
        yield PipelineFault(
            f"the list must end with {LAST}, but {last} stands behind it; put it before", len(passes) - 1
        )
