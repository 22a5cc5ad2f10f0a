"""The benchmark's report: its form, and its figures from samples that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.artifacts import CONTEXT, write_artifact

from vamc_py.errors import UserError
from vamc_py.runtime import limits
from vamc_py.runtime.bench import Sample, Settings, bench, report
from vamc_py.runtime.executor import Executor
from vamc_py.runtime.limits import decode_work, prefill_work

SETTINGS = Settings(prefill=30, decode=4, context=16, repeats=3)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "toy"
    write_artifact(folder)
    return folder


def test_report_is_medians_and_shares(artifact: Path) -> None:
    executor = Executor.load(artifact)
    samples = [
        Sample(prefill_seconds=1.0, decode_seconds=0.5, read=1e9, matrix={"int8": 1e6, "fp32": 2e6}),
        Sample(prefill_seconds=3.0, decode_seconds=2.0, read=3e9, matrix={"int8": 1e6, "fp32": 9e6}),
        Sample(prefill_seconds=2.0, decode_seconds=1.0, read=2e9, matrix={"int8": 1e6, "fp32": 4e6}),
    ]
    result = report(executor, SETTINGS, samples)
    operations, read = prefill_work(executor.manifest, 30).operations, decode_work(executor.manifest, 16, 4).read
    # The shares of the three rounds are operations / (2e6, 27e6, 8e6) and read / (0.5e9, 6e9, 2e9).
    assert result["prefill"] == {"tokens": 30, "tokens_per_s": 15.0, "share_of_limit": operations / 8e6}
    assert result["decode"] == {"context": 16, "tokens_per_s": 4.0, "share_of_limit": read / 2e9}
    assert result["machine"] == {
        "cpu": result["machine"]["cpu"], "threads": executor.compute.threads,
        "read_gb_s": 2.0, "int8_gops": 0.001, "fp32_gops": 0.004,
    }  # fmt: skip


def test_bfloat16_builds_are_measured_against_its_peak(artifact: Path) -> None:
    executor = Executor.load(artifact)
    target = executor.manifest.target.model_copy(update={"dtype": "int8"})
    executor.manifest = executor.manifest.model_copy(update={"target": target, "activation": "bf16", "wide_rows": 4})
    sample = Sample(prefill_seconds=2.0, decode_seconds=1.0, read=1e9, matrix={"int8": 8e6, "fp32": 1e6, "bf16": 4e6})
    result = report(executor, SETTINGS, [sample])
    assert result["prefill"]["share_of_limit"] == prefill_work(executor.manifest, 30).operations / 8e6
    figures = {name: value for name, value in result["machine"].items() if name.endswith("gops")}
    assert figures == {"int8_gops": 0.008, "fp32_gops": 0.001, "bf16_gops": 0.004}


def test_bench_measures_a_real_artifact(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_READ_BYTES", limits._SMALLEST_READ)
    result = bench(artifact, SETTINGS, threads=1)
    assert {part: set(figures) for part, figures in result.items()} == {
        "prefill": {"tokens", "tokens_per_s", "share_of_limit"},
        "decode": {"context", "tokens_per_s", "share_of_limit"},
        "machine": {"cpu", "threads", "read_gb_s", "int8_gops", "fp32_gops"},
    }
    assert result["machine"]["threads"] == 1
    assert all(result[part][figure] > 0 for part in ("prefill", "decode") for figure in result[part])


def test_each_round_measures_work_and_limits_in_turn(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_READ_BYTES", limits._SMALLEST_READ)
    events: list[str] = []
    original_call, original_begin = Executor.call, Executor._begin

    def call(self: Executor, name: str, *arrays: Any) -> None:
        events.append(name)
        original_call(self, name, *arrays)

    def begin(self: Executor, *arguments: Any) -> Any:
        events.append("step")
        return original_begin(self, *arguments)

    monkeypatch.setattr(Executor, "call", call)
    monkeypatch.setattr(Executor, "_begin", begin)
    bench(artifact, SETTINGS)
    one_round = [
        "limit_read", *["step"] * (2 + 4), "limit_matrix_int8", "limit_matrix_fp32", *["step"] * 4,
    ]  # fmt: skip
    assert events[-3 * len(one_round) :] == one_round * 3  # 16 tokens are 2 steps of 8, 30 are 4


@pytest.mark.parametrize("name", ["prefill", "decode", "context", "repeats"])
def test_settings_are_positive(name: str) -> None:
    settings = Settings(**{**vars(SETTINGS), name: 0})
    with pytest.raises(UserError, match=f"--{name} 0: at least 1"):
        settings.check(CONTEXT)


@pytest.mark.parametrize("change", [{"prefill": CONTEXT + 1}, {"context": CONTEXT - 3}, {"decode": CONTEXT - 15}])
def test_settings_fit_the_context(artifact: Path, change: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"the artifact's context is {CONTEXT}; choose shorter ones"):
        bench(artifact, Settings(**{**vars(SETTINGS), **change}))


def test_settings_that_just_fit(artifact: Path) -> None:
    Settings(prefill=CONTEXT, decode=4, context=CONTEXT - 4, repeats=1).check(CONTEXT)
