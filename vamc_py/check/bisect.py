"""From a wrong pass to the smallest thing that shows it: the fewest layers, then the fewest bindings."""

from __future__ import annotations

from pathlib import Path

from vamc_py.check.check import Checker, Faulty
from vamc_py.check.reproducer import SCRIPT, write_reproducer
from vamc_py.check.results import CheckResult
from vamc_py.check.smallest import smallest_case
from vamc_py.progress import stage


def bisect(checker: Checker, faulty: Faulty, layers: int, folder: Path) -> str:
    """Writes a reproducer into ``folder``; the value says in a sentence what is in it."""
    layers = min(layers, checker.model.layers)
    label = faulty.run.planned.label
    for fewer in range(1, layers):
        found = checker.run(fewer, CheckResult(), build=False)
        if found is not None and found.run.planned.label == label:
            layers, faulty = fewer, found
            break
    with stage("bisect"):
        smallest = smallest_case(faulty, checker.context)
        write_reproducer(folder, smallest, faulty.run.planned, faulty.finding, layers)
    what = f"{layers} layer{'s' * (layers > 1)}, {smallest.operators} of {smallest.of} operators"
    return f"smallest module that shows it: {what}; to see it again: python {folder / SCRIPT}"
