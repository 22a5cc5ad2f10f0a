"""The tables that docs/performance.md and the screen show, in markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.figures import Case, Figures
from benchmarks.results import Results
from vamc_py.errors import UserError

BEGIN = "<!-- benchmark tables: written by benchmarks/run.py -->"
END = "<!-- end of the benchmark tables -->"
_MISSING = "–"
_BF16 = "vamc-py:bf16"  # multiplies prompts in bfloat16
_PEAKS = ("int8", "bf16")
_LIMITS = {"read": ("read", "GB/s"), "int8": ("int8", "Gop/s"), "bf16": ("bf16", "Gop/s"), "fp32": ("fp32", "Gop/s")}


def document(results: Results) -> str:
    """All tables: the machine, then each model that was measured."""
    measured = [figures for name in results.models if (figures := Figures(results, name)).rounds()]
    if not measured:
        raise UserError("the results are empty; measure something first")
    return "\n\n".join([machine(results), engines(results), *map(model, measured)])


def machine(results: Results) -> str:
    """One paragraph: the machine and its limits over the whole run."""
    facts = results.machine
    passes: dict[str, list[float]] = {name: [] for name in _LIMITS}
    for record in results.limits:
        for name, values in record.passes.items():
            passes.setdefault(name, []).append(statistics.median(values))
    limits = "; ".join(_limit(name, values) for name, values in passes.items() if values)
    return (
        f"{facts['cpu']}, {facts['threads']} threads, {facts['memory'] / 2**30:.0f} GB of memory, {facts['system']}, "
        f"measured {facts['date']}. Limits, as medians over the run, with the least and the greatest: {limits}."
    )


def engines(results: Results) -> str:
    """What was compared, with versions and settings."""
    lines = []
    for facts in results.engines.values():
        versions = ", ".join(f"{package} {version}" for package, version in facts.versions.items())
        lines.append(f"* {facts.title}: {facts.settings}. {versions}.")
    failed = [one for one in results.failures if not one.model]
    lines += [f"* {one.engine} could not be set up: {one.reason}" for one in failed]
    return "\n".join(lines)


def model(figures: Figures) -> str:
    """A model's tables: speed, ratios, start and memory."""
    rounds = figures.rounds()
    heading = f"### {figures.model}\n\n{_shape(figures)} Medians of {rounds} round{'s' if rounds != 1 else ''}."
    parts = [heading, speed(figures), ratios(figures), scaling(figures), start(figures), failures(figures)]
    return "\n\n".join(part for part in parts if part)


def speed(figures: Figures) -> str:
    """Tokens a second, and in brackets the share of the limit by the int8 peak; for prompts in bf16 of its own, too."""
    cases = figures.cases()
    if not cases:
        return ""
    rows = [
        [_title(figures, engine), *(_speed(figures, engine, case) for case in cases)] for engine in figures.engines()
    ]
    for peak in _PEAKS:
        limits = [_median(figures.limit_rates(case, peak)) for case in cases]
        if any(limits):
            rows.append([f"limit, {peak}", *(_number(limit) for limit in limits)])
    return table(["tokens/s (share of the limit)", *(heading(case) for case in cases)], rows)


def ratios(figures: Figures) -> str:
    """How many times as fast vamc-py is as each peer, round by round; a table for each of its settings."""
    cases = figures.cases()
    ours = [name for name in figures.engines() if is_ours(name)]
    peers = [name for name in figures.engines() if not is_ours(name)]
    tables = []
    for engine in ours:
        rows = [
            [_title(figures, peer), *(_times(figures.ratio(engine, peer, case)) for case in cases)] for peer in peers
        ]
        rows = [row for row in rows if any(cell != _MISSING for cell in row[1:])]
        if rows:
            headings = [f"{_title(figures, engine)}: times as fast as", *(heading(case) for case in cases)]
            tables.append(table(headings, rows))
    return "\n\n".join(tables)


def scaling(figures: Figures) -> str:
    """How many times the tokens/s of one sequence several have."""
    cases = [case for case in figures.cases() if case.batch > 1]
    rows = [
        [_title(figures, engine), *(_times(figures.scaling(engine, case)) for case in cases)]
        for engine in figures.engines()
    ]
    rows = [row for row in rows if any(cell != _MISSING for cell in row[1:])]
    return table(["times the tokens/s of one sequence", *(heading(case) for case in cases)], rows) if rows else ""


def start(figures: Figures) -> str:
    """The first token of a cold process, memory, and the conversion."""
    headings = [
        "", "first token of a cold process, s", "its memory, anonymous + mapped, MB", "after a prompt of "
        "the longest length, MB", "conversion, s", "its memory, MB", "on disk, MB",
    ]  # fmt: skip
    rows = []
    for engine in figures.engines():
        made = figures.results.conversion(figures.model, engine)
        rows.append(
            [
                _title(figures, engine),
                _number(figures.first_token(engine), 2),
                _memory(figures.memory(engine, "start")),
                _memory(figures.memory(engine, "prefill")),
                _number(made.seconds if made else None),
                _memory((made.anonymous, made.file) if made else None),
                _number(made.size / 1e6 if made else None),
            ]
        )
    return table(headings, rows) if rows else ""


def failures(figures: Figures) -> str:
    """What did not work, with the reason."""
    failed = [one for one in figures.results.failures if one.model == figures.model]
    return "\n".join(f"* {one.engine}, {one.stage}: {one.reason}" for one in failed)


def heading(case: Case) -> str:
    """A case as a column."""
    if case.measure == "prefill":
        return f"prefill {case.size}"
    return f"decode at {case.size}" if case.batch == 1 else f"{case.batch} sequences at {case.size}"


def is_ours(engine: str) -> bool:
    """Whether an engine is vamc-py, with one of its settings."""
    return engine.startswith("vamc-py")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; its numbers stand at the right."""
    marks = ["---", *("---:" for _ in headings[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, marks, *rows))


def put_between_marks(text: str, tables: str, place: str) -> str:
    """``text`` with what stands between BEGIN and END replaced; UserError where ``place`` does not have them once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"{place}: needs the line {BEGIN} once, and after it {END} once")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.partition(END)[2]}"


def _title(figures: Figures, engine: str) -> str:
    return figures.results.engines[engine].title


def _shape(figures: Figures) -> str:
    shape = figures.shape
    return (
        f"{shape.layers} layers, hidden size {shape.hidden}, {shape.heads} heads of {shape.head_dim}, "
        f"{shape.kv_heads} for keys and values, FFN {shape.intermediate}, vocabulary {shape.vocabulary}; "
        f"{shape.weight_bytes / 1e6:.0f} MB of int8 weights are read in a step."
    )


def _limit(name: str, values: list[float]) -> str:
    title, unit = _LIMITS.get(name, (name, "Gop/s"))
    numbers = [statistics.median(values) / 1e9, min(values) / 1e9, max(values) / 1e9]
    median, least, greatest = (f"{number:.3g}" if number < 100 else f"{number:.0f}" for number in numbers)
    return f"{title} {median} {unit} ({least} to {greatest})"


def _speed(figures: Figures, engine: str, case: Case) -> str:
    rate = figures.rate(engine, case)
    if rate is None:
        return _MISSING
    in_bf16 = engine == _BF16 and case.measure == "prefill"
    shares = [figures.share(engine, case, peak) for peak in (_PEAKS if in_bf16 else _PEAKS[:1])]
    said = [f"{share:.0%}{text}" for share, text in zip(shares, ("", " of bf16's"), strict=False) if share is not None]
    return f"{_number(rate)} ({', '.join(said)})" if said else _number(rate)


def _median(values: dict[int, float]) -> float | None:
    return statistics.median(values.values()) if values else None


def _number(value: float | None, digits: int | None = None) -> str:
    """``digits`` after the point; by default one below 100, none above."""
    if value is None:
        return _MISSING
    return f"{value:.{(1 if value < 100 else 0) if digits is None else digits}f}"


def _times(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.2f}"


def _memory(held: tuple[float, float] | None) -> str:
    return _MISSING if held is None else f"{held[0] / 1e6:.0f} + {held[1] / 1e6:.0f}"
