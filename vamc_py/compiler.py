"""``vamc-py compile``: a configuration and its checkpoint become an artifact folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vamc_py.activation import Activation
from vamc_py.artifact.manifest import (
    CONFIG_FILE,
    IR_DIR,
    MODULE_FILE,
    PARAMETERS_FILE,
    TOKENIZER_DIR,
    Function,
    Limits,
    Manifest,
    Parameter,
    Target,
    TensorSpec,
    VaccManifest,
)
from vamc_py.artifact.write import ArtifactWriter, built_with
from vamc_py.checkpoint import AdaptedCheckpoint, Checkpoint, check_tensors, open_checkpoint
from vamc_py.config import Config, LoadedConfig, check_activation, check_compilable, check_stored, check_wide
from vamc_py.errors import ConfigError
from vamc_py.frontend.model_config import ModelConfig, expected_matrices, expected_tensors, model_facts
from vamc_py.inspect.dump_writer import DumpWriter
from vamc_py.inspect.watch import Inspection
from vamc_py.needs import check_room
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.fault_finder import FaultKeeper
from vamc_py.pipeline.program import (
    ACTIVATION_ATTRIBUTE,
    ONE_SLOT_ATTRIBUTE,
    WIDE_ROWS_ATTRIBUTE,
    Program,
    attribute,
    layout,
)
from vamc_py.pipeline.resolve import resolve_pipeline
from vamc_py.pipeline.runner import Observer, Planned, run_passes
from vamc_py.progress import stage, stage_times, track
from vamc_py.target.description import TargetDescription, device_host, target_for
from vamc_py.target.used_features import used_features
from vamc_py.weights.calibration_plan import calibration_method, calibration_plan
from vamc_py.weights.execute import Expected, write_parameters
from vamc_py.weights.source import PlanSource

if TYPE_CHECKING:
    from vamc_py.frontend.trace import Traced
    from vamc_py.vacc.compile import Runs


@dataclass(frozen=True)
class Compiled:
    """What a compile made."""

    folder: Path
    notes: tuple[str, ...]  # what did not fire and what stayed slow, one sentence each


def compile_config(loaded: LoadedConfig, inspection: Inspection | None = None) -> Compiled:
    """Compiles and writes ``<workspace.path>/<name>``.

    UserError for bad input. Whatever ends it early, no artifact is there then that was not there before. A fault of a
    pass or of the build keeps the IR that came before it in ``<name>.fault``; its exception says so in its notes.
    """
    inspection = inspection or Inspection()
    ready = _prepare(loaded, inspection)
    quantize = loaded.config.frontend.quantize
    if quantize is not None and quantize.accept is not None:
        from vamc_py.evaluation.accept import compile_accepted

        return Compiled(loaded.config.artifact_dir, compile_accepted(loaded, quantize.accept, inspection))
    with ArtifactWriter(loaded.config.artifact_dir) as writer:
        built = _build(loaded, inspection, writer, *ready)
        writer.finish(built.manifest)
    return Compiled(loaded.config.artifact_dir, built.manifest.slow_operators)


@dataclass(frozen=True)
class Built:
    """What a build left in the writer's folder."""

    manifest: Manifest | VaccManifest
    checkpoint: Checkpoint  # whose weights were written
    unpacked: Program  # before its weights were packed for kernels


def build(loaded: LoadedConfig, inspection: Inspection, writer: ArtifactWriter) -> Built:
    """All of a compile but the manifest and the folder's place, both of which are the caller's."""
    return _build(loaded, inspection, writer, *_prepare(loaded, inspection))


def _build(
    loaded: LoadedConfig,
    inspection: Inspection,
    writer: ArtifactWriter,
    pipeline: tuple[Planned, ...],
    target: TargetDescription,
) -> Built:
    from vamc_py._link import link_options

    config = loaded.config
    link = link_options()
    with stage_times() as times:
        checkpoint, model = _open(loaded)
        check_room(loaded, checkpoint, model)
        # First what is quick and may be at fault: nobody should wait for the build to hear of it.
        checkpoint.save_tokenizer(writer.directory(TOKENIZER_DIR))
        writer.write_json(f"{TOKENIZER_DIR}/generation_config.json", checkpoint.generation_config)
        writer.path(CONFIG_FILE).write_text(loaded.text, encoding="utf-8")
        dumps = inspection.dumps(loaded)
        if config.workspace.enable_ir is not False:
            dumps.append(DumpWriter(writer.directory(IR_DIR), loaded, text=False))
        program = trace_model(config, checkpoint, model)
        context = context_of(config, target, checkpoint, model)
        observers = (*dumps, *inspection.printers(pipeline))
        if target.kind == "vacc":
            runs = _build_runstreams(loaded, writer, program, pipeline, context, checkpoint, model, observers)
            return Built(runs, checkpoint, program)
        with FaultKeeper(context, writer.path(IR_DIR), config.artifact_dir.with_name(f"{config.name}.fault")) as keeper:
            with stage("passes"):
                lowered = lower(program, pipeline, context, (*observers, keeper))
            with stage("build"):
                # LLVM works through a large module of the compiler here; nothing of the checkpoint is in memory yet.
                from vamc_py.pipeline.build import build_module, export_module

                target = target.using(used_features(lowered.program.module, target))
                export_module(build_module(lowered.program, target), writer.path(MODULE_FILE), link)
        checkpoint = with_calibration(loaded, checkpoint, model)
        with stage("weights"):
            parameters, digest = _write_weights(lowered, checkpoint, writer.path(PARAMETERS_FILE))
        writer.know_digest(PARAMETERS_FILE, digest)
        for dump in dumps:
            dump.write_times(times)
    manifest = _manifest(loaded, checkpoint, model, target, lowered, parameters)
    return Built(manifest, checkpoint, lowered.unpacked)


def _build_runstreams(
    loaded: LoadedConfig,
    writer: ArtifactWriter,
    program: Program,
    pipeline: tuple[Planned, ...],
    context: Context,
    checkpoint: Checkpoint,
    model: ModelConfig,
    observers: Sequence[Observer],
) -> VaccManifest:
    """The artifact of the vacc target, all but its folder's place."""
    from vamc_py._link import link_options
    from vamc_py.vacc.compile import manifest_of, write_files, write_weights

    config = loaded.config
    link = link_options()
    with FaultKeeper(context, writer.path(IR_DIR), config.artifact_dir.with_name(f"{config.name}.fault")) as keeper:
        runs, notes = _runstreams(loaded, program, pipeline, context, model, (*observers, keeper))
        with stage("build"):
            write_files(runs, writer, link)
    checkpoint = with_calibration(loaded, checkpoint, model)
    with stage("weights"):
        write_weights(runs, checkpoint, writer, config.context_length)
    return manifest_of(loaded, checkpoint, model, context.target, runs, notes)


def _runstreams(
    loaded: LoadedConfig,
    program: Program,
    pipeline: tuple[Planned, ...],
    context: Context,
    model: ModelConfig,
    observers: Sequence[Observer],
) -> tuple[Runs, tuple[str, ...]]:
    """The programs of all dies, and what the passes noted. The pass that knows a rank runs once for each die."""
    from vamc_py.vacc.compile import write_runstreams
    from vamc_py.vacc.dies import shared

    with stage("passes"):
        common = _Before(shared(pipeline) + 1)
        first = run_passes(program, pipeline, context, (*observers, common))
    with stage("runstreams"):
        own = pipeline[shared(pipeline) :]
        return write_runstreams(loaded, common.program or first, own, context, model.vocab_size), first.notes


def write_programs(loaded: LoadedConfig) -> Runs:
    """The programs of all dies in memory, as a compile for vacc writes them.

    Of the checkpoint only the headers are read: no weight, no calibration. No kernel is compiled, no file written.
    UserError for bad input, and where the configuration is for another target.
    """
    if loaded.config.target != "vacc":
        fault = "only programs of vacc are simulated; --set backend.type=tvm_vacc"
        raise ConfigError([loaded.fault("backend.type", fault)])
    pipeline, target = _prepare(loaded, Inspection())
    checkpoint, model = _open(loaded)
    program = trace_model(loaded.config, checkpoint, model)
    context = context_of(loaded.config, target, checkpoint, model)
    with FaultKeeper(context) as keeper:
        return _runstreams(loaded, program, pipeline, context, model, (keeper,))[0]


def show_passes(loaded: LoadedConfig, inspection: Inspection) -> Program:
    """Runs the passes up to ``inspection.until`` and shows what it asks for; nothing is built, no weight is read."""
    pipeline, target = _prepare(loaded, inspection)
    with stage_times() as times:
        checkpoint, model = _open(loaded)
        program = trace_model(loaded.config, checkpoint, model)
        dumps = inspection.dumps(loaded)
        context = context_of(loaded.config, target, checkpoint, model)
        with stage("passes"), FaultKeeper(context) as keeper:
            observers = (*dumps, *inspection.printers(pipeline), keeper)
            program = run_passes(program, pipeline, context, observers, until=inspection.last(pipeline))
        for dump in dumps:
            dump.write_times(times)
    return program


def _prepare(loaded: LoadedConfig, inspection: Inspection) -> tuple[tuple[Planned, ...], TargetDescription]:
    """The passes and the target, after every check that needs neither checkpoint nor folder."""
    check_compilable(loaded)
    pipeline = resolve_pipeline(loaded)
    inspection.check(pipeline)
    return pipeline, target_of(loaded)


def target_of(loaded: LoadedConfig) -> TargetDescription:
    """What the configuration compiles for. ConfigError where the target lacks what the configuration asks for."""
    if loaded.config.target == "vacc":
        return device_host(loaded.config.backend.dtype)
    target = target_for(loaded.config.backend.target, loaded.config.backend.dtype)
    check_activation(loaded, bf16=target.instruction_set.bf16)
    return target


def _open(loaded: LoadedConfig) -> tuple[Checkpoint, ModelConfig]:
    with stage("checkpoint"):
        checkpoint, model = open_model(loaded.config)
        check_stored(loaded, checkpoint.quantized)
        check_model(loaded, model)
    return checkpoint, model


def open_model(config: Config) -> tuple[Checkpoint, ModelConfig]:
    """The checkpoint, its adapters merged in, with every tensor of the model there and of the right shape; of an ONNX
    graph, its sizes."""
    frontend = config.frontend
    vacc = frontend.model_kwargs.model_arch == "vacc" and frontend.type == "huggingface"
    checkpoint = open_checkpoint(frontend.checkpoint, frontend.type, vacc_config=vacc)
    if frontend.adapters:
        checkpoint = AdaptedCheckpoint(checkpoint, frontend.adapters)
    model = ModelConfig.from_hf(checkpoint.config, str(checkpoint.config_file))
    if frontend.type == "onnx":
        from vamc_py.frontend.onnx_import.sizes import check_graph

        check_graph(checkpoint, model, config.backend.dtype)
        return checkpoint, model
    optional = {"lm_head.weight": (model.vocab_size, model.hidden_size)} if model.tied_embedding else {}
    check_tensors(checkpoint, expected_tensors(model), optional)
    return checkpoint, model


def check_model(loaded: LoadedConfig, model: ModelConfig) -> None:
    """ConfigError when a sequence could grow beyond the positions that the model's rotary embedding is meant for, where
    the configuration speaks of weights that the model does not have, or for sizes that the target does not take."""
    check_wide(loaded, expected_matrices(model), tied=model.tied_embedding)
    faults = []
    context = loaded.config.context_length
    if context > model.max_positions:
        faults.append(
            loaded.fault(
                "frontend.shape.input_ids",
                f"the context of {context} is longer than the {model.max_positions} positions that the model is "
                "made for (max_position_embeddings, or YaRN's in the checkpoint's config); name a shorter one",
            )
        )
    if loaded.config.target == "vacc":
        from vamc_py.vacc.sizes import size_faults

        faults += size_faults(loaded, model)
    if faults:
        raise ConfigError(faults)


def trace_model(config: Config, checkpoint: Checkpoint, model: ModelConfig) -> Program:
    """The model as a Relax program: our own torch model, the checkpoint's code where the YAML asks for it, or the ONNX
    graph that the checkpoint is."""
    if config.frontend.type == "onnx":
        with stage("import"):
            from vamc_py.frontend.onnx_import.importer import import_onnx

            return import_onnx(checkpoint, context=config.context_length)
    with stage("trace"):
        traced = _traced(config, checkpoint, model)
    with stage("import"):
        from vamc_py.frontend.import_relax import import_traced

        return import_traced(traced)


def _traced(config: Config, checkpoint: Checkpoint, model: ModelConfig) -> Traced:
    if not config.frontend.model_kwargs.trust_remote_code:
        from vamc_py.frontend.trace import trace

        return trace(model)
    from vamc_py.frontend.remote_code import trace_checkpoint_code

    return trace_checkpoint_code(
        checkpoint.path, checkpoint.config, context=config.context_length, source=str(checkpoint.config_file)
    )


@dataclass(frozen=True)
class Lowered:
    """The program before its weights were packed, before its parameters became tuples (which the manifest describes),
    and at the end."""

    unpacked: Program
    step: Program
    program: Program


def context_of(config: Config, target: TargetDescription, checkpoint: Checkpoint, model: ModelConfig) -> Context:
    """What the passes may ask about this compilation."""
    formats = {**checkpoint.quantized, **calibration_plan(config, expected_matrices(model))}
    return Context(target, config.prefill_length, config.context_length, formats)


def with_calibration(loaded: LoadedConfig, checkpoint: Checkpoint, model: ModelConfig) -> Checkpoint:
    """The checkpoint with the weights that are to be calibrated; torch is only imported for those."""
    if calibration_method(loaded.config) is None:
        return checkpoint
    from vamc_py.quant.stage import calibrated

    return calibrated(loaded, checkpoint, model)


def lower(
    program: Program, pipeline: Sequence[Planned], context: Context, observers: Sequence[Observer] = ()
) -> Lowered:
    """Runs the pipeline, the last pass of which bundles the parameters."""
    kept = _Kept()
    lowered = run_passes(program, pipeline, context, (*observers, kept))
    return Lowered(kept.unpacked or kept.last, kept.last, lowered)


class _Before(Observer):
    """Keeps the program as a pass is given it."""

    def __init__(self, index: int) -> None:
        self.index = index  # of the pass, from 1
        self.program: Program | None = None

    def before(self, index: int, planned: Planned, program: Program) -> None:
        if index == self.index:
            self.program = program


class _Kept(Observer):
    """Keeps the program as the last pass is given it, and as the pass is that packs weights."""

    last: Program
    unpacked: Program | None = None

    def before(self, index: int, planned: Planned, program: Program) -> None:
        self.last = program
        if planned.one.name == "select-kernels" and self.unpacked is None:
            self.unpacked = program


def _write_weights(lowered: Lowered, checkpoint: Checkpoint, path: Path) -> tuple[list[Parameter], str]:
    weights = layout(lowered.step.function)[2]
    expected = {w.name: Expected(tuple(int(d) for d in w.ty.shape), str(w.ty.dtype)) for w in weights}
    plan = lowered.step.plan.only([weight.name for weight in weights])
    source = PlanSource(checkpoint)
    return write_parameters(plan, expected, source, source.shapes, path, lambda names: track(names, "weights"))


def _manifest(
    loaded: LoadedConfig,
    checkpoint: Checkpoint,
    model: ModelConfig,
    target: TargetDescription,
    lowered: Lowered,
    parameters: list[Parameter],
) -> Manifest:
    config = loaded.config
    inputs, caches, _ = layout(lowered.step.function)
    logits = TensorSpec(name="logits", dtype="float32", shape=("m", model.vocab_size))
    return Manifest(
        name=config.name,
        target=Target(kind=target.kind, mcpu=target.mcpu, features=target.features, dtype=target.dtype),
        model=model_facts(model),
        limits=Limits(prefill=config.prefill_length, context=config.context_length),
        step=Function(
            name="step",
            inputs=tuple(_spec(var) for var in inputs),
            caches=tuple(_spec(var) for var in caches),
            outputs=(logits,),
        ),
        one_slot_a_step=bool(attribute(lowered.step.function, ONE_SLOT_ATTRIBUTE, 0)),
        activation=_activation(lowered.step.function, target),
        wide_rows=attribute(lowered.step.function, WIDE_ROWS_ATTRIBUTE, 0),
        parameters=tuple(parameters),
        files={},
        built_with=built_with(),
        source={
            "checkpoint": checkpoint.fingerprint(),
            "config": hashlib.sha256(loaded.text.encode()).hexdigest(),
        },
        slow_operators=lowered.program.notes,
    )


def _activation(step: Any, target: TargetDescription) -> Activation | None:
    if target.dtype != "int8":
        return None
    said = (step.attrs or {}).get(ACTIVATION_ATTRIBUTE, "int16")
    return cast(Activation, str(said))


def _spec(var: object) -> TensorSpec:
    dimensions = tuple(int(d) if hasattr(d, "value") else str(d) for d in var.ty.shape)  # type: ignore[attr-defined]
    return TensorSpec(name=var.name, dtype=str(var.ty.dtype), shape=dimensions)  # type: ignore[attr-defined]
