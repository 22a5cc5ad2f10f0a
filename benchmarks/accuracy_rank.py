"""Which linear layers lose most with narrow activations, and which to keep wide: the results file and what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.accuracy_model import HEAD, KINDS, Floats, Site, WideRun, sites
from vamc_py.activation import Activation
from vamc_py.errors import UserError
from vamc_py.frontend.model_config import ModelConfig

By = Literal["site", "kind", "layer"]


@dataclass(frozen=True)
class Ranked:
    """What it costs that one target alone is narrow."""

    target: str
    patterns: tuple[str, ...]  # for frontend.quantize.wide
    share: float  # of a prefill's multiplications; none for lm_head, which runs for a prompt's last token alone
    kl: float  # mean divergence of the next token's distribution, nats
    nll: float  # change of the mean negative log-likelihood, nats
    error: float  # standard error of ``nll`` over the windows; 0 for one window


@dataclass(frozen=True)
class Settings:
    """What the lines of one results file have in common."""

    model: str
    activation: Activation
    by: By
    windows: int
    context: int


def targets(model: ModelConfig, by: By) -> dict[str, tuple[Site, ...]]:
    """The sites that are narrow at a time, by name."""
    found: dict[str, tuple[Site, ...]] = {}
    for site in sites(model):
        layer = HEAD if site.layer is None else f"layers.{site.layer}"
        name = {"site": str(site), "kind": site.kind, "layer": layer}[by]
        found[name] = (*found.get(name, ()), site)
    return found


def patterns(where: Sequence[Site], model: ModelConfig) -> tuple[str, ...]:
    """For ``frontend.quantize.wide``: names of these sites' weights and no others, ``*`` for a kind in all layers."""
    found = []
    for kind, names in KINDS.items():
        layers = [site.layer for site in where if site.kind == kind]
        if len(layers) == model.layers:
            found += [f"*.{name}" for name in names]
        else:
            found += [f"model.layers.{layer}.{name}" for layer in layers for name in names]
    return (*found, *(HEAD for site in where if site.kind == HEAD))


def measure(run: WideRun, settings: Settings, done: Collection[str] = ()) -> Iterator[Ranked]:
    """Measures each target that is not ``done``, the last layers first: they are the quickest."""
    everything = sum(site.products(run.module) for site in sites(run.model))
    for name, where in reversed(targets(run.model, settings.by).items()):
        if name in done:
            continue
        loss = run.loss(where, settings.activation)
        change, error = difference(loss.nll - run.nll)
        share = sum(site.products(run.module) for site in where) / everything
        yield Ranked(name, patterns(where, run.model), share, float(loss.kl.mean()), change, error)


def difference(changes: Floats) -> tuple[float, float]:
    """Mean of a change f64 [windows], and the mean's standard error (0 for one window)."""
    spread = float(changes.std(ddof=1)) if len(changes) > 1 else 0.0
    return float(changes.mean()), spread / math.sqrt(len(changes))


class Results:
    """A file of JSON lines: the settings, then a line for each target, written as soon as it is measured.

    A ranking can be interrupted and goes on where it stopped. UserError for a file with other settings or damage.
    """

    def __init__(self, path: Path, settings: Settings | None = None) -> None:
        self.path = path
        self.lines: list[Ranked] = []
        if path.exists() or settings is None:
            self.settings = self._read()
            if settings not in (None, self.settings):
                raise UserError(f"{path} was measured with other settings ({self.settings}); name another file")
        else:
            self.settings = settings
            self._write("x", asdict(settings))

    def add(self, line: Ranked) -> None:
        """Appends it to the file."""
        self.lines.append(line)
        self._write("a", asdict(line))

    def _write(self, mode: str, content: dict[str, Any]) -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(json.dumps(content) + "\n")
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error}); name another file") from error

    def _read(self) -> Settings:
        try:
            first, *rest = self.path.read_text(encoding="utf-8").splitlines()
            for text in rest:
                line = json.loads(text)
                self.lines.append(Ranked(**{**line, "patterns": tuple(line["patterns"])}))
            return Settings(**json.loads(first))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self.path} is no results file of a ranking ({error}); name another file") from error


def recommend(lines: Sequence[Ranked], most: float) -> list[Ranked]:
    """The targets to keep wide: the most divergence taken away for each multiplication, up to a share of ``most``."""
    chosen: list[Ranked] = []
    for line in sorted(lines, key=lambda line: line.kl / line.share if line.share else math.inf, reverse=True):
        if sum(one.share for one in chosen) + line.share <= most:
            chosen.append(line)
    return chosen
