"""GPTQ checkpoints, as AutoGPTQ and GPTQModel write them (``quant_method: gptq``).

A module has ``qweight`` int32 [K * bits / 32, N], whose words hold columns k, k + 1, … of the weight from the lowest
bits up; ``scales`` [G, N]; ``qzeros`` int32 [G, N * bits / 32], packed along N; and ``g_idx`` int32 [K], the group of
each column. w[n, k] = (q - z) * scale with unsigned q and z. The checkpoint format "gptq" stores z - 1, "gptq_v2" z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vamc_py.checkpoint.base import Checkpoint
from vamc_py.checkpoint.config_keys import Keys
from vamc_py.checkpoint.quantized.packing import per_word, pieces, repeated, unpack
from vamc_py.checkpoint.quantized.settings import bits_of, group_size, integer_format
from vamc_py.checkpoint.quantized.stored import (
    SCALE_DTYPES,
    Array,
    StoredWeight,
    check_order,
    refuse,
    same_words,
    tensor,
    weights_of,
)


@dataclass(frozen=True)
class GptqWeight(StoredWeight):
    bits: int
    one_less: bool
    """The zero points are stored less 1."""

    def values(self, start: int, stop: int) -> Array:
        rows, columns = stop - start, self.shape[1]
        count = per_word(self.bits)
        values = np.empty((rows, columns), np.int8)
        for first, last in pieces(columns // count, rows * count):
            words = self.source.read(self.parts["values"], first, last)[:, start:stop]
            unpack(words.T, self.bits, values[:, first * count : last * count])
        return values

    def scale(self, start: int, stop: int) -> Array:
        return self.source.read(self.parts["scale"])[:, start:stop].T

    def zero(self, start: int, stop: int) -> Array:
        """CheckpointError where a stored z - 1 is the largest integer: readers take it for 0, for 2**bits, or carry."""
        count = per_word(self.bits)
        words = self.source.read(self.parts["zero"])[:, start // count : -(-stop // count)]
        zeros = np.empty((words.shape[0], words.shape[1] * count), np.int8)
        unpack(words, self.bits, zeros)
        zeros = zeros[:, start % count :][:, : stop - start].T
        if not self.one_less:
            return zeros
        most = (1 << self.bits - 1) - 1
        if bad := np.flatnonzero((zeros == most).any(axis=1)).tolist():
            what = f"stores {(1 << self.bits) - 1} for a zero point less 1, first for row {start + bad[0]}"
            self.refuse("zero", f"{what}, which readers disagree on; save the checkpoint as gptq_v2")
        return zeros + np.int8(1)


def stored_weights(source: Checkpoint, keys: Keys) -> dict[str, StoredWeight]:
    """Every module with a ``qweight``, read as ``keys`` (the quantization_config) say.

    Zero points that are all 2**(bits - 1) give a format without them where ``sym`` is true. desc_act orders columns by
    activation before they are grouped; it is read where the groups lie in order all the same, else refused.
    """
    bits = bits_of(keys, (4, 8))
    keys.choice("pack_dtype", ("int32",), default="int32")
    one_less = _format(keys) == "gptq"
    for key in ("rotation", "activation"):
        if keys.get(key) is not None:
            keys.refuse(key, "weights that need other activations than the model's are not read")
    if keys.flag("is_marlin_format", default=False):
        keys.refuse("is_marlin_format", "weights in Marlin's order are not read; use the checkpoint in GPTQ's own")
    if other := [pattern for pattern in keys.mapping("dynamic") if not pattern.startswith("-:")]:
        keys.refuse("dynamic", f"settings of their own for {other[0]!r} are not read; one for all modules is")
    size = group_size(keys)
    symmetric, ordered = keys.flag("sym", default=True), keys.flag("desc_act", default=False)
    found: dict[str, StoredWeight] = {}
    for name, module in weights_of(source, ".qweight").items():
        parts = {"values": f"{module}.qweight", "scale": f"{module}.scales", "zero": f"{module}.qzeros"}
        words, rows = tensor(source, parts["values"], ("int32",), (None, None), "packed weights").shape
        columns = words * per_word(bits)
        groups = 1 if size is None else -(-columns // size)
        why = f"{rows} rows, {columns} columns of {bits} bits in groups of {size or columns}"
        if rows % per_word(bits):
            refuse(source, parts["values"], f"has {rows} rows, no multiple of the {per_word(bits)} in a word of qzeros")
        scales = tensor(source, parts["scale"], SCALE_DTYPES, (groups, rows), why)
        tensor(source, parts["zero"], ("int32",), (groups, rows // per_word(bits)), why)
        index = f"{module}.g_idx"
        if ordered or index in source.tensors:
            check_order(source, index, columns, size)
            parts["index"] = index
        middle = (1 << bits - 1) - one_less
        zeros = not (symmetric and same_words(source, parts["zero"], repeated(middle, bits)))
        form = integer_format(bits, size, scales, zeros=zeros)
        found[name] = GptqWeight(source, parts, form, (rows, columns), bits, one_less)
    return found


def _format(keys: Keys) -> str:
    """The checkpoint format; newer releases of GPTQModel say it twice."""
    known = ("gptq", "gptq_v2")
    older, newer = keys.choice("checkpoint_format", known, default="gptq"), keys.choice("format", known, default="gptq")
    if keys.get("format") is None:
        return older
    if keys.get("checkpoint_format") is not None and older != newer:
        keys.refuse("format", f"{newer} contradicts the checkpoint_format {older}; correct one of them")
    return newer
