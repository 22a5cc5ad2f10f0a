"""The report of a dump and of an artifact that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import compile_checkpoint

from vamc_py.artifact.manifest import MODULE_FILE, Manifest
from vamc_py.artifact.verify import read_manifest
from vamc_py.errors import UserError
from vamc_py.inspect import measure
from vamc_py.inspect.dump import Dump, open_dump
from vamc_py.inspect.measure import TimedExecutor
from vamc_py.inspect.report import make_report
from vamc_py.inspect.report_model import MachineLimits, Report
from vamc_py.runtime import limits
from vamc_py.runtime.limits import decode_work, prefill_work

PREFILL, CONTEXT, START = 64, 128, 64


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_checkpoint(folder / "checkpoint", architecture="qwen3", layers=2)
    checkpoint = folder / "checkpoint"
    return compile_checkpoint(checkpoint, folder, ir=True, dtype="int8", prefill=PREFILL, context=CONTEXT).folder


@pytest.fixture(scope="module")
def manifest(artifact: Path) -> Manifest:
    return read_manifest(artifact)


@pytest.fixture(scope="module")
def report(artifact: Path, manifest: Manifest) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "_READ_BYTES", limits._SMALLEST_READ)
        return make_report(open_dump(artifact), manifest, artifact / MODULE_FILE)


def test_steps_are_the_passes(artifact: Path, report: Report) -> None:
    stages = open_dump(artifact).index.stages
    shown = {step.label: step for step in report.steps}
    assert [label for label in shown if label not in ("trace", "build", "weights")] == [one.label for one in stages]
    assert [shown[stage.label].changed for stage in stages] == [stage.changed for stage in stages]
    changes = {step.label: step.changes for step in report.steps}
    assert [change.name for change in changes["merge-linear"]] == ["step", "parameter plan"]
    assert {change.status for change in changes["select-kernels"]} == {"added", "changed"}
    assert not changes["import"]
    assert all(step.changed for step in report.steps if step.changes)


@pytest.fixture
def without_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are not looked at: they take most of a report's time."""
    monkeypatch.setattr("vamc_py.inspect.stages.diff_modules", lambda _before, _after: ())


@pytest.mark.usefixtures("without_differences")
def test_times_of_a_dump(dump_with_kernels: Dump) -> None:
    times = {**dump_with_kernels.times, "import": 1.0, "build": 2.0, "weights": 3.0}
    dump = Dump(dump_with_kernels.folder, dump_with_kernels.index, times)
    report = make_report(dump, None, None, measure=False)
    first, imported, *passes, build, weights = report.steps
    assert [(step.label, step.kind, step.seconds) for step in (first, imported, build, weights)] == [
        ("trace", "frontend", 0.5), ("import", "frontend", 1.0), ("build", "build", 2.0), ("weights", "weights", 3.0),
    ]  # fmt: skip
    assert all(step.seconds is not None and step.kind in ("raise", "rewrite", "lower") for step in passes)
    assert report.limits is None
    assert report.rooflines == ()


def test_the_work_is_what_bench_counts(manifest: Manifest, report: Report) -> None:
    counted = [node for node in report.nodes if node.kind in ("linear", "qkv_attention")]
    assert sum(node.prefill_operations for node in counted) == prefill_work(manifest, PREFILL).operations
    assert sum(node.decode_operations for node in counted) == decode_work(manifest, START, 1).operations


def test_bytes_of_a_decode_step_are_at_least_what_bench_counts(manifest: Manifest, report: Report) -> None:
    least = decode_work(manifest, START, 1).read
    assert least < sum(node.decode_bytes for node in report.nodes) < 2 * least


def test_every_kernel_was_timed(report: Report) -> None:
    assert report.limits is not None
    assert min(report.limits.bandwidth, report.limits.int8_peak, report.limits.float_peak) > 1e6
    assert [roofline.title for roofline in report.rooflines] == ["decode: 1 token after 64", "prefill: 64 tokens"]
    for roofline in report.rooflines:
        assert {point.kernel for point in roofline.points} == {node.kernel for node in report.nodes}
        assert sum(point.calls for point in roofline.points) == len(report.nodes)
        assert all(point.measured_seconds is not None and point.measured_seconds > 0 for point in roofline.points)


def test_memory_is_what_the_virtual_machine_allocates(artifact: Path, report: Report) -> None:
    sizes = []

    class Listening(TimedExecutor):
        def _hear(self, function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
            if before and name == "vm.builtin.alloc_storage":
                sizes.append(int(arguments[1][0]))
            return super()._hear(function, name, before, result, *arguments)

    everything = list(range(PREFILL))
    Listening.load(artifact).step(everything, everything, [0] * PREFILL, everything)
    assert sizes == [storage.bytes for storage in report.memory.storages]
    assert report.memory.parameters == sum(parameter.size for parameter in read_manifest(artifact).parameters)


def test_facts(artifact: Path, manifest: Manifest, report: Report) -> None:
    facts = {fact.name: fact.value for fact in report.facts}
    assert facts["Model"] == "qwen3, 2 layers, hidden size 64"
    assert facts["Target"] == f"llvm {manifest.target.mcpu}"
    assert facts["Step"] == "15 calls: 9 kernels, 0 of TVM's own loops"
    assert facts["apache-tvm"] == manifest.built_with["apache-tvm"]
    assert report.layers == 2
    assert report.config == open_dump(artifact).index.config
    assert report.notes == manifest.slow_operators


@pytest.mark.usefixtures("without_differences")
def test_limits_of_a_dump_alone(dump_with_loops: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_READ_BYTES", limits._SMALLEST_READ)
    report = make_report(dump_with_loops, None, None)
    assert isinstance(report.limits, MachineLimits)
    for roofline in report.rooflines:
        assert all(point.measured_seconds is None and point.least_seconds > 0 for point in roofline.points)
    assert len(report.notes) > 0
    assert report.notes == dump_with_loops.notes(dump_with_loops.find("last"))


def test_a_machine_that_cannot_run_it(dump_with_loops: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_dtype: str) -> Any:
        raise UserError("this CPU (old) lacks avx512vnni")

    monkeypatch.setattr("vamc_py.inspect.report.this_machine", refuse)
    with pytest.raises(UserError, match=r"lacks avx512vnni; --no-measure makes the report without running anything"):
        make_report(dump_with_loops, None, None)


def test_limits_are_the_best_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    samples: dict[str, list[float]] = {
        "read": [1.0, 5.0, 3.0], "int8": [7.0, 4.0], "fp32": [2.0, 9.0], "bf16": [8.0, 6.0],
    }  # fmt: skip

    def measured(name: str) -> Callable[..., Any]:
        def loop(_caller: Any, kind: str = "read") -> Any:
            return type("Loop", (), {"measure": lambda _self: samples[kind].pop(0)})()

        return loop

    for name in ("ReadLimit", "MatrixLimit"):
        monkeypatch.setattr(measure, name, measured(name))
    made = measure.Limits(None, 2, ("int8", "fp32", "bf16"))  # type: ignore[arg-type]
    made.sample()
    made.sample()
    best = made.best()
    # The first read only maps pages.
    assert (best.bandwidth, best.int8_peak, best.float_peak, best.bf16_peak) == (5.0, 7.0, 9.0, 8.0)
    assert best.machine.endswith(", 2 threads")
