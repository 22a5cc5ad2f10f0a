"""The lengths of a graph of fixed lengths are found again in its shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import sym, tirx

from vamc_py.frontend.onnx_import.lengths import Lengths, UnclearLengthError
from vamc_py.pipeline.matching import same_shape


def at(dimensions: list[Any], lengths: Lengths, new: int, past: int) -> list[int]:
    """The numbers of dimensions for other lengths."""
    analyzer = sym.Analyzer()
    analyzer.bind(lengths.n, tirx.IntImm("int64", new))
    analyzer.bind(lengths.p, tirx.IntImm("int64", past))
    return [int(analyzer.simplify(d)) if not isinstance(d, int) else d for d in dimensions]


@given(
    new=st.sampled_from([1, 2, 4, 8, 16]),
    heads=st.integers(1, 4),
    size=st.sampled_from([1, 2, 4, 8, 16]),
    rest=st.booleans(),
)
def test_heads_are_split_and_merged(new: int, heads: int, size: int, rest: bool) -> None:
    """Whatever sizes coincide with the number of tokens."""
    lengths = Lengths(new, 0)
    n = lengths.n
    split = lengths.reshaped([1, n, heads * size], [1, new, -1 if rest else heads, size])
    assert same_shape(split, [1, n, heads, size])
    merged = lengths.reshaped([1, n, heads, size], [1, new, -1 if rest else heads * size])
    assert same_shape(merged, [1, n, heads * size])


@given(new=st.sampled_from([1, 4]), past=st.sampled_from([0, 3, 4, 12]), kv=st.integers(1, 4), groups=st.integers(2, 4))
def test_repeated_heads_are_merged(new: int, past: int, kv: int, groups: int) -> None:
    lengths = Lengths(new, past)
    total = lengths.p + lengths.n
    wide = [1, kv, groups, total, 8]
    assert same_shape(lengths.reshaped(wide, [1, kv * groups, new + past, 8]), [1, kv * groups, total, 8])


@given(st.data())
def test_no_element_is_lost_for_other_lengths(data: st.DataObject) -> None:
    """Random groupings: the shape is the exported one for its lengths, and has as many elements for all others."""
    new, past = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 6))
    lengths = Lengths(new, past)
    total = lengths.p + lengths.n
    drawn = st.lists(st.one_of(st.integers(1, 6), st.sampled_from([lengths.n, total])), min_size=1, max_size=5)
    source = data.draw(drawn)
    numbers = at(source, lengths, new, past)
    cuts = data.draw(st.sets(st.integers(1, len(numbers)), max_size=3))
    target = [int(np.prod(part)) for part in np.split(numbers, sorted(cuts)) if len(part)]
    try:
        result = lengths.reshaped(source, target)
    except UnclearLengthError:
        return
    assert at(result, lengths, new, past) == target
    for other in ((7, 11), (1, 0)):
        assert np.prod(at(result, lengths, *other)) == np.prod(at(source, lengths, *other))


def test_dynamic_shapes_say_what_they_are() -> None:
    lengths = Lengths(None, None)
    n = lengths.n
    assert same_shape(lengths.reshaped([1, n, 12], [0, 0, -1, 4]), [1, n, 3, 4])
    assert same_shape(lengths.reshaped([1, n, 3, 4], [1, n, -1]), [1, n, 12])
    with pytest.raises(UnclearLengthError):
        lengths.reshaped([1, n, 12], [1, n, 3, 5])


def test_elements_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(UnclearLengthError):
        Lengths(4, 0).reshaped([1, Lengths(4, 0).n, 12], [1, 4, 13])


def test_slices_end_where_the_axis_ends() -> None:
    lengths = Lengths(16, 0)
    n = lengths.n
    assert same_shape(lengths.sliced(n, 0, 16), [0, n])
    assert same_shape(lengths.sliced(n, -1, 2**63 - 1), [n - 1, n])
    assert same_shape(lengths.sliced(32, 16, 2**63 - 1), [16, 32])
    assert same_shape(lengths.sliced(32, -(2**63), 16), [0, 16])
