"""What a calibration is going to need, told before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.quant import hidden
from vamc_py.quant.layerwise import BATCH_BYTES, layer_prefix
from vamc_py.quant.options import HESSIANS, Formats, Method, Options

_BASE = 200 << 20  # Python, torch and the tokenizer
_BATCH_COPIES = 6  # activations of a batch that are alive at once
# For each weight while it is quantized, beside itself: updated columns or the change by rounding, integers, and what
# becoming float32 again takes.
_WEIGHT_BYTES = 18


@dataclass(frozen=True)
class Needs:
    """Bytes."""

    memory: int  # the most at a time, anonymous and shared
    disk: int  # in the cache folder, at the end and, for hidden states, meanwhile


def calibration_needs(
    model: ModelConfig, samples: int, length: int, plan: Formats, method: Method, options: Options
) -> Needs:
    """An upper estimate, from shapes alone; the memory is within a third of what an 8B model's shape took."""
    states = 4 * samples * length * model.hidden_size
    mapped = states > hidden.MOST_IN_MEMORY
    memory = _layer_memory(model, method, options) + (0 if mapped else states)
    return Needs(memory, _kept(model, plan) + (states if mapped else 0))


def _layer_memory(model: ModelConfig, method: Method, options: Options) -> int:
    """The process, a layer, and the most that quantizing one of its weights takes."""
    prefix = layer_prefix(0)
    shapes = {name: shape for name, shape in expected_tensors(model).items() if name.startswith(prefix)}
    layer = 4 * sum(math.prod(shape) for shape in shapes.values())
    matrices = [4 * shapes[f"{prefix}{names[0]}.weight"][1] ** 2 for names in HESSIANS]
    work = 0
    for index, names in enumerate(HESSIANS):
        weight = _WEIGHT_BYTES * max(math.prod(shapes[f"{prefix}{name}.weight"]) for name in names)
        if method == "awq":
            work = max(work, sum(matrices) + weight)
        else:
            waiting = 0 if options.true_sequential else sum(matrices[index + 1 :])
            work = max(work, waiting + matrices[index] + max(matrices[index], weight))
    return _BASE + layer + work + _BATCH_COPIES * BATCH_BYTES


def _kept(model: ModelConfig, plan: Formats) -> int:
    """Integers, scales and zero points."""
    tensors, total = expected_tensors(model), 0
    for name, form in plan.items():
        scales = math.prod(form.scale_shape(*tensors[name]))
        total += math.prod(tensors[name]) + scales * ((4 if form.scale == "float32" else 2) + form.zeros)
    return total
