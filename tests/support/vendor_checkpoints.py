"""Checkpoints quantized as vendors do it: packed here integer by integer, from the published layouts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import write_checkpoint

from vamc_py.checkpoint import Checkpoint
from vamc_py.weights.formats import SCALE, ZERO

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Packed = tuple[dict[str, torch.Tensor], np.ndarray]
"""The tensors of a module by what stands behind its name, and the weight that they mean, float64 [N, K]."""
Packer = Callable[[int, int, np.random.Generator], Packed]
AWQ_ROWS = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Written:
    """``weights``: what the quantized ones mean, by their names."""

    config: dict[str, Any]
    weights: dict[str, np.ndarray]


def write_vendor_checkpoint(
    folder: Path, packer: Packer, settings: dict[str, Any], *, plain: tuple[str, ...] = (), **shape: Any
) -> Written:
    """A model whose linear layers ``packer`` made, but those whose names end with one of ``plain``."""
    config = write_checkpoint(folder, **({"architecture": "qwen3", "dtype": "bfloat16", "layers": 1} | shape))
    config["quantization_config"] = settings
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    weights = {}
    for name in [name for name in tensors if name.removesuffix(".weight").endswith(LINEAR)]:
        module = name.removesuffix(".weight")
        if module.endswith(plain) and plain:
            continue
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        made, weights[name] = packer(*tensors.pop(name).shape, rng)
        tensors |= {module + ending: tensor for ending, tensor in made.items()}
    save_file(tensors, folder / "model.safetensors")
    return Written(config, weights)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrites model.safetensors after ``change`` had its tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def assert_means(checkpoint: Checkpoint, weights: dict[str, np.ndarray]) -> None:
    """The quantized weights are these to the last bit of float32, and every range of rows is that of the whole."""
    assert set(checkpoint.quantized) == set(weights)
    for name, meant in weights.items():
        form = checkpoint.quantized[name]
        parts = [name, name + SCALE, *([name + ZERO] if form.zeros else [])]
        whole = [checkpoint.read(part) for part in parts]
        assert [part.dtype.name for part in whole] == [form.dtype, form.scale, "int8"][: len(parts)]
        assert [part.shape for part in whole] == [meant.shape, *[form.scale_shape(*meant.shape)] * (len(parts) - 1)]
        if form.values == "int4":
            assert whole[0].min() >= -8
            assert whole[0].max() <= 7
        np.testing.assert_array_equal(form.dequantize(*whole), meant.astype(np.float32))
        rows = meant.shape[0]
        for part, values in zip(parts, whole, strict=True):
            info = checkpoint.tensors[part]
            assert (info.shape, info.dtype) == (values.shape, values.dtype.name)
            for start, stop in ((0, 1), (rows - 1, rows), (3, rows - 1), (1, 1)):
                np.testing.assert_array_equal(checkpoint.read(part, start, stop), values[start:stop])


def words_of(integers: np.ndarray, bits: int) -> torch.Tensor:
    """Unsigned integers [R, C] in int32 words [R, ceil(C * bits / 32)]; the first in the lowest bits, zeros behind."""
    words = []
    for row in integers.tolist():
        words.append([0] * -(-len(row) * bits // 32))
        for column, value in enumerate(row):
            words[-1][column * bits // 32] |= value << column * bits % 32
    return torch.from_numpy(np.array(words, np.uint32).view(np.int32))


def scales_for(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, np.ndarray]:
    """Positive scales, and what they are after they were rounded to their type."""
    stored = torch.from_numpy(rng.uniform(0.001, 0.02, shape)).to(dtype)
    return stored, stored.double().numpy()


def meaning(q: np.ndarray, zero: np.ndarray, scale: np.ndarray, group: int) -> np.ndarray:
    """(q - zero) * scale in float64, column by column; zero and scale are [N, groups]."""
    weight = np.empty(q.shape)
    for column in range(q.shape[1]):
        weight[:, column] = (q[:, column] - zero[:, column // group]) * scale[:, column // group]
    return weight


def gptq(bits: int, group: int, *, sym: bool, stored_less: int, dtype: torch.dtype = torch.float16) -> Packer:
    """``stored_less``: 1 for the checkpoint format gptq, 0 for gptq_v2. ``group`` -1 is a row."""

    def pack(rows: int, columns: int, rng: np.random.Generator) -> Packed:
        size = columns if group == -1 else group
        groups = -(-columns // size)
        q = rng.integers(0, 1 << bits, (rows, columns))
        zero = rng.integers(stored_less, 1 << bits, (rows, groups))
        if sym:
            zero[:] = 1 << bits - 1
        scales, scale = scales_for(rng, (rows, groups), dtype)
        tensors = {
            ".qweight": words_of(q, bits).t().contiguous(),
            ".qzeros": words_of(zero.T - stored_less, bits),
            ".scales": scales.t().contiguous(),
            ".g_idx": torch.arange(columns, dtype=torch.int32) // size,
        }
        return tensors, meaning(q, zero, scale, size)

    return pack


def awq(group: int, *, zeros: bool) -> Packer:
    def pack(rows: int, columns: int, rng: np.random.Generator) -> Packed:
        size = columns if group == -1 else group
        q = rng.integers(0, 16, (rows, columns))
        zero = rng.integers(0, 16, (rows, columns // size)) if zeros else np.full((rows, columns // size), 8)
        scales, scale = scales_for(rng, (rows, columns // size), torch.float16)
        tensors = {
            ".qweight": words_of(_awq_order(q.T), 4),
            ".qzeros": words_of(_awq_order(zero.T), 4),
            ".scales": scales.t().contiguous(),
        }
        return tensors, meaning(q, zero, scale, size)

    return pack


def _awq_order(by_column: np.ndarray) -> np.ndarray:
    """Of each eight rows of the weight (here columns), the one that stands at each place of a word."""
    ordered = np.empty_like(by_column)
    for at in range(by_column.shape[1]):
        ordered[:, at] = by_column[:, at // 8 * 8 + AWQ_ROWS[at % 8]]
    return ordered


def fp8(block: tuple[int, int] | None, dtype: torch.dtype = torch.float32) -> Packer:
    """``block`` None: one scale for the weight."""

    def pack(rows: int, columns: int, rng: np.random.Generator) -> Packed:
        high, wide = block or (rows, columns)
        values = torch.from_numpy(rng.uniform(-448, 448, (rows, columns))).to(torch.float8_e4m3fn)
        scales, scale = scales_for(rng, (-(-rows // high), -(-columns // wide)), dtype)
        weight = values.double().numpy()
        for row in range(rows):
            for column in range(columns):
                weight[row, column] *= scale[row // high, column // wide]
        stored = scales if block else scales.reshape(())
        return {".weight": values, ".weight_scale_inv": stored}, weight

    return pack


def packed_tensors(bits: int, group: int, *, sym: bool, dtype: torch.dtype = torch.bfloat16) -> Packer:
    """The format pack-quantized of compressed-tensors; ``group`` -1 is a row (the strategy channel)."""

    def pack(rows: int, columns: int, rng: np.random.Generator) -> Packed:
        size, half = columns if group == -1 else group, 1 << bits - 1
        groups = -(-columns // size)
        q = rng.integers(-half, half, (rows, columns))
        zero = np.zeros((rows, groups), np.int64) if sym else rng.integers(-half, half, (rows, groups))
        scales, scale = scales_for(rng, (rows, groups), dtype)
        tensors = {
            ".weight_packed": words_of(q + half, bits),
            ".weight_shape": torch.tensor([rows, columns]),
            ".weight_scale": scales,
        }
        if not sym:
            tensors[".weight_zero_point"] = words_of((zero + half).T, bits).t().contiguous()
        return tensors, meaning(q, zero, scale, size)

    return pack


def int8_tensors(group: int | None, *, sym: bool, dtype: torch.dtype = torch.bfloat16) -> Packer:
    """The format int-quantized of compressed-tensors; ``group`` -1 is a row, None the whole weight."""

    def pack(rows: int, columns: int, rng: np.random.Generator) -> Packed:
        size = columns if group in (-1, None) else group
        groups = -(-columns // size)
        q = rng.integers(-128, 128, (rows, columns))
        zero = np.zeros((rows, groups), np.int64) if sym else rng.integers(-128, 128, (rows, groups))
        scales, scale = scales_for(rng, (rows, groups) if group else (1, 1), dtype)
        tensors = {".weight": torch.from_numpy(q).to(torch.int8), ".weight_scale": scales if group else scales[0]}
        if not sym:
            tensors[".weight_zero_point"] = torch.from_numpy(zero).to(torch.int8)
        return tensors, meaning(q, zero, np.broadcast_to(scale, (rows, groups)), size)

    return pack
