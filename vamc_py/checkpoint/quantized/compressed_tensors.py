"""Checkpoints of compressed-tensors with quantized weights and float activations (llm-compressor's W4A16 and W8A16).

"pack-quantized": ``weight_packed`` int32 [N, ceil(K * bits / 32)], q + 2**(bits - 1) from the lowest bits up along K;
``weight_shape`` [N, K]; ``weight_scale`` [N, G]; and, where not symmetric, ``weight_zero_point``, packed along N:
int32 [ceil(N * bits / 32), G]. "int-quantized": ``weight`` int8 [N, K], ``weight_scale`` and ``weight_zero_point`` int8
like it. w[n, k] = (q - z) * scale with signed q and z.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from vamc_py.checkpoint.base import Checkpoint
from vamc_py.checkpoint.config_keys import Keys
from vamc_py.checkpoint.quantized.packing import per_word, pieces, unpack
from vamc_py.checkpoint.quantized.settings import bits_of, group_size, integer_format
from vamc_py.checkpoint.quantized.stored import (
    SCALE_DTYPES,
    Array,
    StoredWeight,
    check_order,
    one_number,
    refuse,
    same_words,
    tensor,
    weights_of,
)

_FORMATS = ("pack-quantized", "int-quantized")


@dataclass(frozen=True)
class Scheme:
    """What a group of the config says of the modules that its targets name."""

    targets: tuple[str, ...]
    packed: bool
    bits: int
    group: int | None
    symmetric: bool
    one_scale: bool
    """One for the whole weight."""
    ordered: bool
    """Columns are grouped by their activations; ``weight_g_idx`` says how."""

    def names(self, module: str) -> bool:
        """By its name, or by a pattern of it (``re:…``); "Linear" names all, which ``_scheme_of`` asks last."""
        return any(re.match(t[3:], module) if t.startswith("re:") else t == module for t in self.targets)


@dataclass(frozen=True)
class PackedWeight(StoredWeight):
    def values(self, start: int, stop: int) -> Array:
        count = per_word(self.form.bits)
        values = np.empty((stop - start, self.shape[1]), np.int8)
        for first, last in pieces(stop - start, self.shape[1]):
            words = self.source.read(self.parts["values"], start + first, start + last)
            whole = np.empty((last - first, words.shape[1] * count), np.int8)  # the last word of a row may be padded
            unpack(words, self.form.bits, whole)
            values[first:last] = whole[:, : self.shape[1]]
        return values

    def scale(self, start: int, stop: int) -> Array:
        return _scales(self, start, stop)

    def zero(self, start: int, stop: int) -> Array:
        count = per_word(self.form.bits)
        words = self.source.read(self.parts["zero"], start // count, -(-stop // count))
        zeros = np.empty((words.shape[0] * count, words.shape[1]), np.int8)
        unpack(words.T, self.form.bits, zeros.T)
        return zeros[start % count :][: stop - start]


@dataclass(frozen=True)
class Int8Weight(StoredWeight):
    def values(self, start: int, stop: int) -> Array:
        return self.source.read(self.parts["values"], start, stop)

    def scale(self, start: int, stop: int) -> Array:
        return _scales(self, start, stop)

    def zero(self, start: int, stop: int) -> Array:
        return self.source.read(self.parts["zero"], start, stop)


def _scales(weight: StoredWeight, start: int, stop: int) -> Array:
    """[rows, groups]; one number for the whole weight is repeated."""
    name = weight.parts["scale"]
    if weight.source.tensors[name].shape in ((), (1,), (1, 1)):
        return np.broadcast_to(weight.source.read(name).reshape(1, 1), (stop - start, 1))
    return weight.source.read(name, start, stop)


def stored_weights(source: Checkpoint, keys: Keys) -> dict[str, StoredWeight]:
    """Every module with a ``weight_packed`` or an int8 ``weight``, read as ``keys`` (the quantization_config) say.

    Which modules the config ignores does not matter: a weight that is there plain is plain.
    """
    schemes = _schemes(keys)
    found: dict[str, StoredWeight] = {}
    for name, module in weights_of(source, ".weight_packed").items():
        found[name] = _packed(
            source, module, _scheme_of(source, f"{module}.weight_packed", module, schemes, packed=True)
        )
    for name, module in weights_of(source, ".weight").items():
        if source.tensors[name].dtype == "int8" or (f"{name}_scale" in source.tensors and name not in found):
            found[name] = _unpacked(source, module, _scheme_of(source, name, module, schemes, packed=False))
    return found


def _packed(source: Checkpoint, module: str, scheme: Scheme) -> StoredWeight:
    base, count = f"{module}.weight", per_word(scheme.bits)
    parts = {"values": f"{base}_packed", "scale": f"{base}_scale", "shape": f"{base}_shape"}
    rows, words = tensor(source, parts["values"], ("int32",), (None, None), "packed weights").shape
    tensor(source, parts["shape"], ("int64", "int32"), (2,), "the rows and columns that are packed")
    shape = tuple(int(size) for size in source.read(parts["shape"]))
    if shape[0] != rows or -(-shape[1] // count) != words:
        what = f"says {list(shape)}, and {parts['values']} holds {rows} rows of {words} words of {count}"
        refuse(source, parts["shape"], f"{what}; fetch the weights again")
    return _weight(PackedWeight, source, parts, scheme, (rows, shape[1]), -(-rows // count), "int32")


def _unpacked(source: Checkpoint, module: str, scheme: Scheme) -> StoredWeight:
    base = f"{module}.weight"
    rows, columns = tensor(source, base, ("int8",), (None, None), "a quantized weight").shape
    return _weight(
        Int8Weight, source, {"values": base, "scale": f"{base}_scale"}, scheme, (rows, columns), rows, "int8"
    )


def _weight(
    kind: type[StoredWeight],
    source: Checkpoint,
    parts: dict[str, str],
    scheme: Scheme,
    shape: tuple[int, int],
    zero_rows: int,
    zero_dtype: str,
) -> StoredWeight:
    """Checks what stands beside the values."""
    rows, columns = shape
    base = parts["scale"].removesuffix("_scale")
    groups = 1 if scheme.group is None else -(-columns // scheme.group)
    why = f"{rows} rows, {columns} columns of {scheme.bits} bits in groups of {scheme.group or columns}"
    scale_shape = one_number(source, parts["scale"]) if scheme.one_scale else (rows, groups)
    scales = tensor(source, parts["scale"], SCALE_DTYPES, scale_shape, why)
    zero, index = f"{base}_zero_point", f"{base}_g_idx"
    if not scheme.symmetric:
        tensor(source, zero, (zero_dtype,), (zero_rows, groups), why)
        parts["zero"] = zero
    elif zero in source.tensors:
        if not same_words(source, zero, np.int32(0)):
            refuse(
                source, zero, "has zero points, and the config says that the weights are symmetric; correct one of them"
            )
        parts["no zero"] = zero
    if scheme.ordered or index in source.tensors:
        check_order(source, index, columns, scheme.group)
        parts["index"] = index
    form = integer_format(scheme.bits, scheme.group, scales, zeros=not scheme.symmetric)
    return kind(source, parts, form, shape)


def _schemes(keys: Keys) -> list[Scheme]:
    """The groups of the config; what would need other arithmetic than quantized weights is refused."""
    if keys.get("kv_cache_scheme") is not None:
        keys.refuse("kv_cache_scheme", "a quantized KV cache is not read; use a checkpoint of quantized weights alone")
    keys.section("sparsity_config").choice("format", ("dense",), default="dense")
    if keys.section("transform_config").mapping("config_groups"):
        keys.refuse("transform_config", "rotated weights need rotated activations, which are not computed")
    form = keys.text("format", default="")
    groups = keys.section("config_groups")
    return [_scheme(groups.section(name), form) for name in keys.mapping("config_groups")]


def _scheme(keys: Keys, form: str) -> Scheme:
    for key in ("input_activations", "output_activations"):
        if keys.get(key) is not None:
            keys.refuse(key, "quantized activations (w8a8, w4a8, fp8) are not read; use a checkpoint of w4a16 or w8a16")
    form = keys.choice("format", _FORMATS, default=form or None)
    weights = keys.section("weights")
    weights.choice("type", ("int",), default="int")
    packed = form == "pack-quantized"
    bits = bits_of(weights, (4, 8) if packed else (8,), "num_bits")
    if weights.get("dynamic"):
        weights.refuse("dynamic", "weights that are quantized while the model runs are not read")
    sized = weights.get("group_size") is not None
    size = group_size(weights) if sized else None
    strategy = weights.choice(
        "strategy", ("group", "channel", "tensor"), default="tensor" if not sized else "group" if size else "channel"
    )
    if (strategy == "group") != (size is not None):
        weights.refuse("strategy", f"{strategy} and group_size {weights.get('group_size')} contradict each other")
    symmetric = weights.flag("symmetric", default=True)
    if strategy == "tensor" and not symmetric:
        weights.refuse("strategy", "a zero point for a whole weight is not read; known: group and channel")
    ordered = weights.get("actorder") in (True, "group", "dynamic")
    return Scheme(_targets(keys), packed, bits, size, symmetric, one_scale=strategy == "tensor", ordered=ordered)


def _targets(keys: Keys) -> tuple[str, ...]:
    targets = keys.get("targets")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        keys.refuse("targets", f"a list of names and patterns is expected, not {targets!r}")
    for pattern in (target[3:] for target in targets if target.startswith("re:")):
        try:
            re.compile(pattern)
        except re.error as error:
            keys.refuse("targets", f"{pattern!r} is no regular expression: {error}")
    return tuple(targets)


def _scheme_of(source: Checkpoint, name: str, module: str, schemes: list[Scheme], *, packed: bool) -> Scheme:
    """The group whose targets name the module; a name or pattern counts before "Linear"."""
    named = [scheme for scheme in schemes if scheme.names(module)]
    scheme = next(iter([*named, *(scheme for scheme in schemes if "Linear" in scheme.targets)]), None)
    if scheme is None:
        refuse(source, name, "is quantized, and no group of the quantization_config names its module among its targets")
    if scheme.packed != packed:
        form = _FORMATS[not scheme.packed]
        refuse(source, name, f"has no place in the format {form}, which the quantization_config gives its module")
    return scheme
