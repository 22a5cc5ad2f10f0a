"""Stop strings in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets a text through up to its first stop string, whatever the borders of its pieces.

    The first is the one that ends first; of several that end together, the longest. Text that may still turn out to
    be the beginning of a stop string is held back until it cannot.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that can be shown after ``text`` came; after a stop string (``found``) there is no more."""
        if self.found:
            return ""
        self._held += text
        starts = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            return self._release(min(starts)[1])
        return self._release(len(self._held) - max((self._overlap(stop) for stop in self._stops), default=0))

    def flush(self) -> str:
        """The text that was held back, when no more will come."""
        return "" if self.found else self._release(len(self._held))

    def _overlap(self, stop: str) -> int:
        """Length of the longest beginning of ``stop`` with which the held text ends."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)

    def _release(self, length: int) -> str:
        shown, self._held = self._held[:length], self._held[length:]
        return shown
