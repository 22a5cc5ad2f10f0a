"""Ctrl-C and SIGTERM that get through: compiled libraries and finalizers lose what a signal handler raises in them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

RETRY_AFTER = 0.02  # seconds

_received: list[int] = []  # signals that the running block was sent


def interrupted() -> bool:
    """Whether the block of ``ended_by_signals`` that runs now was told to end: an exception may be due to that."""
    return bool(_received)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """A polite kill ends the block as Ctrl-C does, by KeyboardInterrupt, so that what is half written is removed."""
    _received.clear()

    def interrupt(number: int, _frame: object) -> NoReturn:
        _received.append(number)
        raise KeyboardInterrupt

    def not_raised(lost: sys.UnraisableHookArgs) -> None:
        """A finalizer ran when the signal came, and Python drops what is raised there: once more, a moment later."""
        if _received and lost.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, RETRY_AFTER)
        else:
            former_hook(lost)

    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]  # nohup ignores
    former = {number: signal.signal(number, interrupt) for number in (*heard, signal.SIGALRM)}
    former_hook, sys.unraisablehook = sys.unraisablehook, not_raised
    try:
        yield
    except Exception:
        if _received:  # what is raised inside a callback of TVM's comes out as a RuntimeError
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = former_hook
        for number, handler in former.items():
            signal.signal(number, handler)
        _received.clear()
