"""Stop strings: where the pieces end must not matter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vamc_py.runtime.stops import StopStrings

texts = st.text(alphabet="ab<", max_size=30)
stop_lists = st.lists(st.text(alphabet="ab<", min_size=1, max_size=4), max_size=3)


def reference(text: str, stops: list[str]) -> tuple[str, bool]:
    """Text up to the stop string that ends first; of several that end there, before the longest."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(st.lists(texts, max_size=8), stop_lists)
def test_pieces_equal_the_whole(pieces: list[str], stops: list[str]) -> None:
    filtered = StopStrings(stops)
    shown = "".join(filtered.push(piece) for piece in pieces) + filtered.flush()
    assert (shown, filtered.found) == reference("".join(pieces), stops)


@given(st.lists(texts, max_size=8), stop_lists)
def test_no_more_is_held_back_than_may_be_a_stop(pieces: list[str], stops: list[str]) -> None:
    filtered = StopStrings(stops)
    whole, shown = "", ""
    for piece in pieces:
        whole += piece
        shown += filtered.push(piece)
        if filtered.found:
            return
        held = whole[len(shown) :]
        assert held == "" or any(len(held) < len(stop) and stop.startswith(held) for stop in stops)
