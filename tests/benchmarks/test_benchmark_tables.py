"""The benchmark's tables in markdown."""

from __future__ import annotations

import pytest
from support.benchmark_results import MODEL, PEER, sample_results

from benchmarks import tables
from benchmarks.figures import Case, Figures
from benchmarks.results import Failure, Results
from vamc_py.errors import UserError


def rows(table: str) -> dict[str, list[str]]:
    """The cells of each row by its first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in cells}


def test_speed() -> None:
    found = rows(tables.speed(Figures(sample_results(), MODEL)))
    assert found["tokens/s (share of the limit)"] == ["prefill 64", "decode at 16", "decode at 32", "4 sequences at 16"]
    assert found["vamc-py, bf16"][0].startswith("1100 (")
    assert found["OpenVINO GenAI"][3] == "–"
    assert found["ONNX Runtime GenAI"] == ["–"] * 4
    assert len(found["limit, int8"]) == 4
    assert found["limit, bf16"][3] == "–"


def test_shares_stand_in_percent() -> None:
    figures = Figures(sample_results(), MODEL)
    [cell] = rows(tables.speed(figures))["vamc-py, bf16"][1:2]
    share = figures.share("vamc-py:bf16", Case("decode", 16))
    assert cell == f"11.0 ({share:.0%})"


def test_prompts_in_bf16_have_two_shares() -> None:
    figures = Figures(sample_results(), MODEL)
    [cell] = rows(tables.speed(figures))["vamc-py, bf16"][:1]
    shares = [figures.share("vamc-py:bf16", Case("prefill", 64), peak) for peak in ("int8", "bf16")]
    assert cell == f"1100 ({shares[0]:.0%}, {shares[1]:.0%} of bf16's)"


def test_several_sequences_are_compared_with_one() -> None:
    found = rows(tables.scaling(Figures(sample_results(), MODEL)))
    assert found == {
        "times the tokens/s of one sequence": ["4 sequences at 16"],
        "---": ["---:"],
        "vamc-py, bf16": ["3.00"],
    }


def test_ratios_name_both_sides() -> None:
    found = rows(tables.ratios(Figures(sample_results(), MODEL)))
    assert "vamc-py, bf16: times as fast as" in found
    assert found["OpenVINO GenAI"] == ["2.50", "2.50", "2.50", "–"]
    assert "ONNX Runtime GenAI" not in found


def test_start_has_memory_in_two_parts() -> None:
    found = rows(tables.start(Figures(sample_results(), MODEL)))
    assert found["vamc-py, bf16"] == ["1.10", "100 + 50", "100 + 50", "5.0", "300 + 20", "60.0"]
    assert found["ONNX Runtime GenAI"] == ["–"] * 6


def test_failures_are_shown_with_their_reason() -> None:
    results = sample_results()
    results.failures.append(Failure(PEER, MODEL, "batch", "ended with -9: killed"))
    text = tables.document(results)
    assert "* onnxruntime could not be set up: pip failed: no such package" in text
    assert "* openvino, batch: ended with -9: killed" in text


def test_the_document_says_machine_limits_and_versions() -> None:
    text = tables.document(sample_results())
    assert "a CPU, 2 threads, 8 GB of memory, Linux 6, measured 2026-01-01" in text
    assert "read 0.002 GB/s (0.002 to 0.002)" in text
    assert "* OpenVINO GenAI: int8 weights. openvino 2.0." in text
    assert "Medians of 2 rounds." in text


def test_no_results_no_tables() -> None:
    with pytest.raises(UserError, match="measure something first"):
        tables.document(Results())


def test_models_that_were_only_converted_are_left_out() -> None:
    results = sample_results()
    results.models["other"] = results.models[MODEL]
    assert "### other" not in tables.document(results)


def test_tables_replace_what_stands_between_the_marks() -> None:
    text = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    once = tables.put_between_marks(text, "new", "a.md")
    assert once == f"before\n{tables.BEGIN}\n\nnew\n\n{tables.END}\nafter\n"
    assert tables.put_between_marks(once, "new", "a.md") == once


@pytest.mark.parametrize("text", ["", tables.BEGIN, f"{tables.END}{tables.BEGIN}", f"{tables.BEGIN * 2}{tables.END}"])
def test_missing_marks_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"a\.md: needs the line"):
        tables.put_between_marks(text, "new", "a.md")
