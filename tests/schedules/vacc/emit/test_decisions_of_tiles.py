"""Tiles: multiples of the matrix tile that keep to what they may take, and a series that ends with the smallest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vamc_py.schedules.vacc.emit.decisions import TILE, Decisions, fitting, series

sizes = st.integers(1, 5000)
bytes_ = st.integers(0, 1 << 20)


def decisions(**given: int) -> Decisions:
    return Decisions(**{**dict.fromkeys(("resident", "inputs", "weights", "outputs", "scores"), 0), **given})


@given(sizes, st.integers(0, 6000))
def test_fitting_is_all_or_whole_tiles(count: int, most: int) -> None:
    rows = fitting(count, most)
    assert 1 <= rows <= count
    if count <= most:
        assert rows == count
    else:
        assert rows % TILE == 0 or rows == count
        assert rows <= max(most, TILE)
        fewest = -(-count // max(most // TILE * TILE, TILE))
        assert -(-count // rows) <= fewest  # as few parts as there can be
        assert fewest * rows < count + fewest * TILE  # and about alike


@given(sizes, sizes, st.sampled_from([1, 2]), bytes_)
def test_rows_of_a_block_fit_the_inputs(rows: int, columns: int, itemsize: int, inputs: int) -> None:
    block = decisions(inputs=inputs).rows_of(rows, columns, itemsize)
    assert block * columns * itemsize <= inputs or block == min(rows, TILE)


@given(sizes, sizes, st.sampled_from([1, 2]), sizes, bytes_, bytes_)
def test_columns_of_a_tile_fit_weights_and_outputs(
    columns: int, depth: int, itemsize: int, rows: int, weights: int, outputs: int
) -> None:
    width = decisions(weights=weights, outputs=outputs).columns_of(columns, depth, itemsize, rows)
    padded = -(-columns // TILE) * TILE
    assert width % TILE == 0
    assert TILE <= width <= padded
    assert (width * depth * itemsize <= weights and width * rows * 4 <= outputs) or width == TILE
    tiles = -(-padded // width)
    # As many tiles as the widest allowed would need, and none of them could be narrower.
    widest = max(min(weights // (depth * itemsize), outputs // (rows * 4)) // TILE * TILE, TILE)
    assert tiles == -(-padded // min(widest, padded))
    assert width == TILE or -(-padded // (width - TILE)) > tiles


@given(st.integers(1 << 10, 1 << 26))
def test_the_series_ends_with_the_least(ssram: int) -> None:
    many = list(series(ssram))
    assert many[0].resident == int(0.45 * ssram)
    assert many[-1].resident == 0
    for name in ("inputs", "weights", "outputs", "scores"):
        assert getattr(many[-1], name) == min(getattr(one, name) for one in many)
    large = [one for one in many if one.weights >= int(0.025 * ssram)]
    assert many[: len(large)] == large  # launches of small tiles cost more than tensors that go through DDR
    for part in (large, many[len(large) :]):
        assert [one.resident for one in part] == sorted((one.resident for one in part), reverse=True)
    assert len(set(many)) == len(many)
