"""``frontend.quantize.accept``: a compile that measures what it made, and repairs it, before it puts it in place."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from vamc_py.artifact.manifest import TOKENIZER_DIR, Accepted, Widened
from vamc_py.artifact.write import ArtifactWriter
from vamc_py.config import LoadedConfig
from vamc_py.config.accept import Accept
from vamc_py.errors import ConfigError, UserError
from vamc_py.evaluation.compare import compare
from vamc_py.evaluation.gate import Attempt, Gate, NotAcceptedError, Rule, Widening, figures, sentences
from vamc_py.evaluation.rank import quantized_weights, rank
from vamc_py.evaluation.reference import derived, float_model, kept_in
from vamc_py.progress import stage, track
from vamc_py.runtime.executor import Executor
from vamc_py.runtime.perplexity import Tokens, tokenize, windows
from vamc_py.weights.source import PlanSource

if TYPE_CHECKING:
    from vamc_py.checkpoint import Checkpoint
    from vamc_py.compiler import Built
    from vamc_py.inspect.watch import Inspection

_KEY = "frontend.quantize.accept"


def compile_accepted(loaded: LoadedConfig, accept: Accept, inspection: Inspection) -> tuple[str, ...]:
    """Compiles ``<workspace.path>/<name>`` with the gate; what a reader should know of it, a sentence each.

    ConfigError where the text does not do, or the limit does not hold whatever is widened: no artifact is there then
    that was not there before. The float model stays in the cache of ``vamc-py eval``.
    """
    from vamc_py.compiler import open_model

    checkpoint, _ = open_model(loaded.config)
    parts = _windows(loaded, accept, checkpoint)
    with ExitStack() as stack:
        attempts = _Attempts(loaded, inspection, stack)
        first = attempts.compile_with(())  # before the float model: what is wrong with the configuration shows here
        with stage("float model"):
            _, floating = float_model(loaded, kept_in(loaded.config.workspace.path))
            reference = _perplexity(floating, parts)
        gate = Gate(
            compile_with=lambda rules: attempts.compile_with(rules) if rules else first,
            measure=lambda folder: _perplexity(folder, parts),
            reference=reference,
            ranked=lambda: _ranked(attempts.built_in(first), checkpoint),
            increase=accept.ppl_increase,
            discard=attempts.discard,
            say=_say,
        )
        try:
            found = gate.search()
        except NotAcceptedError as error:
            raise ConfigError([loaded.fault(f"{_KEY}.ppl_increase", str(error))]) from None
        record = _record(found, reference, accept)
        notes = attempts.finish(found.folder, record)
    verdict = f"accepted: {figures(found.ppl, reference, accept.ppl_increase)}"
    return (*notes, verdict, *(f"widened {sentence}" for sentence in sentences(found.widened)))


def with_rules(loaded: LoadedConfig, rules: Sequence[Rule]) -> LoadedConfig:
    """The configuration with more ``frontend.quantize.rules``, before its own: the first that fits counts."""
    if not rules:
        return loaded
    own = loaded.config.frontend.model_dump(mode="json", include={"quantize": {"rules"}})["quantize"].get("rules", [])
    entries = [*({"match": rule.match, "type": rule.type} for rule in rules), *own]
    return derived(loaded, [f"frontend.quantize.rules={json.dumps(entries)}"])


class _Attempts:
    """Artifacts of one name that are whole, but still hidden. When the stack ends, those that were not finished go."""

    def __init__(self, loaded: LoadedConfig, inspection: Inspection, stack: ExitStack) -> None:
        self._loaded = loaded
        self._inspection = inspection
        self._stack = stack
        self._made: dict[Path, tuple[ArtifactWriter, Built, ExitStack]] = {}

    def compile_with(self, rules: Sequence[Rule]) -> Path:
        """The hidden folder of the configuration compiled with these rules."""
        from vamc_py.compiler import build

        own = self._stack.enter_context(ExitStack())
        writer = own.enter_context(ArtifactWriter(self._loaded.config.artifact_dir))
        made = build(with_rules(self._loaded, rules), self._inspection, writer)
        folder = writer.complete(made.manifest)
        self._made[folder] = writer, made, own
        return folder

    def built_in(self, folder: Path) -> Built:
        """What was built there, also where the folder is gone."""
        return self._made[folder][1]

    def discard(self, folder: Path) -> None:
        """Removes the folder."""
        self._made[folder][2].close()

    def finish(self, folder: Path, accepted: Accepted) -> tuple[str, ...]:
        """Puts the folder in its place with what was measured; the compile's notes."""
        writer, made, _ = self._made[folder]
        writer.finish(made.manifest.model_copy(update={"accepted": accepted}))
        return made.manifest.slow_operators


def _windows(loaded: LoadedConfig, accept: Accept, checkpoint: Checkpoint) -> list[Tokens]:
    """The windows of the text. ConfigError where it cannot be read or is too short, or they are too long."""
    limit = loaded.config.context_length
    if accept.context > limit:
        message = f"windows of {accept.context} tokens do not fit in the context of {limit}; shorten them"
        raise ConfigError([loaded.fault(f"{_KEY}.context", message)])
    with TemporaryDirectory() as folder:
        tokenizer = Path(folder, TOKENIZER_DIR)
        tokenizer.mkdir()
        checkpoint.save_tokenizer(tokenizer)
        try:
            return windows(tokenize(Path(folder), Path(accept.text)), accept.context, accept.chunks)
        except UserError as error:
            raise ConfigError([loaded.fault(f"{_KEY}.text", str(error))]) from None


def _perplexity(folder: Path, parts: Sequence[Tokens]) -> float:
    executor = Executor.load(folder, context=len(parts[0]), verify=False)
    return compare([executor], parts, reference=False)[0].ppl


def _ranked(made: Built, original: Checkpoint) -> list[Widening]:
    source = PlanSource(made.checkpoint)
    with stage("rank"):
        return rank(
            quantized_weights(made.unpacked),
            *(source, source.shapes, PlanSource(original)),
            kept=original.quantized.keys(),
            progress=lambda weights: track(weights, "weights compared"),
        )


def _record(found: Attempt, reference: float, accept: Accept) -> Accepted:
    """For the manifest; rounded, so that the last digits of a sum make no other artifact."""
    last = {one.tensors: one.wider for one in found.widened}
    first: dict[tuple[str, ...], Widening] = {}
    for one in found.widened:
        first.setdefault(one.tensors, one)
    return Accepted(
        ppl=round(found.ppl, 4),
        reference_ppl=round(reference, 4),
        increase=round(found.ppl / reference - 1, 6),
        allowed=accept.ppl_increase,
        text=hashlib.sha256(Path(accept.text).read_bytes()).hexdigest(),
        chunks=accept.chunks,
        context=accept.context,
        widened=tuple(
            Widened(tensors=tensors, type=last[tensors], before=one.type, error=round(one.damage**0.5, 6))
            for tensors, one in first.items()
        ),
    )


def _say(sentence: str) -> None:
    print(f"gate: {sentence}", file=sys.stderr, flush=True)
