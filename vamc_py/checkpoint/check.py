"""Whether a checkpoint's tensors are those of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from vamc_py.checkpoint.base import Checkpoint, TensorInfo
from vamc_py.errors import CheckpointError
from vamc_py.weights.formats import SCALE, ZERO

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

    A tensor that the model has no place for is a fault too: left out in silence it would change the answers. Of a
    weight that comes quantized the shape is that of its values; its scales and zero points belong to it. Surplus biases
    of quantized modules are passed over where they are zeros: AutoGPTQ once gave one to every module.
    """
    known = _with_companions(checkpoint, {**(optional or {}), **expected})
    faults = [f"{name} is missing" for name in expected if name not in checkpoint.tensors]
    for name, info in checkpoint.tensors.items():
        if name not in known:
            if not _DERIVED.match(name) and not _zero_bias(checkpoint, info):
                faults.append(f"{checkpoint.file_of(name).name}: {name} has no place in the model")
        elif problem := _problem(checkpoint, info, known[name]):
            faults.append(f"{checkpoint.file_of(name).name}: {name} {problem}")
    if faults:
        raise CheckpointError(_message(checkpoint, faults))


def _with_companions(checkpoint: Checkpoint, known: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The tensors that the model knows, and the scales and zero points of those that come quantized."""
    for name, form in checkpoint.quantized.items():
        if name in known and len(known[name]) == 2:
            rows, columns = known[name]
            known |= dict.fromkeys((name + SCALE, name + ZERO), form.scale_shape(rows, columns))
    return known


def _zero_bias(checkpoint: Checkpoint, info: TensorInfo) -> bool:
    module = info.name.removesuffix(".bias")
    return (
        module != info.name
        and f"{module}.weight" in checkpoint.quantized
        and len(info.shape) == 1
        and not np.asarray(checkpoint.read(info.name)).any()
    )


def _problem(checkpoint: Checkpoint, info: TensorInfo, shape: tuple[int, ...]) -> str | None:
    if info.shape != tuple(shape):
        return f"has the shape {_text(info.shape)}; the config asks for {_text(shape)}"
    base = info.name.removesuffix(ZERO).removesuffix(SCALE)
    if info.dtype not in WEIGHT_DTYPES and base not in checkpoint.quantized:
        return f"is {info.dtype}; weights can be {', '.join(WEIGHT_DTYPES)}"
    return None


def _message(checkpoint: Checkpoint, faults: list[str]) -> str:
    lines = [f"{checkpoint.path}: the tensors do not fit the model that the config describes:"]
    lines += [f"  {fault}" for fault in faults[:_LISTED]]
    if len(faults) > _LISTED:
        lines.append(f"  and {len(faults) - _LISTED} more")
    lines.append("Use the config and the weights of one model, downloaded whole.")
    return "\n".join(lines)


def _text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
