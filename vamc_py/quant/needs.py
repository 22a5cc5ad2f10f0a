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
_WEIGHT_BYTES = {"gptq": 18, "awq": 26}


@dataclass(frozen=True)
class Needs:
    """Bytes."""

    memory: int  # the most at a time, anonymous and shared
    disk: int  # in the cache folder, at the end and, for hidden states, meanwhile


def calibration_needs(
    model: ModelConfig, samples: int, length: int, plan: Formats, method: Method, options: Options
) -> Needs:
    """An upper estimate, from shapes alone: within a third of what was measured at the shape of an 8B model."""
    shapes = {
        name.removeprefix(layer_prefix(0)): shape
        for name, shape in expected_tensors(model).items()
        if name.startswith(layer_prefix(0))
    }
    layer = 4 * sum(math.prod(shape) for shape in shapes.values())
    columns = [shapes[f"{names[0]}.weight"][1] for names in HESSIANS]
    together = method == "awq" or not options.true_sequential
    statistics = 4 * sum(k * k for k in columns) if together else 0
    work = 0
    for k, names in zip(columns, HESSIANS, strict=True):
        widest = max(shapes[f"{name}.weight"][0] for name in names)
        matrix = 4 * k * k
        work = max(work, 2 * matrix, (0 if method == "awq" else matrix) + _WEIGHT_BYTES[method] * widest * k)
    states = 4 * samples * length * model.hidden_size
    in_memory = states <= hidden.MOST_IN_MEMORY
    memory = _BASE + layer + statistics + work + _BATCH_COPIES * BATCH_BYTES + (states if in_memory else 0)
    tensors = expected_tensors(model)
    kept = 0
    for name, form in plan.items():
        rows, k = tensors[name]
        scale = math.prod(form.scale_shape(rows, k))
        kept += rows * k + scale * ((4 if form.scale == "float32" else 2) + form.zeros)
    return Needs(memory, kept + (0 if in_memory else states))
