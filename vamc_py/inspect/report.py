"""Everything that the HTML report shows, gathered from a dump, a manifest and, where there is one, the module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from vamc_py.artifact.manifest import Manifest
from vamc_py.errors import UserError
from vamc_py.inspect.costs import StepSize
from vamc_py.inspect.dump import Dump
from vamc_py.inspect.final_graph import FinalGraph, final_graph, nodes
from vamc_py.inspect.measure import KernelTimes, limits_alone, measure_artifact
from vamc_py.inspect.memory_plan import memory_plan
from vamc_py.inspect.report_model import Fact, MachineLimits, MemoryPlan, Report, Roofline, Step
from vamc_py.inspect.roofline import decode_size, prefill_size, roofline
from vamc_py.inspect.stages import changes_of_record
from vamc_py.progress import stage, track
from vamc_py.target.description import this_machine

StepKind = Literal["frontend", "raise", "rewrite", "lower", "build", "weights"]
_TRACE, _BUILD, _WEIGHTS = "trace", "build", "weights"
_SUMMARIES = {
    _TRACE: "The model is run through torch.export without its weights.",
    _BUILD: "TVM compiles the module, and a linker makes the library of it.",
    _WEIGHTS: "The parameter plan runs over the checkpoint and writes the parameters.",
}


def make_report(dump: Dump, manifest: Manifest | None, module: Path | None, *, measure: bool = True) -> Report:
    """The report on a dump.

    ``manifest`` and ``module`` (mod.so in its artifact's folder) are an artifact's; without them the limits are
    measured by loops built for the purpose, and no kernel is run. Without ``measure`` nothing is run at all, and the
    report has no rooflines. UserError for a dump that ends before the module is complete, or that is damaged; for one
    that this machine cannot run, ArtifactError or UserError.
    """
    index = dump.index
    with stage("graph"):
        graph = final_graph(dump)
        decode, prefill = decode_size(index.context), prefill_size(index.prefill, index.context)
        largest = StepSize(tokens=index.prefill, rows=index.prefill, start=0, context=index.context)
        memory = memory_plan(graph, largest)
        shown = nodes(graph, decode, prefill)
    limits, rooflines = _measured(dump, graph, module, (decode, prefill)) if measure else (None, ())
    with stage("differences"):
        steps = tuple(_steps(dump))
    layers = 1 + max((node.layer for node in shown if node.layer is not None), default=-1)
    return Report(
        title=index.name,
        facts=tuple(_facts(dump, manifest, graph, memory)),
        steps=steps,
        nodes=shown,
        layers=layers,
        memory=memory,
        limits=limits,
        rooflines=rooflines,
        config=index.config,
        notes=dump.notes(dump.find("last")),
    )


def _steps(dump: Dump) -> Iterator[Step]:
    """What was done, in order; the trace, the build and the weights where their times are known."""
    if _TRACE in dump.times:
        yield _untold(_TRACE, "frontend", dump)
    for record in track(dump.index.stages, "passes"):
        yield Step(
            label=record.label,
            kind="frontend" if record.stage == "import" else record.stage,
            seconds=dump.times.get(record.label),
            summary=record.summary,
            origin=record.origin,
            place=record.place or "",
            options=record.options,
            changed=record.changed,
            operators=record.operators,
            notes=record.notes,
            changes=changes_of_record(dump, record) if record.index else (),
        )
    if _BUILD in dump.times:
        yield _untold(_BUILD, "build", dump)
    if _WEIGHTS in dump.times:
        yield _untold(_WEIGHTS, "weights", dump)


def _untold(label: str, kind: StepKind, dump: Dump) -> Step:
    """A step that is no pass, of which the dump has the time alone."""
    return Step(
        label=label,
        kind=kind,
        seconds=dump.times[label],
        summary=_SUMMARIES[label],
        origin="",
        place="",
        options={},
        changed=False,
        operators={},
        notes=(),
        changes=(),
    )


def _measured(
    dump: Dump, graph: FinalGraph, module: Path | None, sizes: tuple[StepSize, StepSize]
) -> tuple[MachineLimits, tuple[Roofline, ...]]:
    """The limits of this machine, and both steps against them; UserError where this machine cannot run the code."""
    times: Sequence[KernelTimes] = ({}, {})
    try:
        with stage("measure"):
            if module is None:
                limits = limits_alone(this_machine(dump.context().target.dtype))
            else:
                limits, *times = measure_artifact(module.parent, *sizes)
    except UserError as error:
        raise UserError(f"{error}; --no-measure makes the report without running anything") from None
    rooflines = (roofline(graph.calls, size, limits, found) for size, found in zip(sizes, times, strict=True))
    return limits, tuple(rooflines)


def _facts(dump: Dump, manifest: Manifest | None, graph: FinalGraph, memory: MemoryPlan) -> Iterator[Fact]:
    index, target, passes = dump.index, dump.context().target, dump.index.stages[1:]
    yield Fact(name="Name", value=index.name)
    if manifest is not None:
        model, files = manifest.model, manifest.files.values()
        yield Fact(name="Model", value=f"{model.architecture}, {model.layers} layers, hidden size {model.hidden_size}")
        yield Fact(name="Artifact", value=f"{_mebibytes(sum(file.size for file in files))} in {len(files)} files")
    weights = f"{_mebibytes(memory.parameters)} in {len(graph.parameters)} parameters"
    kernels, loops = (len({call.symbol for call in graph.calls if call.ours == ours}) for ours in (True, False))
    yield Fact(name="Target", value=f"{target.kind} {target.mcpu}")
    yield Fact(name="Weights", value=f"{target.dtype}, {weights}")
    yield Fact(name="Most tokens in one step", value=f"{index.prefill:,}")
    yield Fact(name="Context", value=f"{index.context:,} positions, {_mebibytes(memory.caches)} of caches a sequence")
    yield Fact(name="Step", value=f"{len(graph.calls)} calls: {kernels} kernels, {loops} of TVM's own loops")
    yield Fact(name="Passes", value=f"{len(passes)}, of which {sum(one.changed for one in passes)} changed the program")
    yield Fact(name="Notes", value=str(len(dump.notes(index.stages[-1]))))
    for package, version in index.built_with.items():
        yield Fact(name=package, value=version)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
