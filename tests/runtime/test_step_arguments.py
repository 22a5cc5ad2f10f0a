"""Arguments of a step: what is right passes unchanged, what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_py.errors import UserError
from vamc_py.runtime.batch import Batch, Bounds, check, check_run

BOUNDS = Bounds(vocab=10, slots=4, context=20, tokens=6)
NAMES = ("tokens", "positions", "slots", "rows")
GOOD: dict[str, list[int]] = {"tokens": [9, 0, 3], "positions": [18, 19, 0], "slots": [3, 3, 0], "rows": [2, 0]}


@st.composite
def steps(draw: st.DrawFn) -> dict[str, list[int]]:
    """Arguments of a step that are within BOUNDS."""
    slots = draw(st.permutations(range(BOUNDS.slots)))[: draw(st.integers(1, BOUNDS.slots))]
    step: dict[str, list[int]] = {name: [] for name in NAMES}
    for slot in slots:
        count = draw(st.integers(1, max(1, BOUNDS.tokens - len(step["tokens"]))))
        if len(step["tokens"]) + count > BOUNDS.tokens:
            break
        start = draw(st.integers(0, BOUNDS.context - count))
        step["tokens"] += draw(st.lists(st.integers(0, BOUNDS.vocab - 1), min_size=count, max_size=count))
        step["positions"] += range(start, start + count)
        step["slots"] += [slot] * count
    step["rows"] = draw(st.lists(st.integers(0, len(step["tokens"]) - 1), max_size=9))
    return step


@given(step=steps(), numpy_dtype=st.sampled_from([None, "int32", "int64", "uint8"]))
def test_right_arguments_pass_unchanged(step: dict[str, list[int]], numpy_dtype: str | None) -> None:
    given_as = {name: np.array(values, numpy_dtype) if numpy_dtype else values for name, values in step.items()}
    batch = check(**given_as, bounds=BOUNDS)
    for name, values in step.items():
        array = getattr(batch, name)
        assert array.dtype == np.int32
        assert array.tolist() == values


@given(step=steps())
def test_runs_cover_the_batch(step: dict[str, list[int]]) -> None:
    runs = check(**step, bounds=BOUNDS).runs
    assert [slot for slot, first, end in runs for _ in range(first, end)] == step["slots"]
    assert [position for _, first, end in runs for position in range(first, end)] == step["positions"]


@given(
    tokens=st.lists(st.integers(-1, BOUNDS.vocab), max_size=BOUNDS.tokens + 1),
    slot=st.integers(-1, BOUNDS.slots),
    start=st.integers(-1, BOUNDS.context),
    last=st.booleans(),
)
def test_a_run_is_checked_as_any_step(tokens: list[int], slot: int, start: int, last: bool) -> None:
    count = len(tokens)
    rows = [count - 1] if last else []

    def outcome(make: Callable[[], Batch]) -> object:
        try:
            batch = make()
        except UserError as error:
            return str(error)
        arrays = [getattr(batch, name) for name in NAMES]
        return [array.tolist() for array in arrays], [str(array.dtype) for array in arrays], batch.runs

    positions = list(range(start, start + count))
    assert outcome(lambda: check_run(tokens, slot=slot, start=start, last=last, bounds=BOUNDS)) == outcome(
        lambda: check(tokens, positions, [slot] * count, rows, BOUNDS)
    )


@given(step=steps(), data=st.data(), wrong=st.sampled_from([-1, -(2**31), -(2**63), 0, 1, 2**31, 2**32, 2**63 - 1]))
def test_value_out_of_range_is_named(step: dict[str, list[int]], data: Any, wrong: int) -> None:
    name = data.draw(st.sampled_from([name for name in NAMES if step[name]]))
    end = {"tokens": 10, "positions": 20, "slots": 4, "rows": len(step["tokens"])}[name]
    value = wrong if wrong < 0 else end + min(wrong, 2**63 - 1 - end)
    index = data.draw(st.integers(0, len(step[name]) - 1))
    step[name][index] = value
    with pytest.raises(UserError, match=rf"^{name}\[{index}\] is {value}; it must be from 0 to {end - 1}$"):
        check(**step, bounds=BOUNDS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "values", [[0.0], [True], ["a"], [[1]], 1, [None], [2**70], np.zeros((1, 1), int)], ids=str
)  # fmt: skip
def test_no_list_of_whole_numbers(name: str, values: Any) -> None:
    with pytest.raises(UserError, match=f"^{name}: a list of whole numbers is wanted"):
        check(**{**GOOD, name: values}, bounds=BOUNDS)


@pytest.mark.parametrize("count", [0, 7])
def test_number_of_tokens(count: int) -> None:
    with pytest.raises(UserError, match=f"^tokens: {count} in one step; this artifact takes 1 to 6"):
        check([0] * count, range(count), [0] * count, [], BOUNDS)


@pytest.mark.parametrize("name", ["positions", "slots"])
@pytest.mark.parametrize("count", [0, 2, 4])
def test_lengths_differ(name: str, count: int) -> None:
    with pytest.raises(UserError, match=f"^{name}: {count} entries for 3 tokens"):
        check(**{**GOOD, name: [0] * count}, bounds=BOUNDS)


def test_tokens_of_a_slot_apart() -> None:
    with pytest.raises(UserError, match=r"^slots: the tokens of slot 2 are apart"):
        check([1, 1, 1], [0, 0, 1], [2, 1, 2], [], BOUNDS)


@pytest.mark.parametrize("second", [0, 5, 7, 4])
def test_positions_that_do_not_ascend_by_one(second: int) -> None:
    with pytest.raises(UserError, match=rf"^positions\[2\] is {second} after 5"):
        check([1, 1, 1], [4, 5, second], [2, 2, 2], [], BOUNDS)


def test_an_artifact_with_a_dense_cache_takes_one_slot_in_a_step() -> None:
    bounds = Bounds(vocab=10, slots=2, context=16, tokens=8, one_slot=True)
    check([1, 2], [0, 1], [1, 1], [0], bounds)
    with pytest.raises(UserError, match="the tokens of one slot in a step"):
        check([1, 2], [0, 0], [0, 1], [0], bounds)
