"""The commands on an artifact of the vacc target: what says that it is simulated, and what refuses it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.vacc_artifacts import VOCAB, reference, write_vacc_artifact

from vamc_py.cli import main


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vacc") / "toy"
    write_vacc_artifact(folder, ranks=2)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


NOTICE = "[a simulation of 2 dies of the device model tiny; times are of this machine, not of a device]\n"
RUN = ("--raw", "--greedy", "--max-new-tokens", 3, "--threads", 1)


def continuation() -> str:
    tokens = [1, 2, 3]
    for _ in range(3):
        tokens.append(int(reference(tokens).argmax()))
    assert VOCAB - 1 not in tokens  # the special token, whose name is not in the text
    return " ".join(f"w{token}" for token in tokens[3:])


def test_run_says_in_one_line_that_it_simulates(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "run", artifact, "w1 w2 w3", *RUN)
    assert (code, out.strip(), err) == (0, continuation(), NOTICE)


def test_verbose_adds_an_estimate_that_says_so(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "run", artifact, "w1 w2 w3", *RUN, "-v")
    notice, estimate, statistics = err.splitlines()
    assert code == 0
    assert notice + "\n" == NOTICE
    assert estimate.startswith("[estimate for 2 dies of tiny: prefill of 16 tokens ")
    assert "decode with a context of 48" in estimate
    assert "vamc-py's own model" in estimate
    assert statistics.startswith("[prompt 3 tokens in ")


def test_json_names_the_simulated_device(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "run", artifact, "w1 w2 w3", *RUN, "--json")
    record = json.loads(out)
    assert (code, err) == (0, NOTICE)
    assert record["simulation"] == {"device": "tiny", "dies": 2}
    assert record["text"].strip() == continuation()


def test_ppl_is_that_of_the_logits(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = np.random.default_rng(5).integers(0, VOCAB - 1, 50).tolist()
    text = tmp_path / "text"
    text.write_text(" ".join(f"w{token}" for token in tokens))
    code, out, err = run(capsys, "ppl", artifact, "--text", text, "--context", 24, "--threads", 1, "--json")
    losses = []
    for window in (tokens[:24], tokens[24:48]):
        for position in range(12, 23):
            logits = reference(window[: position + 1]).astype(np.float64)
            losses.append(np.logaddexp.reduce(logits) - logits[window[position + 1]])
    assert (code, err.startswith(NOTICE)) == (0, True)
    result = json.loads(out)
    assert result["tokens"] == len(losses) == 22
    assert math.log(result["ppl"]) == pytest.approx(np.mean(losses), rel=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench",),
        ("bench", "--profile"),
        ("report", "--no-measure", "-o", "{tmp}/page.html"),
        ("eval", "--text", "{tmp}", "--against", "none"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_what_measures_a_machine_refuses_in_a_sentence(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    command, *options = (argument.format(tmp=tmp_path) for argument in arguments)
    code, out, err = run(capsys, command, artifact, *options)
    assert (code, out) == (2, "")
    assert err == (
        f"vamc-py: error: {artifact}: compiled for vacc, a device model, which this command does not serve; "
        "`vamc-py run` runs it in simulation, `vamc-py simulate --trace FILE` estimates how fast the device would be "
        "and shows what waits\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_ir_says_that_there_is_none(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "ir", "show", artifact)
    assert (code, out) == (2, "")
    assert err.startswith(f"vamc-py: error: {artifact}: ")
    assert err.count("\n") == 1


def test_verify_counts_ranks(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify", artifact)
    assert code == 0
    assert "is as compiled: 17 files" in out
    assert out.endswith("runstreams of 2 ranks for the device model tiny\n")
