"""What a compile shows of its passes on the way: dumps, modules on stdout, lines in the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from vamc_py.config import LoadedConfig
from vamc_py.errors import UserError
from vamc_py.inspect.dump_writer import DumpWriter, operator_counts, prepare_dump_folder
from vamc_py.inspect.script import small_script
from vamc_py.log import LOGGER
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.runner import Observer, PassRun, Planned


@dataclass(frozen=True)
class Inspection:
    """What the user asked to see of the passes. Passes are named by label or by name."""

    dump: Path | None = None  # a folder for the IR after every pass
    print_after: tuple[str, ...] = ()  # passes after which the module goes to stdout
    until: str | None = None  # the last pass to run; without dump and print_after the module after it is printed
    only_function: str | None = None  # what is printed of a module

    def check(self, pipeline: Sequence[Planned]) -> None:
        """UserError for a pass that the pipeline does not run, or a folder that may not be replaced."""
        for name in self.print_after:
            named(pipeline, name)
        self.last(pipeline)
        if self.dump is not None:
            prepare_dump_folder(self.dump)

    def last(self, pipeline: Sequence[Planned]) -> str | None:
        """The label of the last pass to run; None: all of them."""
        if self.until is None:
            return None
        found = named(pipeline, self.until)
        if len(found) > 1:
            raise UserError(f"{self.until}: runs more than once; name one of {', '.join(s.label for s in found)}")
        return found[0].label

    def dumps(self, loaded: LoadedConfig) -> list[DumpWriter]:
        """The writer of the dump that was asked for."""
        if self.dump is None:
            return []
        return [DumpWriter(self.dump, loaded, text=True, only_function=self.only_function)]

    def printers(self, pipeline: Sequence[Planned]) -> list[Observer]:
        """What prints and logs."""
        shown = self.print_after
        if self.until is not None and not shown and self.dump is None:
            shown = (self.until,)  # there would be nothing to see
        labels = {step.label for name in shown for step in named(pipeline, name)}
        return [PassLog(), *([PrintAfter(labels, self.only_function)] if labels else [])]


def named(pipeline: Sequence[Planned], name: str) -> list[Planned]:
    """The runs of a pass in a pipeline, by label or name; UserError when there is none."""
    found = [step for step in pipeline if name in (step.label, step.one.name)]
    if not found:
        labels = [step.label for step in pipeline]
        close = get_close_matches(name, labels, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see `vamc-py passes --pipeline CONFIG`"
        raise UserError(f"{name}: no pass of this pipeline; {hint}")
    return found


class PrintAfter(Observer):
    """Prints the module after some of the passes."""

    def __init__(self, labels: set[str], only_function: str | None) -> None:
        self.labels = labels
        self.only_function = only_function

    def after(self, run: PassRun) -> None:
        if run.planned.label in self.labels:
            print(f"# after {run.planned.label}")
            print(small_script(run.after, self.only_function), flush=True)


class PassLog(Observer):
    """A line in the log for each pass; with more verbosity also the operators that it made and removed."""

    def after(self, run: PassRun) -> None:
        LOGGER.info(
            "pass %d %s: %.2f s, %s",
            run.index,
            run.planned.label,
            run.seconds,
            "changed the program" if run.changed else "found nothing to change",
        )
        for note in run.after.notes[len(run.before.notes) :]:
            LOGGER.info("pass %d %s: note: %s", run.index, run.planned.label, note)
        if LOGGER.isEnabledFor(logging.DEBUG) and run.changed:
            for operator, before, after in operator_changes(run.before, run.after):
                LOGGER.debug("pass %d %s: %s: %d, now %d", run.index, run.planned.label, operator, before, after)


def operator_changes(before: Program, after: Program) -> list[tuple[str, int, int]]:
    """(operator, calls before, calls after) for each operator of which the number changed, by name."""
    old, new = operator_counts(before.module), operator_counts(after.module)
    counts = [(name, old.get(name, 0), new.get(name, 0)) for name in sorted({*old, *new})]
    return [row for row in counts if row[1] != row[2]]
