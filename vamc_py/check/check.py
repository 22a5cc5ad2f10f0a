"""``vamc-py check``: the traced torch model against the module after each pass, on real weights of the first layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vamc_py.check.cut import CutModel, cut_model
from vamc_py.check.interpreter import Interpreter
from vamc_py.check.judge import Judge
from vamc_py.check.results import BUILD, CheckResult, Finding
from vamc_py.check.scenario import Row, Scenario, make_scenario, most_prompt, most_tokens
from vamc_py.check.stages import StageRun, StageRunner
from vamc_py.check.torch_reference import torch_logits
from vamc_py.check.values import Array
from vamc_py.compiler import check_model, context_of, open_model, target_of, with_calibration
from vamc_py.config import LoadedConfig, check_compilable, check_stored
from vamc_py.errors import ConfigError, UserError
from vamc_py.frontend.import_relax import import_traced
from vamc_py.passes.lower_reference import left_in_dialect
from vamc_py.passes.shard_tensors import ShardTensors
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.fault_finder import explain_build, explain_pass
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.resolve import resolve_pipeline
from vamc_py.pipeline.runner import PassRun, Planned, run_pass
from vamc_py.progress import stage, track

TOKENS = 40  # so that a step has more rows than the 24 up to which activations keep their 16 bits beside bf16

_Prepared = tuple[CutModel, Scenario, dict[Row, Array]]


@dataclass(frozen=True)
class Faulty:
    """A wrong pass, with what is needed to look closer."""

    run: PassRun
    before: StageRun
    runner: StageRunner
    finding: Finding


class Checker:
    """Checks the pipeline of a configuration.

    UserError for input that cannot be compiled, or more tokens than the configuration has room for. Without ``tokens``
    it is 40, or what there is room for. ``interpreter`` may be one that has run before, which has compiled much
    already.
    """

    def __init__(
        self, loaded: LoadedConfig, *, tokens: int | None = None, interpreter: Interpreter | None = None
    ) -> None:
        check_compilable(loaded)
        if loaded.config.frontend.type == "onnx":
            fault = (
                "check compares with the torch model, which an ONNX graph does not have; check the checkpoint it is of"
            )
            raise ConfigError([loaded.fault("frontend.type", fault)])
        self.config = loaded.config
        self.pipeline = _of_one_die(resolve_pipeline(loaded))
        self.target = target_of(loaded)
        prefill, context = loaded.config.prefill_length, loaded.config.context_length
        self.tokens = most_prompt(context, prefill, TOKENS) if tokens is None else tokens
        self._made: dict[int, _Prepared] = {}
        self._interpreter = interpreter or Interpreter(self.target.tvm_target())
        _check_room(make_scenario(2, self.tokens), prefill, context)
        with stage("checkpoint"):
            self.checkpoint, self.model = open_model(loaded.config)
            check_stored(loaded, self.checkpoint.quantized)
            check_model(loaded, self.model)
        self.context = context_of(loaded.config, self.target, self.checkpoint, self.model)
        self.checkpoint = with_calibration(loaded, self.checkpoint, self.model)

    def run(self, layers: int, result: CheckResult, *, build: bool = True) -> Faulty | None:
        """Checks the first ``layers`` layers, pass by pass up to the first wrong one; fills ``result`` on the way.

        ``build``: then also what TVM makes of the module.
        """
        cut, scenario, reference = self._prepared(layers)
        result.description = cut.description
        runner = StageRunner(cut.tensors.read, scenario, self.target, self._interpreter)
        judge = Judge(runner, reference, result, self.context)
        with stage("passes"):
            program = import_traced(cut.traced)
            if judge.imported(program):
                return None
            runs = run_each(program, cut.pipeline(self.pipeline), self.context)
            for run in track(runs, "passes", len(self.pipeline)):
                if judge.is_wrong(run):
                    assert result.finding is not None
                    return Faulty(run, judge.last, runner, result.finding)
                program = run.after
        if build and not left_in_dialect(program):
            with stage(BUILD):
                self._build(judge, program)
        return None

    def _build(self, judge: Judge, program: Program) -> None:
        try:
            judge.built(program)
        except Exception as error:
            explain_build(error, program, self.target)
            raise

    def _prepared(self, layers: int) -> _Prepared:
        """The model and what torch makes of it; kept for the next run of as many layers."""
        if layers not in self._made:
            with stage("trace"):
                cut = cut_model(self.config, self.checkpoint, self.model, layers)
            scenario = make_scenario(cut.model.vocab_size, self.tokens)
            with stage("torch"):
                self._made[layers] = cut, scenario, torch_logits(cut, scenario)
        return self._made[layers]


def _of_one_die(pipeline: tuple[Planned, ...]) -> tuple[Planned, ...]:
    """The passes before the first one that knows of dies: what comes behind it runs on all of them together."""
    names = [planned.one.name for planned in pipeline]
    return pipeline[: names.index(ShardTensors.name)] if ShardTensors.name in names else pipeline


def run_each(program: Program, pipeline: Sequence[Planned], context: Context) -> Iterator[PassRun]:
    """Runs the passes, each when it is asked for; the pipeline has been checked."""
    for index, planned in enumerate(pipeline, 1):
        try:
            run = run_pass(index, planned, program, context)
        except Exception as error:
            if not isinstance(error, UserError):
                explain_pass(error, index, planned, program, context)
            raise
        yield run
        program = run.after


def _check_room(scenario: Scenario, prefill: int, context: int) -> None:
    longest = max(len(sequence) for sequence in scenario.sequences)
    if longest > context or most_tokens(scenario.calls) > prefill:
        raise UserError(
            f"--tokens: sequences of {longest} tokens, {most_tokens(scenario.calls)} of them in a step, do not fit "
            f"into the configuration's context of {context} and prefill length of {prefill}; say fewer"
        )
