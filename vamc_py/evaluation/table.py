"""An evaluation as a table: rich's on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

from vamc_py.evaluation.evaluate import Evaluation


def show(evaluation: Evaluation) -> None:
    """Prints the table and what it leaves unsaid to stdout."""
    rows = list(table(evaluation))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        shown = Table(*rows[0])
        for column in shown.columns[1:]:
            column.justify = "right"
        for row in rows[1:]:
            shown.add_row(*row)
        Console().print(shown)
    else:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            print("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    for note in notes(evaluation):
        print(note)


def table(evaluation: Evaluation) -> Iterator[list[str]]:
    """The headings, then a row for each model. Columns that nobody asked for are not there."""
    text, reference = bool(evaluation.figures), evaluation.reference
    headings = ["scheme", "bits/weight", "MB"]
    if text:
        headings += ["ppl", *(["change", "agreement", "KL mean", "KL p99"] if reference else [])]
    for name in evaluation.answers:
        headings += [name, *(["agreement"] if reference else [])]
    yield headings
    for index, model in enumerate(evaluation.models):
        row = [model.label, f"{evaluation.bits[index]:.2f}", f"{evaluation.bytes[index] / 1e6:.1f}"]
        if text:
            row += _text_cells(evaluation, index)
        for answers in evaluation.answers.values():
            score = answers.scores[index]
            row.append(_percent(score.accuracy))
            if reference:
                row.append("" if index == 0 else _percent(score.agreement))
        yield row


def _text_cells(evaluation: Evaluation, index: int) -> list[str]:
    figures = evaluation.figures[index]
    cells = [f"{figures.ppl:.3f}"]
    if evaluation.reference and figures.divergence is None:
        return [*cells, "", "", "", ""]
    if (far := figures.divergence) is not None:
        change = evaluation.increase(index)
        cells += [f"{change:+.2%}", _percent(far.agreement), f"{far.kl_mean:.5f}", f"{far.kl_p99:.5f}"]
    return cells


def notes(evaluation: Evaluation) -> Iterator[str]:
    """One sentence each: over how much the figures go, and which questions were cut."""
    if evaluation.figures:
        yield f"text: {evaluation.figures[0].tokens} tokens scored"
    for name, answers in evaluation.answers.items():
        asked = answers.scores[0].asked
        yield f"{name}: {asked} questions of {len(answers.by_subject)} subjects"
        if answers.cut:
            yield f"{name}: {answers.cut} questions asked with fewer examples, as the context is too short for all"
        if answers.left_out:
            yield f"{name}: {answers.left_out} questions left out, as they are longer than the context"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.2%}"
