"""From a float checkpoint and tokens to calibrated weights, layer by layer, resumed where it was stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vamc_py.checkpoint import Checkpoint
from vamc_py.config.frontend import CalibrationArguments
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.progress import track
from vamc_py.quant import awq_layer, gptq_layer
from vamc_py.quant.cache import cache_key, writing
from vamc_py.quant.calibrated import CalibratedCheckpoint, Overlay, layer_file, write_index, write_layer
from vamc_py.quant.faults import CalibrationError
from vamc_py.quant.hidden import hidden_array
from vamc_py.quant.layerwise import LayerwiseModel, layer_prefix
from vamc_py.quant.options import Method, Options, by_layer
from vamc_py.weights.formats import WeightFormat

_METHODS = {"gptq": gptq_layer.quantize_layer, "awq": awq_layer.quantize_layer}


def calibrate(
    checkpoint: Checkpoint,
    model: ModelConfig,
    tokens: npt.NDArray[np.int64],
    plan: Mapping[str, WeightFormat],
    method: Method,
    args: CalibrationArguments | None,
    cache: Path,
) -> CalibratedCheckpoint:
    """The checkpoint with the weights of ``plan`` quantized; all others stay as they are.

    One decoder layer and its statistics are in memory at a time, and the hidden states of all samples (in a mapped
    file where they are large). Each finished layer is kept in a folder of ``cache``; the same call finds it there again
    and goes on behind it, after it has run the finished layers over the samples. A finished calibration is read only.

    Args:
        tokens: the samples, i64 [samples, length].
        plan: the format of each weight to quantize, by its name in the checkpoint.
        args: the settings of GPTQ; those that are null have GPTQ's own defaults (see ``Options``).

    CalibrationError for settings that contradict the plan or the model; ValueError for a plan that cannot be carried
    out.
    """
    layers = by_layer(plan, method, checkpoint, model)
    if tokens.shape[1] > model.max_positions:
        message = f"{tokens.shape[1]} tokens are more than the {model.max_positions} positions the model is made for"
        raise CalibrationError("dataset.seqlen", message)
    options = Options.of(args, plan)
    key = cache_key(checkpoint, model, tokens, plan, method, options)
    folder = cache / key[:32]
    if not all(layer_file(folder, layer).is_file() for layer in layers):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_index(folder, checkpoint, key, method, list(layers), plan)
        _calibrate_layers(checkpoint, model, tokens, layers, method, options, folder)
    return CalibratedCheckpoint(checkpoint, folder)


def _calibrate_layers(
    checkpoint: Checkpoint,
    model: ModelConfig,
    tokens: npt.NDArray[np.int64],
    layers: Mapping[int, Mapping[str, WeightFormat]],
    method: Method,
    options: Options,
    folder: Path,
) -> None:
    engine = LayerwiseModel(checkpoint, model)
    with writing(folder):
        hidden = hidden_array((*tokens.shape, model.hidden_size), folder)
    engine.embed(tokens, hidden)
    last = max(layers)
    for index in track(range(last + 1), f"calibration ({method}), layers", each=True):
        formats = layers.get(index, {})
        finished = layer_file(folder, index)
        if formats and not finished.is_file():
            layer = engine.load(index)
            tensors = _METHODS[method](engine, layer, hidden, formats, options, carry=index < last)
            with writing(folder):
                write_layer(folder, index, {layer_prefix(index) + name: values for name, values in tensors.items()})
        elif index < last:
            prefix = layer_prefix(index)
            kept = {f"{prefix}{name}.weight": form for name, form in formats.items()}
            source = Overlay(checkpoint, [finished], kept, "") if formats else checkpoint
            engine.run(engine.load(index, source), hidden, keep=True)
