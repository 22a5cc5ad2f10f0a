"""Passes and pipelines as text: what ``vamc-py passes`` prints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import yaml
from pydantic import JsonValue

from vamc_py.pipeline.base import STAGES
from vamc_py.pipeline.default import all_passes
from vamc_py.pipeline.pass_options import documentation, option_values, options_of, summary
from vamc_py.pipeline.registry import OWN_ORIGIN, Registered, registered_passes
from vamc_py.pipeline.runner import Planned

COLUMNS = ("pass", "stage", "targets", "options", "what it does")


def pass_rows() -> list[tuple[str, ...]]:
    """A row of ``COLUMNS`` for each pass: by stage, and in a stage in the order in which they run by default."""
    order = [one.name for one in all_passes()]

    def key(one: Registered) -> tuple[int, int, str]:
        name = one.kind.name
        return STAGES.index(one.kind.stage), order.index(name) if name in order else len(order), name

    return [_row(one) for one in sorted(registered_passes().values(), key=key)]


def _row(one: Registered) -> tuple[str, ...]:
    kind = one.kind
    origin = "" if one.built_in else f" ({one.origin})"
    options = options_text({option.name: option.default for option in options_of(kind)})
    return kind.name, kind.stage, ", ".join(kind.targets), options, summary(kind) + origin


def describe(one: Registered) -> Iterator[str]:
    """The lines that explain one pass."""
    from vamc_py.pipeline.example import run_example

    kind = one.kind
    yield f"{kind.name}, a pass of the stage {kind.stage}{' that may run anywhere' if kind.anywhere else ''}"
    yield from ("", *(documentation(kind) or "It has no documentation.").splitlines(), "")
    yield from aligned(
        [
            ("requires", ", ".join(kind.requires) or "none"),
            ("runs after", ", ".join(kind.after) or "any"),
            ("targets", ", ".join(kind.targets)),
            ("tolerance", f"{kind.tolerance:g}"),
            ("from", one.origin),
        ]
    )
    options = options_of(kind)
    yield from ("", "Options:" if options else "It has no options.")
    yield from aligned([("  " + o.name, o.type, f"default {json.dumps(o.default)}") for o in options])
    if kind.example:
        before, after = run_example(kind)
        yield from ("", "Before:", "", *before.splitlines(), "", "After:", "", *after.splitlines())


def pipeline_rows(pipeline: Sequence[Planned]) -> list[tuple[str, ...]]:
    """A row for each pass of a pipeline: number, label, stage, options, and what it has not from the default list."""
    return [
        (str(number), step.label, step.one.stage, options_text(option_values(step.one)), _source(step))
        for number, step in enumerate(pipeline, 1)
    ]


def _source(step: Planned) -> str:
    origin = () if step.origin == OWN_ORIGIN else (step.origin,)
    return ", ".join((*origin, *((step.place,) if step.place else ())))


def pipeline_yaml(pipeline: Sequence[Planned]) -> Iterator[str]:
    """The pipeline as lines of a ``passes`` section, with the options of every pass."""
    yield from ("passes:", "  - clear: true")
    for step in pipeline:
        key, value = ("file", step.origin) if ".py:" in step.origin else ("name", step.one.name)
        yield f"  - {key}: {_flow(value)}"
        options = option_values(step.one)
        if options:
            yield f"    options: {_flow(options)}"


def _flow(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n...\n").removesuffix("\n")


def options_text(options: Mapping[str, JsonValue]) -> str:
    """``lm_head=true, limit=2.0``."""
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in options.items())


def aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The rows as lines, each column as wide as its widest cell, two blanks between them."""
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
