"""``vamc-py export-onnx``: a configuration and its checkpoint become a folder of two graphs and one file of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from vamc_py.artifact.manifest import TOKENIZER_DIR, Parameter
from vamc_py.artifact.write import ArtifactWriter
from vamc_py.checkpoint import Checkpoint
from vamc_py.compiler import check_model, open_model
from vamc_py.config import LoadedConfig
from vamc_py.config.patterns import EMBEDDING, LM_HEAD
from vamc_py.errors import CheckpointError, ConfigError
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.onnx_export.decoder import Lengths, decoder
from vamc_py.progress import stage, track
from vamc_py.weights.execute import Expected, write_parameters
from vamc_py.weights.formats import SCALE, WeightFormat
from vamc_py.weights.plan import Cast, ParameterPlan, QuantizeRows, Recipe

PREFILL, DECODE, WEIGHTS = "iter0.onnx", "iter1.onnx", "weights.bin"
_INT8_ROWS = WeightFormat("int8")
_MATRICES = {"int8": "float32", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # where they are not int8


def export(loaded: LoadedConfig, *, dynamic: bool = False) -> Path:
    """Writes ``<workspace.path>/<name>-onnx`` and returns it.

    In it: iter0.onnx, a prefill of ``config.prefill_length`` tokens; iter1.onnx, one token after
    ``config.context_length`` - 1 positions; their weights in weights.bin; config.json, generation_config.json and
    tokenizer/. With ``dynamic`` both take any lengths. Weights are written in blocks, straight from the checkpoint.

    UserError for what cannot be exported; no folder is there then that was not there before.
    """
    _check_exportable(loaded)
    config = loaded.config
    folder = config.artifact_dir.with_name(f"{config.name}-onnx")
    with ArtifactWriter(folder, marker=PREFILL) as writer:
        with stage("checkpoint"):
            checkpoint, model = open_model(config)
            check_model(loaded, model)
            plan, expected = _plan(checkpoint, model, config.backend.dtype)
        checkpoint.save_tokenizer(writer.directory(TOKENIZER_DIR))
        writer.write_json("config.json", checkpoint.config)
        writer.write_json("generation_config.json", checkpoint.generation_config)
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
        with stage("weights"):
            table, _ = write_parameters(
                plan, expected, checkpoint, shapes, writer.path(WEIGHTS), lambda names: track(names, "weights")
            )
        with stage("graphs"):
            weights = {parameter.name: parameter for parameter in table}
            for name, lengths in _lengths(config.prefill_length, config.context_length, dynamic=dynamic).items():
                _write(model, lengths, weights, writer.path(name))
        writer.put_in_place()
    return folder


def _check_exportable(loaded: LoadedConfig) -> None:
    """ConfigError for what the graphs cannot say; the backend may be any: they are not compiled here."""
    config, faults = loaded.config, []
    if not config.language_model or config.frontend.type not in ("huggingface", "gguf"):
        faults.append(
            loaded.fault(
                "frontend.type", "only language models of type huggingface and gguf can be exported as ONNX graphs"
            )
        )
    elif config.prefill_only:
        faults.append(
            loaded.fault("frontend.shape.input_ids", "name a context length too; iter1 is the graph that decodes")
        )
    if config.frontend.model_kwargs.trust_remote_code:
        faults.append(
            loaded.fault(
                "frontend.model_kwargs.trust_remote_code",
                "the graphs are those of vamc-py's own model; --set frontend.model_kwargs.trust_remote_code=false",
            )
        )
    if config.quantize_type not in (None, "w8a16"):
        faults.append(
            loaded.fault(
                "frontend.quantize.type",
                f"{config.quantize_type} cannot be exported; int8 weights rounded to nearest can: "
                "--set frontend.quantize.type=w8a16",
            )
        )
    if faults:
        raise ConfigError(faults)


def _lengths(prefill: int, context: int, *, dynamic: bool) -> dict[str, Lengths]:
    if dynamic:
        return {PREFILL: Lengths("new"), DECODE: Lengths("new", "past")}
    return {PREFILL: Lengths(prefill), DECODE: Lengths(1, context - 1)}


def _plan(checkpoint: Checkpoint, model: ModelConfig, dtype: str) -> tuple[ParameterPlan, dict[str, Expected]]:
    """How each stored tensor is made, and what comes out."""
    recipes: dict[str, Recipe] = {}
    expected: dict[str, Expected] = {}

    def store(name: str, kind: str, shape: tuple[int, ...], recipe: Recipe) -> None:
        recipes[name], expected[name] = recipe, Expected(shape, kind)

    for name, shape in expected_tensors(model).items():
        inner = len(shape) == 2 and name not in (EMBEDDING, LM_HEAD)
        given = checkpoint.quantized.get(name)
        if given is not None:
            _check_format(checkpoint, name, given, dtype)
            store(name, "int8", shape, Recipe((name,)))
            store(name + SCALE, "float32", shape[:1], Recipe((name + SCALE,), (Cast("float32"),)))
        elif inner and dtype == "int8":
            store(name, "int8", shape, Recipe((name,), (Cast("float32"), QuantizeRows("values"))))
            store(name + SCALE, "float32", shape[:1], Recipe((name,), (Cast("float32"), QuantizeRows("scale"))))
        else:
            kind = _MATRICES[dtype] if len(shape) == 2 else "float32"
            store(name, kind, shape, Recipe((name,), (Cast(kind),)))
    return ParameterPlan(recipes), expected


def _check_format(checkpoint: Checkpoint, name: str, form: WeightFormat, dtype: str) -> None:
    if dtype != "int8" or form.values != "int8" or form.group is not None or form.zeros or name in (EMBEDDING, LM_HEAD):
        raise CheckpointError(
            f"{checkpoint.file_of(name)}: {name} is quantized already ({form.values}, "
            f"{'a scale a row' if form.group is None else f'groups of {form.group}'}"
            f"{', zero points' if form.zeros else ''}); ONNX export takes int8 with a scale a row, in layers, for "
            "backend.dtype int8, and rounds no weight twice; use the unquantized checkpoint"
        )


def _write(model: ModelConfig, lengths: Lengths, weights: Mapping[str, Parameter], path: Path) -> None:
    """Writes a graph and has onnx check it, with the file of weights beside it."""
    graph = decoder(model, lengths, weights, WEIGHTS, last_token=lengths.past is None)
    path.write_bytes(graph.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)
