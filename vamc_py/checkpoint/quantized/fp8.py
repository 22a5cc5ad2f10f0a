"""Float8 checkpoints with a scale for each block, as Qwen3-*-FP8 and DeepSeek's are (``quant_method: fp8``).

A module has ``weight`` float8_e4m3fn [N, K] and ``weight_scale_inv`` [ceil(N / bn), ceil(K / bk)] for blocks of
``weight_block_size`` [bn, bk], or one number where the config has no block size. w = weight * weight_scale_inv, not
divided by it.

How the vendor's engines round activations (``activation_scheme``, and with "static" the tensors ``input_scale`` or
``activation_scale``) is not read: it says nothing about the weights, and activations in more precision are nearer to
the model that was quantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from vamc_py.checkpoint.base import Checkpoint
from vamc_py.checkpoint.config_keys import Keys
from vamc_py.checkpoint.quantized.stored import (
    SCALE_DTYPES,
    Array,
    StoredWeight,
    one_number,
    refuse,
    tensor,
    weights_of,
)
from vamc_py.weights.formats import WeightFormat

_VALUES: Final = "float8_e4m3fn"
_SCALE = ".weight_scale_inv"
_LARGEST_CODE = 0x7E  # 448; with all seven bits set it is no number
ACTIVATION_SCALES = (".input_scale", ".activation_scale")


@dataclass(frozen=True)
class Fp8Weight(StoredWeight):
    block_rows: int
    """Rows that share a scale."""

    def values(self, start: int, stop: int) -> Array:
        values = self.source.read(self.parts["values"], start, stop)
        wrong = ((values.view(np.uint8) & 0x7F) > _LARGEST_CODE).any(axis=1)
        if bad := np.flatnonzero(wrong).tolist():
            self.refuse("values", f"has values that are no numbers in rows {_ranges(start, bad)}; fetch it again")
        return values

    def scale(self, start: int, stop: int) -> Array:
        stored = self.source.read(self.parts["scale"]).astype(np.float32)
        return stored.reshape(-1, self.form.groups(self.shape[1]))[np.arange(start, stop) // self.block_rows]


def _ranges(start: int, rows: list[int]) -> str:
    few = ", ".join(str(start + row) for row in rows[:5])
    return few if len(rows) <= 5 else f"{few} and {len(rows) - 5} more"


def stored_weights(source: Checkpoint, keys: Keys) -> dict[str, StoredWeight]:
    """Every float8 ``weight``, read as ``keys`` (the quantization_config) say; float8_e4m3fn is the only type."""
    keys.choice("fmt", ("e4m3", "float8_e4m3fn"), default="e4m3")
    keys.choice("activation_scheme", ("dynamic", "static"), default="dynamic")
    block = _block(keys)
    modules = weights_of(source, ".weight")
    named = set(weights_of(source, _SCALE))
    found: dict[str, StoredWeight] = {}
    for name, module in modules.items():
        if not source.tensors[name].dtype.startswith("float8") and name not in named:
            continue
        rows, columns = tensor(source, name, (_VALUES,), (None, None), "a quantized weight").shape
        block_rows, block_columns = block or (rows, columns)
        shape = (-(-rows // block_rows), -(-columns // block_columns)) if block else one_number(source, module + _SCALE)
        why = f"a scale for each block of {block_rows} x {block_columns} of {rows} x {columns}"
        tensor(source, module + _SCALE, SCALE_DTYPES, shape, why)
        form = WeightFormat(_VALUES, block_columns if block else None)
        parts = {"values": name, "scale": module + _SCALE}
        found[name] = Fp8Weight(source, parts, form, (rows, columns), block_rows)
    if lone := sorted(named - set(found)):
        scale = lone[0].removesuffix(".weight") + _SCALE
        refuse(source, scale, f"has no {lone[0]} that it could belong to; fetch the weights again, whole")
    return found


def ignored(source: Checkpoint) -> frozenset[str]:
    """The scales of activations."""
    return frozenset(name for name in source.tensors if name.endswith(ACTIVATION_SCALES))


def _block(keys: Keys) -> tuple[int, int] | None:
    """Rows and columns of a block; None: one scale for a whole weight."""
    size = keys.get("weight_block_size")
    if size is None:
        return None
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(part) is int and 0 < part < 1 << 20 for part in size)
    ):
        keys.refuse("weight_block_size", f"two sizes such as [128, 128] are expected, not {size!r}")
    return size[0], size[1]
