"""AWQ over one decoder layer: channel scales folded into what makes the input, then clipping and rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vamc_py.frontend.models.qwen2 import DecoderLayer
from vamc_py.quant import awq
from vamc_py.quant.layerwise import LayerwiseModel, set_weight
from vamc_py.quant.options import INPUTS, VALUES, Formats, Options
from vamc_py.quant.statistics import InputStatistics
from vamc_py.weights.rounded import round_to_nearest

Array = npt.NDArray[np.generic]

# What makes each of INPUTS channel by channel: norms and, through attention's sums and silu(gate) * up, linear layers.
_MAKERS = ("input_layernorm", "self_attn.v_proj", "post_attention_layernorm", "mlp.up_proj")
# Clipped weights of q and k would err in products of two, which the error of one output does not show.
_NOT_CLIPPED = ("self_attn.q_proj", "self_attn.k_proj")


@dataclass
class _Input:
    """What is known of an input that some linear layers share."""

    maker: str
    names: Sequence[str]
    hessians: dict[str, torch.Tensor]  # by linear layer; what measures its errors
    magnitude: torch.Tensor  # f32 [K], the mean of |x|


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

    Beside them stand, in float32, the norms and the weights out of ``formats`` that the scales changed. ``hidden`` is
    the layer's input; with ``carry`` it becomes the quantized layer's output. ``options`` are GPTQ's and not used.
    """
    statistics = {names[0]: InputStatistics(layer.get_submodule(names[0]).in_features) for names in INPUTS}
    engine.run(layer, hidden, watch={name: each.add for name, each in statistics.items()}, keep=False)
    values = InputStatistics(layer.get_submodule(VALUES).in_features)
    engine.attend(layer, hidden, values.add_attended)
    changed: set[str] = set()
    inputs = []
    for maker, names in zip(_MAKERS, INPUTS, strict=True):
        seen = statistics.pop(names[0])
        magnitude, hessian = seen.mean_magnitude(), seen.hessian()
        hessians = {name: values.hessian() if name == VALUES else hessian for name in names}
        inputs.append(_Input(maker, names, hessians, magnitude))
        if maker != "self_attn.v_proj" or engine.model.heads == engine.model.kv_heads:
            changed |= scale_input(layer, inputs[-1], formats)
    made: dict[str, Array] = {}
    for each in inputs:
        for name in each.names:
            if name in formats:
                made |= _round(layer, name, each.hessians[name], formats)
    for name in sorted(changed):
        if name.removesuffix(".weight") not in formats:
            made[name] = layer.get_parameter(name).detach().numpy().copy()
    if carry:
        engine.run(layer, hidden, keep=True)
    return made


def scale_input(layer: DecoderLayer, shared: _Input, formats: Formats) -> set[str]:
    """Scales the channels of one input as suits the weights to be quantized; the parameters that it changed.

    The layer computes what it did, but for rounding in float32.
    """
    planned = [name for name in shared.names if name in formats]
    weights = [(_weight(layer, name), formats[name], shared.hessians[name]) for name in planned]
    scales = awq.channel_scales(weights, shared.magnitude) if weights else None
    if scales is None:
        return set()
    maker: nn.Module = layer.get_submodule(shared.maker)
    changed = {f"{shared.maker}.{name}" for name, _ in maker.named_parameters()}
    for name, parameter in list(maker.named_parameters()):
        values = parameter.detach()
        set_weight(maker, name, values / (scales if values.ndim == 1 else scales[:, None]))
    for name in shared.names:
        set_weight(layer, f"{name}.weight", _weight(layer, name) * scales)
    for hessian in {id(each): each for each in shared.hessians.values()}.values():  # most are shared
        hessian.div_(scales).div_(scales[:, None])
    shared.magnitude.div_(scales)
    return changed | {f"{name}.weight" for name in shared.names}


def _round(layer: DecoderLayer, name: str, hessian: torch.Tensor, formats: Formats) -> dict[str, Array]:
    weight, form = _weight(layer, name), formats[name]
    rounded = round_to_nearest(weight.numpy(), form) if name in _NOT_CLIPPED else awq.clip(weight, hessian, form)
    set_weight(layer, f"{name}.weight", torch.from_numpy(rounded.floats()))
    return rounded.tensors(f"{name}.weight")


def _weight(layer: DecoderLayer, name: str) -> torch.Tensor:
    weight: torch.Tensor = layer.get_submodule(name).weight.detach()
    return weight
