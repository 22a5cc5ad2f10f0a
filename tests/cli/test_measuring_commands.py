"""``vamc-py bench``, ``ppl`` and ``verify`` from the command line to their output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.artifacts import write_artifact

from vamc_py.cli import main
from vamc_py.runtime import limits


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text("w1 w0 w0 w0 w0 " * 20)
    return path


@pytest.fixture(autouse=True)
def _small_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_READ_BYTES", limits._SMALLEST_READ)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


BENCH = ("--prefill", 20, "--decode", 3, "--context", 16, "--repeats", 1)


def test_bench_json(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "bench", artifact, *BENCH, "--threads", 1, "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["prefill"]["tokens"], result["decode"]["context"], result["machine"]["threads"]) == (20, 16, 1)


def test_bench_table(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "bench", artifact, *BENCH)
    assert code == 0
    for words in ("prefill, 20 tokens", "decode after 16", "share of limit", "GB/s"):
        assert words in out


def test_bench_longer_than_the_context(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "bench", artifact)
    assert (code, out) == (2, "")
    assert err.startswith("vamc-py: error: --prefill 512")


def test_ppl(artifact: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ppl", artifact, "--text", text, "--context", 20, "--chunks", 3, "--json")
    assert code == 0
    result = json.loads(out)
    assert set(result) == {"ppl", "tokens"}
    assert result["tokens"] == 3 * 9
    code, out, _ = run(capsys, "ppl", artifact, "--text", text, "--context", 20, "--chunks", 3)
    assert (code, out) == (0, f"ppl {result['ppl']:.4f} over 27 tokens\n")


def test_ppl_of_a_missing_text(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "ppl", artifact, "--text", artifact / "none", "--context", 20)
    assert code == 2
    assert "cannot be read as UTF-8 text" in err


def test_verify(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify", artifact)
    assert code == 0
    assert "toy is as compiled: 4 files of 0.1 MB, 3 parameters" in out


def test_verify_damaged(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (artifact / "mod.so").write_bytes(b"")
    code, out, err = run(capsys, "verify", artifact)
    assert (code, out) == (2, "")
    assert err.startswith("vamc-py: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["bench", "ppl", "verify"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"Example: vamc-py {command} " in out
