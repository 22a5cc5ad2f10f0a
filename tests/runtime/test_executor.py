"""The executor on a toy model whose logits depend on all that its caches hold."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.artifacts import CONTEXT, PREFILL, VOCAB, Reference, parameters, write_artifact

from vamc_py.artifact.manifest import Function, Manifest, TensorSpec
from vamc_py.artifact.verify import MARKER_FILE
from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime.executor import Executor

SLOTS = 3


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "toy"
    write_artifact(folder)
    return folder


@pytest.fixture
def executor(artifact: Path) -> Executor:
    return Executor.load(artifact, slots=SLOTS)


def test_attributes(executor: Executor) -> None:
    assert (executor.slots, executor.context, executor.vocab_size) == (SLOTS, CONTEXT, VOCAB)
    assert executor.manifest.name == "toy"


def test_one_step(executor: Executor) -> None:
    step = ([3, 4, 5], [0, 1, 0], [0, 0, 2], [1, 2])
    logits = executor.step(*step)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, Reference.empty(SLOTS).step(*step))


def test_no_rows(executor: Executor) -> None:
    reference = Reference.empty(SLOTS)
    reference.step([7, 8], [0, 1], [1, 1], [])
    assert executor.step([7, 8], [0, 1], [1, 1], []).shape == (0, VOCAB)
    np.testing.assert_array_equal(executor.step([9], [2], [1], [0]), reference.step([9], [2], [1], [0]))


def test_rows_in_any_order_and_again(executor: Executor) -> None:
    step = ([3, 4, 5], [0, 1, 2], [0, 0, 0], [2, 0, 2, 1])
    np.testing.assert_array_equal(executor.step(*step), Reference.empty(SLOTS).step(*step))


def test_logits_outlive_later_steps(executor: Executor) -> None:
    first = executor.step([3, 4], [0, 1], [0, 0], [0, 1])
    kept = first.copy()
    for position in range(2, 30):
        executor.step([position], [position], [0], [0])
    np.testing.assert_array_equal(first, kept)


@st.composite
def plans(draw: st.DrawFn) -> list[dict[str, list[int]]]:
    """Steps that interleave the slots: each continues where its slot ends, or cuts the slot back."""
    ends = [0] * SLOTS
    plan = []
    for _ in range(draw(st.integers(1, 12))):
        step: dict[str, list[int]] = {"tokens": [], "positions": [], "slots": []}
        for slot in draw(st.permutations(range(SLOTS)))[: draw(st.integers(1, SLOTS))]:
            start = ends[slot] if draw(st.booleans()) else draw(st.integers(0, ends[slot]))
            most = min(PREFILL - len(step["tokens"]), CONTEXT - start)
            tokens = draw(st.lists(st.integers(0, VOCAB - 1), max_size=max(most, 0)))
            step["tokens"] += tokens
            step["positions"] += range(start, start + len(tokens))
            step["slots"] += [slot] * len(tokens)
            ends[slot] = start + len(tokens) if tokens else ends[slot]
        if step["tokens"]:
            step["rows"] = draw(st.lists(st.integers(0, len(step["tokens"]) - 1), max_size=4))
            plan.append(step)
    return plan


@settings(max_examples=60, deadline=None)
@given(plan=plans())
def test_interleaved_sequences_do_not_touch_each_other(artifact: Path, plan: list[dict[str, list[int]]]) -> None:
    executor, reference = Executor.load(artifact, slots=SLOTS), Reference.empty(SLOTS)
    for step in plan:
        np.testing.assert_array_equal(executor.step(**step), reference.step(**step))


@settings(max_examples=40, deadline=None)
@given(tokens=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=CONTEXT), data=st.data())
def test_feed_in_pieces_is_feed_at_once(artifact: Path, tokens: list[int], data: Any) -> None:
    cut = data.draw(st.integers(1, len(tokens)))
    executor, reference = Executor.load(artifact, slots=2), Reference.empty(1)
    expected = reference.step(tokens, range(len(tokens)), [0] * len(tokens), [len(tokens) - 1])[0]
    whole = executor.feed(tokens, slot=0, start=0)
    pieces = [
        executor.feed(part, slot=1, start=start) for start, part in ((0, tokens[:cut]), (cut, tokens[cut:])) if part
    ]
    assert whole.shape == (VOCAB,)
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(pieces[-1], expected)


def test_feed_to_the_last_position(artifact: Path) -> None:
    executor = Executor.load(artifact, context=11)
    executor.feed([1] * 11, slot=0, start=0)
    executor.feed([2], slot=0, start=10)


@pytest.mark.parametrize(("count", "start"), [(12, 0), (1, 11), (5, 8)])
def test_feed_past_the_context_runs_nothing(artifact: Path, count: int, start: int) -> None:
    executor = Executor.load(artifact, context=11)
    executor.feed([1] * 11, slot=0, start=0)
    message = f"{count} tokens from position {start} on do not fit in the context of 11 .* compiled for up to {CONTEXT}"
    with pytest.raises(UserError, match=message):
        executor.feed([2] * count, slot=0, start=start)
    expected = Reference.empty(1).step([1] * 11, range(11), [0] * 11, [10])[0]
    np.testing.assert_array_equal(executor.feed([1], slot=0, start=10), expected)


def test_feed_past_the_compiled_context(executor: Executor) -> None:
    with pytest.raises(UserError, match="compile with a longer context"):
        executor.feed([1] * (CONTEXT + 1), slot=0, start=0)


def test_feed_nothing(executor: Executor) -> None:
    with pytest.raises(UserError, match="tokens: none given"):
        executor.feed([], slot=0, start=0)


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        (([VOCAB], [0], [0], [0]), rf"tokens\[0\] is {VOCAB}"),
        (([0], [CONTEXT], [0], [0]), rf"positions\[0\] is {CONTEXT}"),
        (([0], [0], [SLOTS], [0]), rf"slots\[0\] is {SLOTS}"),
        (([0], [0], [0], [1]), r"rows\[0\] is 1"),
        (([0] * (PREFILL + 1), range(PREFILL + 1), [0] * (PREFILL + 1), []), f"tokens: {PREFILL + 1} in one step"),
        (([0], [1], [0], [0]), "slot 0 holds 0 tokens, so position 1 would leave a gap"),
    ],
)
def test_wrong_arguments_are_refused_before_the_step(executor: Executor, step: Any, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        executor.step(*step)


def test_gap_after_cutting_back(executor: Executor) -> None:
    executor.feed(range(20), slot=1, start=0)
    executor.feed([5], slot=1, start=3)
    with pytest.raises(
        UserError, match="slot 1 holds 4 tokens, so position 20 would leave a gap; start at 4 or before"
    ):
        executor.feed([6], slot=1, start=20)


def test_interrupted_step_does_not_count(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    executor.feed(range(8), slot=0, start=0)
    with monkeypatch.context() as patch:
        patch.setattr(executor.compute, "submit", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            executor.step([9, 9], [5, 6], [0, 0], [])
    with pytest.raises(UserError, match="slot 0 holds 5 tokens, so position 8 would leave a gap"):
        executor.step([9], [8], [0], [])


def test_a_step_goes_on_without_who_began_it(executor: Executor) -> None:
    expected = executor.feed(range(20), slot=0, start=0)
    executor.begin_feed(range(12), slot=1, start=0)
    executor.begin_feed(range(12, 19), slot=1, start=12)
    np.testing.assert_array_equal(executor.feed([19], slot=1, start=19), expected)


def test_a_step_that_fails_tells_who_takes_its_result_and_counts_nothing(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = executor.feed(range(8), slot=0, start=0)
    with monkeypatch.context() as patch:
        patch.setattr(executor, "_step", _fail)
        with pytest.raises(RuntimeError, match="no step"):
            executor.feed(range(20), slot=0, start=5)  # in pieces: the first one's fault, not that the second has a gap
        failed = executor.begin_feed([9], slot=0, start=5)
        with pytest.raises(UserError, match="slot 0 holds 5 tokens, so position 6 would leave a gap"):
            executor.step([9], [6], [0], [])
    with pytest.raises(RuntimeError, match="no step"):
        failed.result()
    np.testing.assert_array_equal(executor.feed([5, 6, 7], slot=0, start=5), expected)


def _fail(*_arguments: Any) -> None:
    raise RuntimeError("no step")


def _interrupt(*_arguments: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("context", [-1, 0, CONTEXT + 1])
def test_context_out_of_range(artifact: Path, context: int) -> None:
    with pytest.raises(
        UserError, match=f"a context of {context} positions: the artifact was compiled for 1 to {CONTEXT}"
    ):
        Executor.load(artifact, context=context)


def test_no_slots(artifact: Path) -> None:
    with pytest.raises(UserError, match="0 slots: at least one"):
        Executor.load(artifact, slots=0)


def test_cache_larger_than_the_machine(artifact: Path) -> None:
    with pytest.raises(UserError, match=r"the KV cache of \d+ slots with 70 positions takes .* GB"):
        Executor.load(artifact, slots=1 << 42)


def test_cache_memory_is_given_when_used(artifact: Path) -> None:
    """100,000 slots are 36 MB of cache; loading them takes little of it."""
    before = _anonymous_memory()
    executor = Executor.load(artifact, slots=100_000)
    assert _anonymous_memory() - before < 10e6
    np.testing.assert_array_equal(
        executor.step([5], [0], [99_999], [0]), Reference.empty(100_000).step([5], [0], [99_999], [0])
    )


def _anonymous_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_parameters_are_mapped_not_copied(executor: Executor, artifact: Path) -> None:
    maps = Path("/proc/self/maps").read_text()
    assert str(artifact / "params.bin") in maps
    starts = [record.offset for record in executor.manifest.parameters]
    pointers = [tensor.data_ptr() for tensor in executor._tensors.parameters]
    assert [pointer - pointers[0] for pointer in pointers] == [start - starts[0] for start in starts]
    assert [str(tensor.dtype) for tensor in executor._tensors.parameters] == [
        array.dtype.name for array in parameters().values()
    ]


@pytest.mark.parametrize(
    ("verify", "marked"), [(None, True), (True, True), (False, False)], ids=["first load", "always", "never"]
)
def test_verify_argument(tmp_path: Path, verify: bool | None, marked: bool) -> None:
    write_artifact(tmp_path)
    Executor.load(tmp_path, verify=verify)
    assert (tmp_path / MARKER_FILE).exists() == marked


def test_damaged_artifact_is_refused(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    (tmp_path / "params.bin").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"params\.bin: 0 bytes instead of"):
        Executor.load(tmp_path)


def _with_step(manifest: Manifest, **changes: Any) -> Function:
    return manifest.step.model_copy(update=changes)


def test_other_signature_is_refused(tmp_path: Path) -> None:
    manifest = write_artifact(tmp_path)
    write_artifact(tmp_path, step=_with_step(manifest, inputs=manifest.step.inputs[1:]))
    with pytest.raises(ArtifactError, match="the function step takes"):
        Executor.load(tmp_path)


def test_unknown_symbolic_dimension_is_refused(tmp_path: Path) -> None:
    manifest = write_artifact(tmp_path)
    cache = TensorSpec(name="k0", dtype="float16", shape=("leaves", 16))
    write_artifact(tmp_path, step=_with_step(manifest, caches=(cache,)))
    with pytest.raises(ArtifactError, match="cache k0: symbolic dimension 'leaves' is unknown"):
        Executor.load(tmp_path)


def test_many_threads_share_an_executor(executor: Executor) -> None:
    """Steps of different slots from different threads do not mix up their arguments."""
    failures: list[BaseException] = []

    def converse(slot: int) -> None:
        reference = Reference.empty(SLOTS)
        try:
            for position in range(CONTEXT):
                step = ([(position * 7 + slot) % VOCAB], [position], [slot], [0])
                np.testing.assert_array_equal(executor.step(*step), reference.step(*step))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=converse, args=(slot,)) for slot in range(SLOTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_module_without_a_function(executor: Executor) -> None:
    with pytest.raises(ArtifactError, match=r"mod\.so has no function limit_patience"):
        executor.call("limit_patience")
