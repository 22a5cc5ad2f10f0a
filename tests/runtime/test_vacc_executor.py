"""The executor of vacc artifacts on a toy model of one and two dies: feeding by pieces, rows, faults."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vacc_artifacts import CONTEXT, PREFILL, VOCAB, reference, write_vacc_artifact

from vamc_py.artifact.verify import MARKER_FILE
from vamc_py.errors import ArtifactError, UserError
from vamc_py.runstream import memory as die_memory
from vamc_py.runtime import load
from vamc_py.runtime.vacc import VaccExecutor

TEXT = np.random.default_rng(3).integers(0, VOCAB, CONTEXT).tolist()


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vacc") / "toy"
    write_vacc_artifact(path, ranks=request.param)
    return path


@pytest.fixture(scope="module")
def executor(folder: Path) -> VaccExecutor:
    return VaccExecutor.load(folder, threads=1)


def runs(executor: VaccExecutor, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What goes to the dies from now on: the program and how many tokens, as it happens."""
    seen: list[tuple[str, int]] = []
    prefill, decode = executor.dies.prefill, executor.dies.decode

    def seen_prefill(tokens: Any) -> Any:
        seen.append(("prefill", len(tokens)))
        return prefill(tokens)

    def seen_decode(token: int, position: int) -> Any:
        seen.append(("decode", position))
        return decode(token, position)

    monkeypatch.setattr(executor.dies, "prefill", seen_prefill)
    monkeypatch.setattr(executor.dies, "decode", seen_decode)
    return seen


@pytest.mark.parametrize("count", [1, 2, PREFILL - 1, PREFILL])
def test_a_short_prompt_is_one_prefill(executor: VaccExecutor, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = runs(executor, monkeypatch)
    np.testing.assert_array_equal(executor.feed(TEXT[:count], slot=0, start=0), reference(TEXT[:count]))
    assert seen == [("prefill", count)]


def test_a_longer_prompt_goes_on_token_by_token(executor: VaccExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = runs(executor, monkeypatch)
    logits = executor.feed(TEXT, slot=0, start=0)
    np.testing.assert_array_equal(logits, reference(TEXT))
    assert (logits.dtype, logits.shape) == (np.float32, (VOCAB,))
    assert seen == [("prefill", PREFILL), *(("decode", position) for position in range(PREFILL, CONTEXT))]


def test_decoding_overwrites_what_the_padding_left(executor: VaccExecutor) -> None:
    executor.feed(TEXT[:3], slot=0, start=0)
    for count in range(4, CONTEXT + 1):
        logits = executor.feed(TEXT[count - 1 : count], slot=0, start=count - 1)
        np.testing.assert_array_equal(logits, reference(TEXT[:count]))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_feeding_gives_the_logits_of_the_text(executor: VaccExecutor, data: st.DataObject) -> None:
    held: list[int] = []
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, min(len(held), CONTEXT - 1)))
        tokens = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=CONTEXT - start))
        held = [*held[:start], *tokens]
        np.testing.assert_array_equal(executor.feed(tokens, slot=0, start=start), reference(held))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_step_gives_the_rows_that_are_asked_for(executor: VaccExecutor, data: st.DataObject) -> None:
    start = data.draw(st.sampled_from([0, 0, 1, 20]))
    count = data.draw(st.integers(1, CONTEXT - start))
    rows = data.draw(st.lists(st.integers(0, count - 1), max_size=5))
    if start:
        executor.feed(TEXT[:start], slot=0, start=0)
    positions = np.arange(start, start + count)
    logits = executor.step(TEXT[start : start + count], positions, [0] * count, rows)
    assert (logits.dtype, logits.shape) == (np.float32, (len(rows), VOCAB))
    for row, found in zip(rows, logits, strict=True):
        np.testing.assert_array_equal(found, reference(TEXT[: start + row + 1]))
    end = start + count
    if end < CONTEXT:  # the whole step is in the cache, whatever was asked for
        np.testing.assert_array_equal(executor.feed([7], slot=0, start=end), reference([*TEXT[:end], 7]))


def test_logits_stay_as_they_are_when_the_next_step_runs(executor: VaccExecutor) -> None:
    first = executor.begin_feed(TEXT[:5], slot=0, start=0)
    second = executor.begin_feed(TEXT[5:6], slot=0, start=5)  # waits for it
    assert first.done()
    second.result()
    np.testing.assert_array_equal(first.result(), [reference(TEXT[:5])])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (([], 0, 0), "none given"),
        (([VOCAB], 0, 0), r"tokens\[0\] is 32; it must be from 0 to 31"),
        (([1, -1], 0, 0), r"tokens\[1\] is -1"),
        (([1], 1, 0), r"slots\[0\] is 1"),
        (([1], 0, CONTEXT), "do not fit in the context of 48 positions; .*compile with a longer"),
        (([1], 0, 10), "slot 0 holds 2 tokens, so position 10 would leave a gap"),
    ],
)
def test_wrong_arguments_are_refused(executor: VaccExecutor, arguments: tuple[list[int], int, int], fault: str) -> None:
    executor.feed([1, 2], slot=0, start=0)
    tokens, slot, start = arguments
    with pytest.raises(UserError, match=fault):
        executor.feed(tokens, slot=slot, start=start)
    np.testing.assert_array_equal(executor.feed([3], slot=0, start=2), reference([1, 2, 3]))


def test_a_fault_reaches_who_takes_the_result_and_leaves_a_gap(
    executor: VaccExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.feed(TEXT[:6], slot=0, start=0)
    with monkeypatch.context() as patch:
        patch.setattr(executor.dies, "decode", lambda token, position: 1 / 0)
        step = executor.begin_feed([1], slot=0, start=4)
        with pytest.raises(ZeroDivisionError):
            step.result()
    with pytest.raises(UserError, match="slot 0 holds 4 tokens"):
        executor.feed([1], slot=0, start=5)
    np.testing.assert_array_equal(executor.feed([1], slot=0, start=4), reference([*TEXT[:4], 1]))


def test_context_may_be_shorter_than_compiled(folder: Path) -> None:
    executor = VaccExecutor.load(folder, context=20, threads=1)
    np.testing.assert_array_equal(executor.feed(TEXT[:20], slot=0, start=0), reference(TEXT[:20]))
    with pytest.raises(UserError, match="load the artifact with a longer context"):
        executor.feed(TEXT[:21], slot=0, start=0)
    with pytest.raises(UserError, match="a context of 49 positions: the artifact was compiled for 1 to 48"):
        VaccExecutor.load(folder, context=49)


def test_equal_modules_are_loaded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vamc_py.runtime import library

    loaded = []
    original = library.load_module
    monkeypatch.setattr(library, "load_module", lambda path: loaded.append(path) or original(path))
    VaccExecutor.load(folder, threads=1)
    assert len(loaded) == 1


def test_text_is_generated_greedily_as_the_reference_says(folder: Path) -> None:
    model = load(folder, threads=1)
    assert model.simulation is not None
    for prompt in (TEXT[:5], TEXT[:30], [*TEXT[:3], 9]):
        expected = list(prompt)
        for _ in range(8):
            expected.append(int(reference(expected).argmax()))
        result = model.generate(prompt, greedy=True, max_new_tokens=8).result()
        assert result.output_ids == tuple(expected[len(prompt) :])


def test_an_llvm_artifact_is_not_simulated(tmp_path: Path) -> None:
    from support.artifacts import write_artifact

    write_artifact(tmp_path / "toy")
    for name in ("tokenizer_config.json", "generation_config.json"):
        (tmp_path / "toy" / "tokenizer" / name).write_text("{}")
    assert load(tmp_path / "toy", verify=False).simulation is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("prefill_16_rank0/mod.json", r"mod\.json: its content is not what was compiled"),
        ("decode_48_rank0/mod.params", r"mod\.params: its content is not what was compiled"),
        ("decode_48_rank0/mod.so", r"mod\.so: its content is not what was compiled"),
    ],
)
def test_a_damaged_file_is_refused_before_anything_runs(folder: Path, tmp_path: Path, name: str, fault: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "toy", ignore=shutil.ignore_patterns(MARKER_FILE)))
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=fault):
        load(copy, threads=1)


def test_a_missing_rank_is_named(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "toy"))
    shutil.rmtree(copy / "decode_48_rank0")
    with pytest.raises(ArtifactError, match=r"the decode runstream of rank 0 of [12] is missing"):
        load(copy, threads=1)


def test_a_fault_of_the_device_names_the_command(folder: Path) -> None:
    executor = VaccExecutor.load(folder, threads=1)
    first = executor.dies.programs.decode[0]
    # Without the command that brings the cache, the kernel reads SSRAM that nothing has written.
    commands = tuple(
        one.model_copy(update={"target": one.target.model_copy(update={"size": 4}), "source": first.commands[0].source})
        if number == 3
        else one
        for number, one in enumerate(first.commands)
    )
    broken = (first.model_copy(update={"commands": commands}), *executor.dies.programs.decode[1:])
    executor.dies.programs = dataclasses.replace(executor.dies.programs, decode=broken)
    executor.feed(TEXT[:3], slot=0, start=0)
    step = executor.begin_feed([1], slot=0, start=3)
    with pytest.raises(
        ArtifactError, match=r"decode of rank 0: command 5.* reads SSRAM at byte .*, which was not written"
    ):
        step.result()


def test_memory_that_the_machine_has_not_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(die_memory, "_zeros", refuse)
    with pytest.raises(ArtifactError, match=r"rank 0 needs 0\.0 GB of DDR, which this machine has not left"):
        VaccExecutor.load(folder, threads=1)
