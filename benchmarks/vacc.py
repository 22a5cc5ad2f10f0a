"""What the device model says of real shapes: a table of estimates for vacc, from checkpoints that have no weights.

Nothing is measured but how long writing and timing the programs takes here; all figures of the device are vamc-py's own
model's (docs/vacc.md).

Example: python -m benchmarks.vacc --case qwen3-8b-int8-tp4 --trace build/layer.json --layer 1
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.headers import write_headers
from benchmarks.vacc_models import MODELS
from benchmarks.vacc_timeline import draw
from vamc_py.compiler import write_programs
from vamc_py.config import LoadedConfig
from vamc_py.config.load import load_text
from vamc_py.errors import UserError
from vamc_py.leaving import faults_end
from vamc_py.progress import say
from vamc_py.runstream.summary import device_summary, stage_summary
from vamc_py.runstream.timing import Timeline, simulate
from vamc_py.runstream.trace import write_trace
from vamc_py.target.vacc.device import STATEMENT

if TYPE_CHECKING:
    from vamc_py.runstream.program import Stage

_YAML = """\
name: {name}
frontend:
  checkpoint: {checkpoint}
  type: huggingface
  shape: {{input_ids: [[{prefill}], [{context}]]}}
  model_kwargs: {{tp: {tp}, model_arch: vacc}}
  quantize: {quantize}
backend: {{type: tvm_vacc, dtype: {dtype}, target: {card}}}
"""
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__)
_STAGES: tuple[Stage, ...] = ("prefill", "decode")


@dataclass(frozen=True)
class Case:
    """A model's shape, its numbers, and how many dies share it."""

    model: str
    dtype: str
    tp: int
    activation: str | None = None
    prefill: int = 1024
    context: int = 2048
    card: str = "VA16"

    @property
    def name(self) -> str:
        """Such as qwen3-8b-int8-tp4; with what the activations are where the case says it."""
        return "-".join(filter(None, (self.model, self.dtype, self.activation, f"tp{self.tp}")))

    def config(self, folder: Path) -> LoadedConfig:
        """Its configuration; the headers of its checkpoint are written to `folder`."""
        checkpoint = folder / self.model
        if not checkpoint.exists():
            write_headers(checkpoint, MODELS[self.model])
        quantize = "null" if self.activation is None else f"{{activation: {self.activation}}}"
        text = _YAML.format(**vars(self), name=self.name, checkpoint=checkpoint, quantize=quantize)
        return load_text(text, Path(f"{self.name}.yaml"))


CASES = (
    Case("qwen3-8b", "int8", 4),
    Case("qwen3-8b", "int8", 4, "int8_g128"),
    Case("qwen3-8b", "fp16", 4),
    Case("qwen3-8b", "int8", 1),
    Case("skywork-or1-7b", "int8", 4),
    Case("skywork-or1-7b", "fp16", 4),
    Case("qwq-32b", "int8", 8),
    Case("qwq-32b", "fp16", 8),
    Case("skywork-or1-32b", "int8", 8),
)
_SPEED_UPS = (("qwen3-8b-int8-tp4", "qwen3-8b-int8-tp1"),)


def estimate(case: Case, folder: Path) -> tuple[dict[str, Any], list[Timeline]]:
    """The figures of both stages, and the seconds that it took to have them; UserError where the model does not fit."""
    start = time.monotonic()
    runs = write_programs(case.config(folder))
    written = time.monotonic()
    timelines = [simulate(runs.programs(stage), runs.device) for stage in _STAGES]
    record = {
        "case": vars(case),
        "seconds_to_write": written - start,
        "seconds_to_time": time.monotonic() - written,
        "device": device_summary(runs.device),
        "stages": {stage: stage_summary(one) for stage, one in zip(_STAGES, timelines, strict=True)},
    }
    return record, timelines


def table(records: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Markdown: a line for each case and stage, then what more dies bring."""
    yield (
        "| case | stage | tokens/s | matrix peak in linear layers | while they run | DDR | communication | alone "
        "| SSRAM | commands |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, record in records.items():
        for stage, found in record["stages"].items():
            yield f"| {name} | {stage} | {' | '.join(_cells(found))} |"
    for many, one in _SPEED_UPS:
        if many in records and one in records:
            stages = (
                f"{stage} {_rate(records[many], stage) / _rate(records[one], stage):.2f} times" for stage in _STAGES
            )
            yield f"\n{many} beside {one}: {', '.join(stages)} as fast."


def _cells(found: dict[str, Any]) -> Iterator[str]:
    """Of a stage; of its dies, the one whose matrix units are used least."""
    die = min(found["dies"], key=lambda one: float(one["linear"]["share_of_peak"]))
    yield f"{found['tokens_per_s']:,.1f}"
    yield f"{die['linear']['share_of_peak']:.1%}"
    yield f"{die['linear']['share_of_peak_while_active']:.1%}"
    yield f"{die['ddr']['share_of_peak']:.1%}"
    yield f"{die['communication']['share']:.1%}"
    yield f"{die['communication']['exposed_share']:.1%}"
    yield f"{found['memory']['ssram']['bytes'] / 1e6:.1f} MB"
    yield f"{max(found['commands']):,}"


def _rate(record: dict[str, Any], stage: str) -> float:
    return float(record["stages"][stage]["tokens_per_s"])


@app.command()
def command(
    case: Annotated[
        list[str] | None, typer.Option(help="A case; may be given again. Default: all of --list.", metavar="NAME")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Print the names of all cases, and end.")] = False,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all figures there.", metavar="FILE")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Of one case: write its trace for Perfetto there.", metavar="FILE")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Of one case: draw what the engines do in a layer there.", metavar="FILE")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Of the trace: this layer alone, on the first die. Of the picture: 1.")
    ] = None,
    card: Annotated[str, typer.Option(help="The card.")] = "VA16",
) -> None:
    """Print a table of estimates."""
    if show:
        for one in CASES:
            print(one.name)
        return
    chosen = _chosen(case)
    if (trace is not None or plot is not None) and len(chosen) != 1:
        raise UserError("--trace is of one case, and --plot; name it by --case")
    if layer is not None and trace is None and plot is None:
        raise UserError("--layer goes with --trace or --plot")
    records: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for one in chosen:
            say(f"== {one.name}")
            records[one.name], timelines = estimate(replace(one, card=card), Path(folder))
            if as_json is not None:  # as far as it is known: all cases take a while
                text = json.dumps({"statement": STATEMENT, "cases": records}, indent=1)
                as_json.write_text(text + "\n", encoding="utf-8")
    if trace is not None:
        write_trace(trace, timelines, layer)
    if plot is not None:
        draw(list(zip(_STAGES, timelines, strict=True)), 1 if layer is None else layer, plot)
    for line in table(records):
        print(line)
    print(f"\n{STATEMENT}")


def _chosen(names: list[str] | None) -> list[Case]:
    known = {case.name: case for case in CASES}
    for name in names or ():
        if name not in known:
            raise UserError(f"--case {name}: there is {', '.join(known)}")
    return [case for name, case in known.items() if not names or name in names]


if __name__ == "__main__":
    with faults_end("benchmarks.vacc"):
        app()
