"""Measures what this machine can do at most, with vamc-py's measuring loops: ``python limits_worker.py``.

Prints ``{"read": [...], "int8": [...], ...}``: bytes and operations a second, one number for each pass. The number of
threads is that of ``vamc-py run``: the variable VAMC_NUM_THREADS, or the cores there are.
"""

from __future__ import annotations

import json

from vamc_py.inspect.measure import LimitLoops
from vamc_py.runtime.limits import MatrixLimit, ReadLimit, matrix_kinds
from vamc_py.target.description import this_machine

_PASSES = 9
_DTYPE = "int8"


def measure() -> dict[str, list[float]]:
    """All limits in turn, several times, so that each meets the machine's moods of the whole time."""
    target = this_machine(_DTYPE)
    loops = LimitLoops(target)
    read = ReadLimit(loops)
    read.measure()  # maps the pages, and starts the threads before a loop's length is chosen by its time
    limits = {"read": read.measure} | {kind: MatrixLimit(loops, kind).measure for kind in matrix_kinds(target.features)}
    passes = [{name: limit() for name, limit in limits.items()} for _ in range(_PASSES)]
    return {name: [one[name] for one in passes] for name in limits}


if __name__ == "__main__":
    print(json.dumps(measure()))
