"""``vamc-py simulate`` and ``vamc-py runstream`` on small artifacts made by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.timed_programs import QUIET, all_reduce, launch, load, program, store, vector_work, write_artifact
from typer.testing import CliRunner

from vamc_py.cli import build_app
from vamc_py.errors import UserError
from vamc_py.runstream.program import Program, Stage
from vamc_py.target.vacc.device import STATEMENT


def small(stage: Stage, rank: int, size: int = 6400) -> Program:
    label = "layers.0.mlp.down_proj"
    commands = (
        load(size, label=label),
        launch("norm", (0,), label=label, engine="vector"),
        all_reduce(512, (1,), label=label),
        store(64, (2,), label="logits"),
    )
    tokens = 16 if stage == "prefill" else 1
    return program(*commands, kernels={"norm": vector_work(1600)}, rank=rank, ranks=2, stage=stage, tokens=tokens)


STAGES: tuple[Stage, ...] = ("prefill", "decode")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    write_artifact(folder, [small(stage, rank) for stage in STAGES for rank in range(2)], QUIET)
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments], env={"COLUMNS": "160"})


def printed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: object) -> str:
    error = run(*arguments).exception
    assert isinstance(error, UserError)
    assert "\n" not in str(error)
    return str(error)


SECONDS = (6401 + 1001 + 2 * 512 / 2 / 0.5 + 2 + 65) * 1e-9


def test_estimates(artifact: Path) -> None:
    shown = printed("simulate", artifact)
    assert "prefill, 16 tokens, context 64: 2 dies of tiny" in shown
    assert f"{16 / SECONDS:,.1f}" in shown
    assert f"{1 / SECONDS:,.1f}" in shown
    assert STATEMENT in shown
    assert "The host's part is not counted" in shown
    waits = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "waits" not in line]
    label = "layers.*.mlp.down_proj"
    assert ["vccl", f"{7402e-9 / SECONDS:.1%}", "1", label, f"vector {label}"] in waits


def test_json_and_one_stage(artifact: Path) -> None:
    result = json.loads(printed("simulate", artifact, "--json", "--only", "decode"))
    assert result["statement"] == STATEMENT
    assert list(result["stages"]) == ["decode"]
    assert result["stages"]["decode"]["seconds"] == pytest.approx(SECONDS)
    assert result["stages"]["decode"]["ranks"] == 2


def test_the_trace(artifact: Path, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    assert f"trace: {file}" in printed("simulate", artifact, "--trace", file)
    events = json.loads(file.read_text())["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == 16


def test_an_artifact_lists_its_programs(artifact: Path) -> None:
    lines = printed("runstream", "show", artifact).splitlines()
    assert any("a device model" in line for line in lines)
    assert sum("decode" in line for line in lines) == 2
    assert sum("prefill" in line for line in lines) == 2


@pytest.mark.parametrize("place", ["", "prefill_16_rank1", "prefill_16_rank1/mod.json"])
def test_a_program_is_shown_by_operator(artifact: Path, place: str) -> None:
    choice = () if place else ("--stage", "prefill", "--rank", 1)
    shown = printed("runstream", "show", artifact / place, *choice)
    assert "rank       1 of 2" in shown
    assert "layers.0.mlp.down_proj" in shown
    assert "norm" in shown


def test_commands_are_listed(artifact: Path) -> None:
    assert printed("runstream", "show", artifact, "--stage", "decode", "--first", 1, "--last", 2).splitlines() == [
        "1 vector norm(update ssram[0x0, 64 B]), after 0  # layers.0.mlp.down_proj",
        "2 vccl all_reduce float32 ssram[0x0, 512 B] -> ssram[0x0, 512 B], after 1  # layers.0.mlp.down_proj",
    ]
    assert len(printed("runstream", "show", artifact, "--first", 2).splitlines()) == 2


def test_differences_of_programs_and_of_artifacts(artifact: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    changed = [small(stage, rank, 6400 if stage == "prefill" else 3200) for stage in STAGES for rank in range(2)]
    write_artifact(other, changed, QUIET)
    assert printed("runstream", "diff", artifact, other, "--stage", "decode", "--rank", 1).splitlines()[:3] == [
        "@@ layers.0.mlp.down_proj",
        "- wddma ddr[6400 B] -> ssram[6400 B]",
        "+ wddma ddr[3200 B] -> ssram[3200 B]",
    ]
    lines = printed("runstream", "diff", artifact, other).splitlines()
    assert lines[:3] == [
        "== prefill rank 0, prefill rank 1",
        "the programs are the same",
        "== decode rank 0, decode rank 1",
    ]
    first = artifact / "decode_64_rank0"
    assert printed("runstream", "diff", first, first) == "the programs are the same\n"
    assert printed("runstream", "diff", first, artifact / "decode_64_rank1").splitlines() == ["@@ rank", "- 0", "+ 1"]


def test_what_is_no_artifact_is_refused(artifact: Path, tmp_path: Path) -> None:
    assert "no artifact of vacc" in refused("simulate", tmp_path)
    assert "absent: no such file" in refused("simulate", tmp_path / "absent")
    assert str(tmp_path / "mod.json") in refused("runstream", "show", tmp_path)
    assert "choose from an artifact" in refused("runstream", "show", artifact / "decode_64_rank0", "--rank", 0)
    assert "there is no rank 2; ranks are 0 to 1" in refused("runstream", "show", artifact, "--rank", 2)
    assert "there are commands 0 to 3" in refused("runstream", "show", artifact, "--first", 3, "--last", 4)


def test_a_missing_rank_stage_or_device_is_named(artifact: Path) -> None:
    (artifact / "decode_64_rank1" / "mod.json").unlink()
    assert "decode_64_rank1/mod.json" in refused("simulate", artifact)
    (artifact / "decode_64_rank1").rmdir()
    assert refused("simulate", artifact).endswith(
        "the decode of rank 1 is missing, of 2 ranks; copy the artifact whole"
    )
    (artifact / "decode_64_rank0" / "mod.json").unlink()
    (artifact / "decode_64_rank0").rmdir()
    assert refused("simulate", artifact, "--only", "decode").endswith("has no program of decode")
    assert printed("simulate", artifact)
    (artifact / "device.json").unlink()
    assert "device.json: there is no such file" in refused("simulate", artifact, "--only", "prefill")


def test_damaged_and_misplaced_programs_are_named(artifact: Path) -> None:
    file = artifact / "prefill_16_rank0" / "mod.json"
    text = file.read_text()
    file.write_text(text.replace('"kind":"launch"', '"kind":"jump"'))
    assert re.search(r"mod\.json: .*commands\.1", refused("simulate", artifact))
    file.write_text(text[: len(text) // 2])
    assert re.search(r"mod\.json: .*JSON", refused("simulate", artifact))
    file.write_text(text.replace('"format":1', '"format":2'))
    assert re.search(r"mod\.json: .*format 2", refused("simulate", artifact))
    file.write_text((artifact / "prefill_16_rank1" / "mod.json").read_text())
    assert "prefill_16_rank0: holds the program of prefill_16_rank1" in refused("simulate", artifact)


def test_two_lengths_of_a_stage_are_refused(artifact: Path) -> None:
    write = small("prefill", 0).model_copy(update={"tokens": 32})
    place = artifact / "prefill_32_rank0"
    place.mkdir()
    (place / "mod.json").write_text(write.model_dump_json())
    assert "holds programs of several lengths for prefill; keep one" in refused("simulate", artifact)
