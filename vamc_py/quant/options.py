"""What a calibration is asked for: the settings of GPTQ, and the plan, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vamc_py.checkpoint import Checkpoint
from vamc_py.config.frontend import CalibrationArguments
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.quant.faults import CalibrationError
from vamc_py.weights.formats import WeightFormat

Method = Literal["gptq", "awq"]

_TYPE_KEY = "frontend.quantize.type"
ARGUMENTS_KEY = "frontend.quantize.calib_args"
# Linear layers of a decoder layer that read the same input, in the order in which they are computed.
INPUTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
VALUES = "self_attn.v_proj"
# Those whose errors are measured alike, in the order in which they are quantized.
HESSIANS = (("self_attn.q_proj", "self_attn.k_proj"), (VALUES,), *INPUTS[1:])
_WEIGHT = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
_LINEARS = {name for names in INPUTS for name in names}

Formats = Mapping[str, WeightFormat]


@dataclass(frozen=True)
class Options:
    """Settings of GPTQ, each with the default of GPTQ itself."""

    damp_percent: float = 0.01
    blocksize: int = 128
    desc_act: bool = False
    true_sequential: bool = True

    @classmethod
    def of(cls, arguments: CalibrationArguments | None, plan: Formats) -> Options:
        """What the YAML says over the defaults. CalibrationError where it contradicts the plan."""
        if arguments is None:
            return cls()
        for name, form in plan.items():
            if arguments.wbits is not None and arguments.wbits != form.bits:
                message = f"{arguments.wbits} bits, and the type keeps {name} in {form.bits}; leave wbits out"
                raise CalibrationError(f"{ARGUMENTS_KEY}.wbits", message)
            if arguments.onegroup and form.group is not None:
                message = f"true, and the type keeps {name} in groups of {form.group} columns; leave onegroup out"
                raise CalibrationError(f"{ARGUMENTS_KEY}.onegroup", message)
        given = {name: getattr(arguments, name) for name in cls.__dataclass_fields__}
        return cls(**{name: value for name, value in given.items() if value is not None})


def by_layer(
    plan: Formats, method: Method, checkpoint: Checkpoint, model: ModelConfig
) -> dict[int, dict[str, WeightFormat]]:
    """The formats by layer and by linear layer (``mlp.up_proj``).

    ValueError for a plan that is empty, names what is no linear layer of a decoder layer, or asks for other values than
    int8 and int4; CalibrationError for weights that the checkpoint has quantized already. AWQ rescales neighbours of
    the planned weights, so for it no linear layer may come quantized.
    """
    if not plan:
        raise ValueError("a calibration needs weights to quantize")
    if method == "awq" and (name := next((name for name in checkpoint.quantized if _WEIGHT.fullmatch(name)), None)):
        raise CalibrationError(_TYPE_KEY, f"{name} comes quantized, and AWQ rescales float weights; use GPTQ or none")
    found: dict[int, dict[str, WeightFormat]] = {}
    for name, form in plan.items():
        match = _WEIGHT.fullmatch(name)
        if match is None or match[2] not in _LINEARS or int(match[1]) >= model.layers:
            raise ValueError(f"{name} is no weight of a decoder layer's linear layers, and only those are calibrated")
        if form.values not in ("int8", "int4"):
            raise ValueError(f"{name}: {form.values} values are not calibrated; int8 and int4 are")
        if name in checkpoint.quantized:
            message = f"{name} comes quantized; calibrate the float checkpoint, or leave the weight out"
            raise CalibrationError(_TYPE_KEY, message)
        found.setdefault(int(match[1]), {})[match[2]] = form
    return dict(sorted(found.items()))
