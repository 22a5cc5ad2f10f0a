"""A graph's lengths as symbols, also where it was exported for fixed ones.

A graph of fixed lengths has them in its shapes as numbers: a reshape to [1, 64, 14, 64] does not say which 64 is the
tokens'. It follows from the input, whose dimensions are known with their symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import sym, tirx

from vamc_py.pipeline.matching import same_dimension, static


class UnclearLengthError(Exception):
    """A shape in which the tokens or positions of a graph of fixed lengths cannot be told."""


class Lengths:
    """``n`` new tokens after ``p`` past positions; ``new`` and ``past`` are the numbers in the exported graph."""

    def __init__(self, new: int | None, past: int | None) -> None:
        self.n, self.p = tirx.Var("n", "int64"), tirx.Var("p", "int64")
        self._analyzer = sym.Analyzer()
        self._exported = sym.Analyzer()
        self.fixed = False
        for variable, value in ((self.n, new), (self.p, past)):
            if value is not None:
                self.fixed = True
                self._exported.bind(variable, tirx.IntImm("int64", value))

    def simple(self, dimension: Any) -> Any:
        """A number as int, an expression simplified."""
        number = static(dimension)
        if number is not None:
            return number
        simplified = self._analyzer.simplify(dimension)
        number = static(simplified)
        return simplified if number is None else number

    def number(self, dimension: Any) -> int | None:
        """What a dimension was in the exported graph; None where that is dynamic."""
        known = static(dimension)
        return static(self._exported.simplify(dimension)) if known is None else known

    def reshaped(self, source: Sequence[Any], target: Sequence[Any]) -> list[Any]:
        """The dimensions, with their symbols, of a value [*source] that a graph reshapes to ``target``: numbers or
        expressions, -1 for what is left, 0 for the dimension of the source at the same place.

        UnclearLengthError where they cannot be told.
        """
        wanted = [source[at] if static(size) == 0 else size for at, size in enumerate(target)]
        numbers = [self.number(size) for size in source]
        symbolic = any(static(size) is None for size in source)
        if symbolic and self.fixed and None not in numbers and all(static(size) is not None for size in wanted):
            return self._regrouped(list(source), self._without_rest(numbers, [int(size) for size in wanted]))
        return self._without_rest_symbolic(source, wanted)

    def sliced(self, size: Any, begin: Any, end: Any) -> tuple[Any, Any]:
        """Begin and end of a slice of an axis of this size, counted from its start."""

        def bound(at: Any) -> Any:
            whole = self.number(size)
            number = static(at)
            if number is None:
                return self.simple(at)
            if number >= 2**31 or same_dimension(number, size) or (whole is not None and number >= whole):
                return size
            if number < 0:
                return 0 if number <= -(2**31) else self.simple(size + number)
            return number

        return bound(begin), bound(end)

    def _without_rest_symbolic(self, source: Sequence[Any], target: Sequence[Any]) -> list[Any]:
        at = [index for index, size in enumerate(target) if static(size) == -1]
        result = list(target)
        if at:
            rest, known = _product(source), _product([size for size in target if static(size) != -1])
            result[at[0]] = self.simple(rest // known)
        if not same_dimension(self.simple(_product(result)), self.simple(_product(source))):
            raise UnclearLengthError(f"a value {list(source)} is reshaped to {list(target)}")
        return [self.simple(size) for size in result]

    @staticmethod
    def _without_rest(source: Sequence[int | None], target: list[int]) -> list[int]:
        if -1 in target:
            known = -_product(target)
            target[target.index(-1)] = _product(source) // known if known else 0
        return target

    def _regrouped(self, source: list[Any], target: list[int]) -> list[Any]:
        """Walks both shapes in step: dimensions whose numbers have equal products belong together."""
        result: list[Any] = []
        left, right = 0, 0
        while left < len(source) or right < len(target):
            group, sizes = source[left : left + 1], target[right : right + 1]
            left, right = left + 1, right + 1
            while (have := self._numbers(group)) != (want := _product(sizes)):
                if have < want and left < len(source):
                    group, left = [*group, source[left]], left + 1
                elif have > want and right < len(target):
                    sizes, right = [*sizes, target[right]], right + 1
                else:
                    raise UnclearLengthError(f"a value {source} is reshaped to {target}")
            result += self._divided(group, sizes)
        return result

    def _divided(self, group: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
        """The sizes into which a group of dimensions goes, the symbolic ones found again."""
        left: list[Any] = list(sizes)
        for size in (size for size in group if static(size) is None):
            if len(sizes) == 1:
                return [self.simple(_product(group))]
            number = self.number(size)
            at = next((at for at, have in enumerate(left) if number and static(have) and have % number == 0), None)
            if at is None or number is None:
                raise UnclearLengthError(f"dimensions {list(group)} become {list(sizes)}")
            left[at] = self.simple(size * (left[at] // number))
        return left

    def _numbers(self, dimensions: Sequence[Any]) -> int:
        return int(_product([self.number(size) for size in dimensions]))


def _product(sizes: Sequence[Any]) -> Any:
    result: Any = 1
    for size in sizes:
        result = result * size
    return result
