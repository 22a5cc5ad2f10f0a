"""The search of the gate: as few of the worst layers as possible are widened, and as many as the limit takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vamc_py.errors import UserError


class NotAcceptedError(UserError):
    """The limit does not hold even where everything is as wide as it can be."""


@dataclass(frozen=True)
class Widening:
    """A group of weights that are one matrix when compiled, and the next wider type that it may have."""

    tensors: tuple[str, ...]  # names in the checkpoint
    type: str  # what it has, as ``frontend.quantize.rules`` names it
    wider: str  # what it would get
    damage: float  # what the narrower type does to it (see ``rank``)


@dataclass(frozen=True)
class Rule:
    """An entry of ``frontend.quantize.rules``."""

    match: str
    type: str


@dataclass(frozen=True)
class Attempt:
    """An artifact that was compiled with some of the widenings, and its perplexity."""

    folder: Path
    ppl: float
    widened: tuple[Widening, ...]


@dataclass(frozen=True)
class Gate:
    """What the search is made with.

    ``compile_with``: compiles with these rules before all others and returns the artifact's folder.
    ``measure``: the perplexity of an artifact. ``reference``: that of the float model.
    ``ranked``: the widenings, those to do first standing first; asked for when the limit does not hold without any. A
        group may stand there again, further down, to become wider still.
    ``increase``: by how much the perplexity may exceed the reference's, 0.01 being one percent.
    ``discard``: called with each folder that is not the result. ``say``: called with a sentence after each measurement.
    """

    compile_with: Callable[[tuple[Rule, ...]], Path]
    measure: Callable[[Path], float]
    reference: float
    ranked: Callable[[], Sequence[Widening]]
    increase: float
    discard: Callable[[Path], None]
    say: Callable[[str], None]

    def search(self) -> Attempt:
        """The attempt with the fewest widenings, of those that were tried, that keeps to the limit.

        The first 1, 2, 4, … of the ranking are widened until it holds, then the last interval is halved. That is the
        least number where more widenings never make it worse. NotAcceptedError where all of them are not enough.
        """
        first = self._attempt(())
        if self._holds(first):
            return first
        order = tuple(self.ranked())
        fails, count, best = 0, 1, first
        while not self._holds(best):
            self.discard(best.folder)
            if fails == len(order):
                raise NotAcceptedError(self._refusal(first, best, len(order)))
            count = min(count, len(order))
            best = self._attempt(order[:count])
            if not self._holds(best):
                fails, count = count, 2 * count
        while count - fails > 1:
            middle = (fails + count) // 2
            tried = self._attempt(order[:middle])
            if self._holds(tried):
                self.discard(best.folder)
                best, count = tried, middle
            else:
                self.discard(tried.folder)
                fails = middle
        return best

    def _attempt(self, widened: tuple[Widening, ...]) -> Attempt:
        folder = self.compile_with(rules_of(widened))
        attempt = Attempt(folder, self.measure(folder), widened)
        verdict = "accepted" if self._holds(attempt) else "too much"
        which = f"widenings done: {len(widened)}, " if widened else ""
        self.say(f"{which}{figures(attempt.ppl, self.reference, self.increase)}: {verdict}")
        return attempt

    def _holds(self, attempt: Attempt) -> bool:
        return attempt.ppl <= self.reference * (1 + self.increase)  # False for a perplexity that is no number

    def _refusal(self, first: Attempt, last: Attempt, count: int) -> str:
        if not count:
            return (
                f"{figures(first.ppl, self.reference, self.increase)}, and there is no weight that could be wider; "
                "look at the activations and the KV cache, or allow more"
            )
        return (
            f"{figures(last.ppl, self.reference, self.increase)} with all {count} widenings done "
            f"({first.ppl:.4g} without); look at the activations and the KV cache, or allow more"
        )


def figures(ppl: float, reference: float, increase: float) -> str:
    """``perplexity 22.40, 0.40 % above the float model's 22.31, 1 % allowed``."""
    return (
        f"perplexity {ppl:.6g}, {100 * (ppl / reference - 1):+.2f} % against the float model's {reference:.6g}, "
        f"{100 * increase:+.6g} % allowed"
    )


def rules_of(widened: Sequence[Widening]) -> tuple[Rule, ...]:
    """A rule for each tensor, with the last of its types, in order of the first widening."""
    types: dict[str, str] = {}
    for one in widened:
        types |= dict.fromkeys(one.tensors, one.wider)
    return tuple(Rule(name.removesuffix(".weight"), kind) for name, kind in types.items())


def sentences(widened: Sequence[Widening]) -> list[str]:
    """What was widened and why, one sentence a group."""
    types: dict[tuple[str, ...], list[Widening]] = {}
    for one in widened:
        types.setdefault(one.tensors, []).append(one)
    return [
        f"{', '.join(rule.match for rule in rules_of(steps))}: {steps[-1].wider} in place of {steps[0].type}, which "
        f"changes the weights by {steps[0].damage ** 0.5:.2%} of their norm"
        for steps in types.values()
    ]
