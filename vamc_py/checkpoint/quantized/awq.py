"""AWQ checkpoints in the form "gemm", as AutoAWQ writes them (``quant_method: awq``).

A module has ``qweight`` int32 [K, N / 8], ``qzeros`` int32 [G, N / 8] and ``scales`` [G, N]. A word holds eight rows of
the weight; its integers, from the lowest bits up, belong to rows 0, 2, 4, 6, 1, 3, 5, 7 of them.
w[n, k] = (q - z) * scale with unsigned q and z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vamc_py.checkpoint.base import Checkpoint
from vamc_py.checkpoint.config_keys import Keys
from vamc_py.checkpoint.quantized.packing import pieces, repeated, unpack
from vamc_py.checkpoint.quantized.settings import bits_of, group_size, integer_format
from vamc_py.checkpoint.quantized.stored import (
    SCALE_DTYPES,
    Array,
    StoredWeight,
    refuse,
    same_words,
    tensor,
    weights_of,
)

_BITS, _PER_WORD, _MIDDLE = 4, 8, 8
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class AwqWeight(StoredWeight):
    def values(self, start: int, stop: int) -> Array:
        return self._rows("values", start, stop)

    def scale(self, start: int, stop: int) -> Array:
        return self.source.read(self.parts["scale"])[:, start:stop].T

    def zero(self, start: int, stop: int) -> Array:
        return self._rows("zero", start, stop)

    def _rows(self, part: str, start: int, stop: int) -> Array:
        """Rows of a packed tensor [width, N / 8] as int8 [rows, width]."""
        name = self.parts[part]
        width = self.source.tensors[name].shape[0]
        first_word, last_word = start // _PER_WORD, -(-stop // _PER_WORD)
        rows = np.empty(((last_word - first_word) * _PER_WORD, width), np.int8)
        for first, last in pieces(width, len(rows)):
            words = self.source.read(name, first, last)[:, first_word:last_word]
            unpack(words, _BITS, rows[:, first:last].T, _ORDER)
        return rows[start % _PER_WORD :][: stop - start]


def stored_weights(source: Checkpoint, keys: Keys) -> dict[str, StoredWeight]:
    """Every module with a ``qweight``, read as ``keys`` (the quantization_config) say.

    ``qzeros`` count with ``zero_point: false``, too, since AutoAWQ's kernels subtract them all the same; where they are
    all 8, the middle, the format has no zero points.
    """
    bits_of(keys, (_BITS,))
    form = "format" if keys.get("version") is None else "version"
    if (version := keys.text(form, default="gemm").lower()) != "gemm":
        keys.refuse(form, f"AWQ weights in the form {version!r} are not read; known: gemm")
    pointed = keys.flag("zero_point", default=True)
    size = group_size(keys)
    found: dict[str, StoredWeight] = {}
    for name, module in weights_of(source, ".qweight").items():
        parts = {"values": f"{module}.qweight", "scale": f"{module}.scales", "zero": f"{module}.qzeros"}
        columns, words = tensor(source, parts["values"], ("int32",), (None, None), "packed weights").shape
        if columns % (size or columns):
            refuse(source, parts["values"], f"has {columns} columns, no multiple of the group_size {size}")
        rows, groups = words * _PER_WORD, columns // (size or columns)
        why = f"{rows} rows, {columns} columns of 4 bits in groups of {size or columns}"
        scales = tensor(source, parts["scale"], SCALE_DTYPES, (groups, rows), why)
        tensor(source, parts["zero"], ("int32",), (groups, words), why)
        zeros = pointed or not same_words(source, parts["zero"], repeated(_MIDDLE, _BITS))
        found[name] = AwqWeight(source, parts, integer_format(_BITS, size, scales, zeros=zeros), (rows, columns))
    return found
