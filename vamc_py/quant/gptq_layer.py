"""GPTQ over one decoder layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from vamc_py.frontend.models.qwen2 import DecoderLayer
from vamc_py.quant import gptq
from vamc_py.quant.faults import CalibrationError
from vamc_py.quant.layerwise import BOTH, Half, LayerwiseModel, set_weight
from vamc_py.quant.options import ARGUMENTS_KEY, HESSIANS, VALUES, Formats, Options
from vamc_py.quant.statistics import InputStatistics

Array = npt.NDArray[np.generic]


def quantize_layer(
    engine: LayerwiseModel,
    layer: DecoderLayer,
    hidden: npt.NDArray[np.float32],
    formats: Formats,
    options: Options,
    *,
    carry: bool,
) -> dict[str, Array]:
    """Quantizes a layer's weights and gives them by their names in it; the layer then computes with them.

    ``hidden`` is the layer's input; with ``carry`` it becomes the quantized layer's output, else it is used up.
    ``true_sequential``: the inputs of the linear layers are those behind the quantized ones before them; otherwise all
    are those of the float layer, and one pass over the samples gives them. Beyond the paper, v_proj's errors are
    measured behind attention (``InputStatistics.add_attended``): else GPTQ moves them to the few tokens that all others
    look at, which are rare among the inputs.
    """
    made: dict[str, Array] = {}
    if not options.true_sequential:
        made |= _quantize(engine, layer, hidden, formats, options, HESSIANS, BOTH)
        if carry:
            engine.run(layer, hidden, keep=True)
        return made
    steps: dict[Half, tuple[tuple[Sequence[str], ...], ...]] = {
        "attention": (HESSIANS[:2], HESSIANS[2:3]),
        "mlp": (HESSIANS[3:4], HESSIANS[4:]),
    }
    for half, inputs in steps.items():
        for together in inputs:
            made |= _quantize(engine, layer, hidden, formats, options, together, [half])
        if half == "attention" or carry:
            engine.run(layer, hidden, [half], keep=True)
    return made


def _quantize(
    engine: LayerwiseModel,
    layer: DecoderLayer,
    hidden: npt.NDArray[np.float32],
    formats: Formats,
    options: Options,
    inputs: Sequence[Sequence[str]],
    halves: Sequence[Half],
) -> dict[str, Array]:
    """Quantizes linear layers, those with one Hessian together; all inputs are seen before the first is quantized."""
    together = [[name for name in names if name in formats] for names in inputs]
    statistics = {names[0]: InputStatistics(layer.get_submodule(names[0]).in_features) for names in together if names}
    watch = {name: each.add for name, each in statistics.items() if name != VALUES}
    if watch:
        engine.run(layer, hidden, halves, watch=watch, keep=False)
    if VALUES in statistics:
        engine.attend(layer, hidden, statistics[VALUES].add_attended)
    made: dict[str, Array] = {}
    for names in filter(None, together):
        inverse = _inverse(names[0], statistics.pop(names[0]), options)
        for name in names:
            weight = layer.get_submodule(name).weight.detach()
            rounded = gptq.quantize(weight, inverse, formats[name], options.blocksize)
            set_weight(layer, f"{name}.weight", torch.from_numpy(rounded.floats()))
            made |= rounded.tensors(f"{name}.weight")
    return made


def _inverse(name: str, statistics: InputStatistics, options: Options) -> gptq.Inverse:
    try:
        return gptq.invert(statistics.hessian(), options.damp_percent, desc_act=options.desc_act)
    except gptq.HessianError as error:
        message = f"with {options.damp_percent} GPTQ fails at the inputs of {name}: {error}; set a larger share"
        raise CalibrationError(f"{ARGUMENTS_KEY}.damp_percent", message) from error
