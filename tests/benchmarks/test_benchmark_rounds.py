"""The benchmark's stages with made-up engines: turns, what is kept, what fails, what goes on later."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.benchmark_results import SHAPE, sample_results

from benchmarks import checkpoints, stages
from benchmarks.checkpoints import ModelChoice
from benchmarks.engine import Command, Engine, EngineError, Job
from benchmarks.processes import Finished, Memory
from benchmarks.results import Results
from benchmarks.stages import Benchmark, Plan
from vamc_py.errors import UserError

NAMES = ("vamc-py:int16", "openvino", "llama.cpp")


class MadeUp(Engine):
    """Its commands are words that the replaced ``watch`` understands."""

    title, settings = "made up", "none"

    def __init__(self, name: str) -> None:
        super().__init__(Path(name))
        self.name = name

    def set_up(self) -> None:
        if self.name == "openvino" and World.openvino_is_broken:
            raise EngineError("pip failed: no network")

    def versions(self) -> dict[str, str]:
        return {"it": "1"}

    def conversion(self, checkpoint: Path, converted: Path) -> Command:
        converted.mkdir(parents=True)
        (converted / "weights").write_bytes(bytes(1000))
        return Command(("convert", self.name))

    def command(self, job: Job) -> Command:
        return Command((job.measure, self.name, str(job.seed)))


class World:
    """What ran, and what shall fail."""

    ran: list[tuple[str, ...]]
    openvino_is_broken: bool
    failing: set[tuple[str, str]]

    @staticmethod
    def watch(command: Command, *, limit: float, log: Path | None = None) -> Finished:
        if command.arguments[0] == sys.executable:
            World.ran.append(("limits",))
            return Finished(json.dumps({"read": [1e9], "int8": [1e9]}), 1.0, None, Memory())
        what = command.arguments[:2]
        World.ran.append(what)
        if what in World.failing:
            raise EngineError("ended with -9: killed")
        sample = {"measure": what[0], "size": 16, "batch": 1, "tokens": 16, "seconds": 0.5}
        return Finished(json.dumps({"samples": [sample]}), 1.0, 0.5, Memory(3, 2, 4))


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    World.ran, World.openvino_is_broken, World.failing = [], False, set()
    monkeypatch.setattr(stages, "make_engine", lambda name, _environments: MadeUp(name))
    monkeypatch.setattr(stages, "watch", World.watch)
    (tmp_path / "checkpoint").mkdir()
    checkpoints.write_random(tmp_path / "checkpoint", SHAPE, None)
    return Plan(
        folder=tmp_path / "work",
        results=tmp_path / "results.json",
        models=(ModelChoice("tiny", tmp_path / "checkpoint"),),
        engines=NAMES,
        measures=("prefill", "decode"),
        rounds=2,
        threads=2,
    )


def run(plan: Plan, seconds: float | None = None) -> tuple[Results, bool]:
    benchmark = Benchmark(plan)
    benchmark.prepare()
    benchmark.convert()
    whole = benchmark.measure(seconds)
    return benchmark.results, whole


def test_engines_alternate_and_take_turns_at_being_first(plan: Plan) -> None:
    results, whole = run(plan)
    assert whole
    first, second = NAMES, (*NAMES[1:], NAMES[0])
    expected: list[tuple[str, ...]] = [("convert", name) for name in NAMES]
    for names in (first, second):
        for measure in plan.measures:
            expected += [("limits",), *((measure, name) for name in names)]
    assert World.ran == expected
    assert len(results.processes) == 12
    assert len({one.seed for one in results.processes}) == 12
    assert results.machine["threads"] == 2


def test_everything_is_kept(plan: Plan) -> None:
    results, _ = run(plan)
    assert Results.read(plan.results) == results
    [conversion] = [one for one in results.conversions if one.engine == "openvino"]
    assert (conversion.anonymous, conversion.file, conversion.resident, conversion.size) == (3, 2, 4, 1000)


def test_a_second_call_does_nothing_again(plan: Plan) -> None:
    run(plan)
    World.ran.clear()
    results, whole = run(plan)
    assert whole
    assert World.ran == []
    assert len(results.processes) == 12


def test_it_stops_when_the_time_is_over_and_goes_on(plan: Plan) -> None:
    results, whole = run(plan, seconds=-1)
    assert not whole
    assert results.processes == []
    results, whole = run(plan)
    assert whole
    assert len(results.processes) == 12


def test_a_peer_that_cannot_be_set_up_is_kept_with_its_reason(plan: Plan) -> None:
    World.openvino_is_broken = True
    results, whole = run(plan)
    assert whole
    [failure] = results.failures
    assert (failure.engine, failure.stage, failure.reason) == ("openvino", "set-up", "pip failed: no network")
    assert {one.engine for one in results.processes} == {"vamc-py:int16", "llama.cpp"}
    assert results.engines["openvino"].versions == {}
    World.openvino_is_broken = False
    results, _ = run(plan)
    assert results.failures == []


def test_a_failing_conversion_leaves_nothing_behind(plan: Plan) -> None:
    World.failing = {("convert", "llama.cpp")}
    results, _ = run(plan)
    [failure] = results.failures
    assert (failure.engine, failure.model, failure.stage) == ("llama.cpp", "tiny", "conversion")
    assert not (plan.folder / "converted" / "llama.cpp" / "tiny").exists()
    assert {one.engine for one in results.processes} == {"vamc-py:int16", "openvino"}


def test_an_interrupted_conversion_leaves_nothing_behind(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_options: object) -> Finished:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "watch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(plan)
    assert not (plan.folder / "converted" / "vamc-py-int16" / "tiny").exists()


def test_a_failing_measure_is_kept_and_tried_again(plan: Plan) -> None:
    World.failing = {("decode", "openvino")}
    results, whole = run(plan)
    assert whole
    assert [(one.engine, one.stage) for one in results.failures] == [("openvino", "decode")]
    World.failing = set()
    results, _ = run(plan)
    assert results.failures == []
    assert len(results.processes) == 12


def test_jobs_have_what_their_measure_needs(plan: Plan) -> None:
    jobs = {measure: plan.job(measure, Path("model"), 288) for measure in ("prefill", "decode", "batch", "start")}
    assert jobs["prefill"].lengths == plan.lengths
    assert jobs["decode"].cases == tuple((context, 1) for context in plan.contexts)
    assert jobs["batch"].cases == ((128, 4), (128, 16))
    assert jobs["start"].cases == ()
    assert jobs["start"].prompt


def test_results_survive_the_file(tmp_path: Path) -> None:
    results = sample_results()
    results.save(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "machine": {}, "models": {"a": 1}}'])
def test_other_files_are_no_results(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"results\.json: no results of this benchmark"):
        Results.read(path)


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"format": 99}')
    with pytest.raises(UserError, match="another version"):
        Results.read(path)
