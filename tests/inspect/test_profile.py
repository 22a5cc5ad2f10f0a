"""The profile of an artifact: what it lists, that its parts sum to the step, and the table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import compile_checkpoint

from vamc_py.artifact.verify import read_manifest
from vamc_py.cli import main
from vamc_py.errors import UserError
from vamc_py.inspect.costs import StepSize, cost
from vamc_py.inspect.dump import open_dump
from vamc_py.inspect.final_graph import final_graph
from vamc_py.inspect.profile import Profile, ProfileSettings, StepProfile, profile
from vamc_py.runtime import limits

PREFILL, CONTEXT = 32, 64
SETTINGS = ProfileSettings(context=20, prefill=24, repeats=2)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_checkpoint(folder / "checkpoint", architecture="qwen3", layers=2)
    checkpoint = folder / "checkpoint"
    return compile_checkpoint(checkpoint, folder, ir=True, dtype="int8", prefill=PREFILL, context=CONTEXT).folder


@pytest.fixture(autouse=True)
def _small_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_READ_BYTES", limits._SMALLEST_READ)


@pytest.fixture(scope="module")
def measured(artifact: Path) -> Profile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "_READ_BYTES", limits._SMALLEST_READ)
        return profile(artifact, SETTINGS, threads=1)


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_rows_and_rests_sum_to_the_step(measured: Profile, kind: str) -> None:
    step: StepProfile = getattr(measured, kind)
    parts = [*(row.seconds for row in step.rows), step.machine_seconds, step.python_seconds]
    assert sum(parts) == pytest.approx(step.seconds)
    assert all(part > 0 for part in parts)
    assert step.plain_seconds > 0
    assert [row.seconds for row in step.rows] == sorted((row.seconds for row in step.rows), reverse=True)


@pytest.mark.parametrize(
    ("kind", "size"), [("decode", StepSize(1, 1, 20, 24 + 1)), ("prefill", StepSize(24, 1, 0, 24 + 1))]
)
def test_every_call_of_the_graph_is_in_a_row(artifact: Path, measured: Profile, kind: str, size: StepSize) -> None:
    step: StepProfile = getattr(measured, kind)
    calls = final_graph(open_dump(artifact)).calls
    assert {row.kernel: row.calls for row in step.rows} == Counter(call.symbol for call in calls)
    for row in step.rows:
        costs = [cost(call, size) for call in calls if call.symbol == row.kernel]
        assert (row.bytes, row.operations) == (sum(one.bytes for one in costs), sum(one.operations for one in costs))


def test_shares_are_of_the_limit_that_binds(measured: Profile) -> None:
    for step in (measured.decode, measured.prefill):
        for row in step.rows:
            if row.bound == "memory":
                assert row.share_of_limit == pytest.approx(row.bytes / measured.limits.bandwidth / row.seconds)
            else:
                assert row.share_of_limit >= row.operations / measured.limits.int8_peak / row.seconds * 0.999


def test_titles_say_what_was_run(measured: Profile) -> None:
    assert (measured.decode.title, measured.prefill.title) == ("decode: 1 token after 20", "prefill: 24 tokens")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (ProfileSettings(0, 8, 1), "--context 0: at least 1"),
        (ProfileSettings(8, 0, 1), "--prefill 0: at least 1"),
        (ProfileSettings(8, 8, 0), "--repeats 0: at least 1"),
        (ProfileSettings(CONTEXT, 8, 1), f"--context {CONTEXT}: the artifact's context is {CONTEXT}"),
        (
            ProfileSettings(8, PREFILL + 1, 1),
            f"--prefill {PREFILL + 1}: a profile shows one step, which takes {PREFILL}",
        ),
    ],
)
def test_settings_that_do_not_fit(artifact: Path, settings: ProfileSettings, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        settings.check(read_manifest(artifact))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert left.value.code == 0, captured.err
    return captured.out


OPTIONS = ("--profile", "--context", 20, "--prefill", 24, "--repeats", 1, "--threads", 1)


def test_the_table(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "bench", artifact, *OPTIONS)
    words = ("decode: 1 token after 20", "prefill: 24 tokens", "between kernels", "around them", "the step", "GB/s")
    for word in words:
        assert word in out
    for call in final_graph(open_dump(artifact)).calls:
        assert call.symbol in out


def test_json(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(run(capsys, "bench", artifact, *OPTIONS, "--json"))
    assert set(result) == {"limits", "decode", "prefill"}
    step = result["decode"]
    parts = [*(row["seconds"] for row in step["rows"]), step["machine_seconds"], step["python_seconds"]]
    assert sum(parts) == pytest.approx(step["seconds"])
    assert result["limits"]["bandwidth"] > 0
