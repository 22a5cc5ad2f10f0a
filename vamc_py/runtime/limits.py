"""What this machine can do at most, measured, and what a model asks of it at least.

The measuring loops are plain functions inside the artifact's module, so that they run with the instructions and on the
threads that the model uses:

- ``limit_read(data uint8[size], out int32[64])`` reads all of ``data``.
- ``limit_matrix_int8(rounds int32[1], out int32[64])``, ``limit_matrix_fp32(rounds int32[1], out float32[64])`` and,
  in a module that has bfloat16 products, ``limit_matrix_bf16`` like that of fp32 multiply and add in registers only;
  ``out[0]`` is then thousands of operations a round, over all threads together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import psutil

from vamc_py.artifact.manifest import Manifest, ModelFacts, Parameter, TensorSpec
from vamc_py.errors import ArtifactError
from vamc_py.runtime import memory
from vamc_py.runtime.cache import BLOCK

_READ_BYTES = 1 << 30  # several times any last-level cache
_SMALLEST_READ = 1 << 26
_CALL_SECONDS = 0.05  # a measuring call's length: long against starting the threads, short against the machine's moods
_MOST_ROUNDS = 1 << 21  # far from overflowing the loops' int32 counters
_OUT = 64  # entries of the loops' output


class Caller(Protocol):
    """What has the loops: an executor, or a module of nothing else."""

    def call(self, name: str, *arrays: npt.NDArray[Any]) -> None:
        """Run the loop ``name`` on aligned arrays (``memory.zeros``), on the threads that are measured."""


class ReadLimit:
    """The machine's read bandwidth."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        size = max(_SMALLEST_READ, min(_READ_BYTES, psutil.virtual_memory().available // 4))
        self._data = memory.zeros((size,), "uint8")
        self._data.fill(1)  # pages never written are all one page of zeros, which the cache would hold
        self._out = memory.zeros((_OUT,), "int32")

    def measure(self) -> float:
        """Bytes a second of one pass over the data."""
        return len(self._data) / _seconds(self._caller, "limit_read", self._data, self._out)


class MatrixLimit:
    """The machine's peak of multiply-add operations on ``kind``: one of ``matrix_kinds``."""

    def __init__(self, caller: Caller, kind: str) -> None:
        self._caller = caller
        self._name = f"limit_matrix_{kind}"
        self._rounds = memory.zeros((1,), "int32")
        self._out = memory.zeros((_OUT,), "int32" if kind == "int8" else "float32")
        self._rounds[0] = 1
        self._call()  # not measured: the first call may have to start the threads
        while (seconds := self._call()) < _CALL_SECONDS / 4:
            if self._rounds[0] >= _MOST_ROUNDS:
                raise ArtifactError(f"{self._name}: {self._rounds[0]} rounds take only {seconds} s; it does no work")
            self._rounds[0] *= 2

    def _call(self) -> float:
        return _seconds(self._caller, self._name, self._rounds, self._out)

    def measure(self) -> float:
        """Operations a second, a multiply and an add counted as two."""
        seconds = self._call()
        return float(self._out[0]) * 1e3 * int(self._rounds[0]) / seconds


def _seconds(caller: Caller, name: str, *arrays: npt.NDArray[Any]) -> float:
    start = time.perf_counter()
    caller.call(name, *arrays)
    return time.perf_counter() - start


def matrix_kinds(features: Collection[str]) -> tuple[str, ...]:
    """The kinds of peaks that a module with these CPU features has a loop for: "int8", "fp32" and perhaps "bf16"."""
    return ("int8", "fp32", "bf16") if "avx512bf16" in features else ("int8", "fp32")


def matrix_kind(manifest: Manifest, tokens: int) -> str:
    """Whose instruction's peak bounds a prefill of so many tokens.

    "int8" for an int8 build, or "bf16" where its int8 weights meet activations of that type; else "fp32". (Activations
    of 16 bits take two int8 products for one, so their prefill can reach half of the peak.)
    """
    if manifest.target.dtype != "int8":
        return "fp32"
    wide = min(tokens, manifest.limits.prefill) <= manifest.wide_rows
    return "bf16" if manifest.activation == "bf16" and not wide else "int8"


@dataclass(frozen=True)
class Work:
    """What one measured piece of work needs at least."""

    read: float  # bytes from memory
    operations: float  # multiplies and adds


def prefill_work(manifest: Manifest, tokens: int) -> Work:
    """Feeding ``tokens`` from position 0 on, with the logits of the last one.

    ``operations`` = 2 x tokens x (weights of the linears up to the last attention) + 2 x (weights behind it, lm_head
    included) + layers x 4 x heads x head_dim x tokens x (tokens + 1) / 2. The last term is attention: a product with
    each key and one with each value, for the positions up to the token's own. ``read`` = all parameters once.
    """
    model = manifest.model
    attention = model.layers * 4 * model.heads * model.head_dim * tokens * (tokens + 1) // 2
    behind = _behind_attention(model)
    everywhere = linear_weights(model) - behind
    operations = 2 * everywhere * tokens + 2 * (behind + model.hidden_size * model.vocab_size) + attention
    return Work(read=_parameter_bytes(manifest), operations=operations)


def decode_work(manifest: Manifest, context: int, tokens: int) -> Work:
    """Decoding ``tokens`` one at a time, after ``context`` positions.

    ``read`` = tokens x (bytes of all parameters; of an embedding that is not also the lm_head, one row only)
    + the KV cache up to each token's own position.
    """
    model = manifest.model
    operations = 2 * tokens * (linear_weights(model) + model.hidden_size * model.vocab_size)
    positions = sum(context + index + 1 for index in range(tokens))
    operations += model.layers * 4 * model.heads * model.head_dim * positions
    return Work(
        read=tokens * _parameter_bytes(manifest) + positions * cache_bytes_per_position(manifest),
        operations=operations,
    )


def linear_weights(model: ModelFacts) -> int:
    """Weights of the layers' linears: q, k, v, o, gate, up and down."""
    before = model.hidden_size * model.head_dim * (model.heads + 2 * model.kv_heads)
    return model.layers * (before + _behind_attention(model))


def _behind_attention(model: ModelFacts) -> int:
    """Weights of o, gate, up and down of one layer: what the last layer needs for the wanted tokens only."""
    return model.hidden_size * (model.heads * model.head_dim + 3 * model.intermediate_size)


def _parameter_bytes(manifest: Manifest) -> float:
    """Bytes of parameters that one step has to read, however few tokens it has."""
    return sum(_read_of(parameter, manifest.model) for parameter in manifest.parameters)


def _read_of(parameter: Parameter, model: ModelFacts) -> float:
    if "embed_tokens" in parameter.name and not model.tied_embedding:
        return parameter.size / model.vocab_size
    return parameter.size


def cache_bytes_per_position(manifest: Manifest) -> int:
    """Bytes that all caches hold for one position of one sequence, the scales of int8 ones among them."""
    return sum(_bytes_per_position(spec) for spec in manifest.step.caches)


def _bytes_per_position(cache: TensorSpec) -> int:
    """Of [pages, heads, blocks of 16 positions, …]: what is in a block / 16."""
    heads, *block = (extent for extent in cache.shape if isinstance(extent, int))
    return heads * math.prod(block) * np.dtype(cache.dtype).itemsize // BLOCK
