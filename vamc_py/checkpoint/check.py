"""Whether a checkpoint's tensors are those of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vamc_py.checkpoint.base import Checkpoint, TensorInfo
from vamc_py.errors import CheckpointError

WEIGHT_DTYPES = ("float32", "float16", "bfloat16")
# Buffers that old releases of transformers saved: functions of the config, recomputed by the model.
_DERIVED = re.compile(r".*\.(rotary_emb\.inv_freq|self_attn\.(bias|masked_bias))$")
_LISTED = 10


def check_tensors(
    checkpoint: Checkpoint,
    expected: Mapping[str, tuple[int, ...]],
    optional: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Raises one CheckpointError that names the tensors that are missing, misshapen, of another dtype, or too many.

    Args:
        expected: the shapes of the tensors the model reads.
        optional: the shapes of tensors that may be there or not, as a tied model's lm_head.weight.

    A tensor that the model has no place for is a fault too: left out in silence it would change the answers.
    """
    known = {**(optional or {}), **expected}
    faults = [f"{name} is missing" for name in expected if name not in checkpoint.tensors]
    for name, info in checkpoint.tensors.items():
        if name not in known:
            if not _DERIVED.match(name):
                faults.append(f"{checkpoint.file_of(name).name}: {name} has no place in the model")
        elif problem := _problem(info, known[name]):
            faults.append(f"{checkpoint.file_of(name).name}: {name} {problem}")
    if faults:
        raise CheckpointError(_message(checkpoint, faults))


def _problem(info: TensorInfo, shape: tuple[int, ...]) -> str | None:
    if info.shape != tuple(shape):
        return f"has the shape {_text(info.shape)}; the config asks for {_text(shape)}"
    if info.dtype not in WEIGHT_DTYPES:
        return f"is {info.dtype}; weights can be {', '.join(WEIGHT_DTYPES)}"
    return None


def _message(checkpoint: Checkpoint, faults: list[str]) -> str:
    lines = [f"{checkpoint.path}: the tensors do not fit the model that the config describes:"]
    lines += [f"  {fault}" for fault in faults[:_LISTED]]
    if len(faults) > _LISTED:
        lines.append(f"  and {len(faults) - _LISTED} more")
    if quantization := checkpoint.config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        lines.append(f"The checkpoint is quantized ({method}), which is not read; use the unquantized checkpoint.")
    else:
        lines.append("Use the config and the weights of one model, downloaded whole.")
    return "\n".join(lines)


def _text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
