"""What the vendors' configurations have in common."""

from __future__ import annotations

from vamc_py.checkpoint.base import TensorInfo
from vamc_py.checkpoint.config_keys import Keys
from vamc_py.weights.formats import WeightFormat

GROUP_MULTIPLE = 8  # columns; what kernels take at a time


def bits_of(keys: Keys, known: tuple[int, ...], key: str = "bits") -> int:
    """Bits of a weight, one of ``known``."""
    bits = keys.count(key, 1 << 10)
    if bits not in known:
        keys.refuse(key, f"weights of {bits} bits are not read; known: {', '.join(map(str, known))}")
    return bits


def group_size(keys: Keys) -> int | None:
    """``group_size``: columns of a group; None for -1, a whole row."""
    size = keys.count("group_size", 1 << 20, least=-1)
    if size == -1:
        return None
    if size == 0 or size % GROUP_MULTIPLE:
        keys.refuse("group_size", f"{size} is no multiple of {GROUP_MULTIPLE}, and not -1 (a whole row)")
    return size


def integer_format(bits: int, group: int | None, scales: TensorInfo, *, zeros: bool) -> WeightFormat:
    """The format of integers of 4 or 8 bits: float16 scales stay so, others become float32, in which they are exact."""
    half = scales.dtype == "float16"
    return WeightFormat("int4" if bits == 4 else "int8", group, zeros, "float16" if half else "float32")
