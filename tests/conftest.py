"""For all tests: what keeps a run of them short."""

from __future__ import annotations

import inspect
import sys
from types import FrameType


def _answer_at_once() -> None:
    """Spares ``inspect`` a search through all modules for code that is in none, at each TVMScript decorator.

    TVM asks there for the source of every frame below it. For those of imports and of what started pytest, the
    standard library goes through some thousand modules, finds none, and does so again the next time: this took most of
    the time of collecting the tests. It looks into ``modulesbyfile`` first; a name of no module gives the same answer.
    """
    frame: FrameType | None = sys._getframe()
    names = {"<ast>", "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"}
    while frame is not None:
        if inspect.getmodule(frame) is None:
            names.add(frame.f_code.co_filename)
        frame = frame.f_back
    inspect.modulesbyfile.update({name: name for name in names})


_answer_at_once()
