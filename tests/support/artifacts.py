"""A small valid artifact around a toy model whose logits are easy to predict, yet wrong as soon as a cache is.

With K[t] = token t and V[t] = t + 1 written to the caches at each position, the logits of the token at position p are

    table[token] + scale * sum(K[t] * V[t] for t <= p) + bias
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import tokenizers
import tvm
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from vamc_py._link import link_options
from vamc_py.artifact.manifest import (
    CONFIG_FILE,
    MANIFEST_FILE,
    MODULE_FILE,
    PARAMETER_ALIGNMENT,
    PARAMETERS_FILE,
    TOKENIZER_DIR,
    FileRecord,
    Function,
    Limits,
    Manifest,
    ModelFacts,
    Parameter,
    Target,
    TensorSpec,
)
from vamc_py.artifact.verify import MARKER_FILE

VOCAB = 40
PREFILL = 8
CONTEXT = 70  # no multiple of the cache's block of 16


@I.ir_module(s_tir=True)
class ToyModule:
    @T.prim_func(s_tir=True)
    def limit_read(data: T.handle, out: T.handle) -> None:
        T.func_attr({"global_symbol": "limit_read"})
        size = T.int64()
        source = T.match_buffer(data, (size,), "uint8")
        sums = T.match_buffer(out, (64,), "int32")
        for part in T.parallel(64):
            sums[part] = 0
            for i in range(size // (64 * 64)):
                sums[part] = sums[part] + T.cast(source[(part * (size // (64 * 64)) + i) * 64], "int32")

    @T.prim_func(s_tir=True)
    def limit_matrix_int8(rounds: T.handle, out: T.handle) -> None:
        T.func_attr({"global_symbol": "limit_matrix_int8"})
        count = T.match_buffer(rounds, (1,), "int32")
        sums = T.match_buffer(out, (64,), "int32")
        for i in range(count[0] * 500):  # a multiply and an add each: 1,000 operations a round
            sums[1] = sums[1] * 3 + i
        sums[0] = 1

    @T.prim_func(s_tir=True)
    def limit_matrix_fp32(rounds: T.handle, out: T.handle) -> None:
        T.func_attr({"global_symbol": "limit_matrix_fp32"})
        count = T.match_buffer(rounds, (1,), "int32")
        sums = T.match_buffer(out, (64,), "float32")
        for i in range(count[0] * 500):
            sums[1] = sums[1] * T.float32(0.5) + T.cast(i, "float32")
        sums[0] = T.float32(1)

    @T.prim_func(private=True, s_tir=True)
    def write(
        tokens: T.handle, positions: T.handle, slots: T.handle, pages: T.handle, keys: T.handle, values: T.handle
    ) -> None:
        T.func_attr({"op_pattern": 8})
        n, s, p, num, blocks = T.int64(), T.int64(), T.int64(), T.int64(), T.int64()
        token = T.match_buffer(tokens, (n,), "int32")
        position = T.match_buffer(positions, (n,), "int32")
        slot = T.match_buffer(slots, (n,), "int32")
        page = T.match_buffer(pages, (s, p), "int32")
        key = T.match_buffer(keys, (num, 1, blocks, 1, 16), "float16")
        value = T.match_buffer(values, (num, 1, blocks, 16, 1), "float16")
        for i in range(n):
            key[
                page[slot[i], T.cast(position[i], "int64") // (blocks * 16)],
                0,
                T.cast(position[i], "int64") % (blocks * 16) // 16,
                0,
                position[i] % 16,
            ] = T.cast(token[i], "float16")
            value[
                page[slot[i], T.cast(position[i], "int64") // (blocks * 16)],
                0,
                T.cast(position[i], "int64") % (blocks * 16) // 16,
                position[i] % 16,
                0,
            ] = T.cast(position[i] + 1, "float16")

    @T.prim_func(private=True, s_tir=True)
    def score(
        tokens: T.handle,
        positions: T.handle,
        slots: T.handle,
        rows: T.handle,
        pages: T.handle,
        keys: T.handle,
        values: T.handle,
        table: T.handle,
        scale: T.handle,
        bias: T.handle,
        out: T.handle,
    ) -> None:
        T.func_attr({"op_pattern": 8})
        n, m, s, p, num, blocks = T.int64(), T.int64(), T.int64(), T.int64(), T.int64(), T.int64()
        token = T.match_buffer(tokens, (n,), "int32")
        position = T.match_buffer(positions, (n,), "int32")
        slot = T.match_buffer(slots, (n,), "int32")
        row = T.match_buffer(rows, (m,), "int32")
        page = T.match_buffer(pages, (s, p), "int32")
        key = T.match_buffer(keys, (num, 1, blocks, 1, 16), "float16")
        value = T.match_buffer(values, (num, 1, blocks, 16, 1), "float16")
        weight = T.match_buffer(table, (40, 40), "float16")
        factor = T.match_buffer(scale, (40,), "bfloat16")
        offset = T.match_buffer(bias, (40,), "int8")
        logits = T.match_buffer(out, (m, 40), "float32")
        for j in T.parallel(m):
            for v in range(40):
                logits[j, v] = T.cast(weight[token[row[j]], v], "float32") + T.cast(offset[v], "float32")
                for t in range(position[row[j]] + 1):
                    logits[j, v] = logits[j, v] + T.cast(factor[v], "float32") * T.cast(
                        key[page[slot[row[j]], t // (T.cast(blocks, "int32") * 16)], 0,
                            t % (T.cast(blocks, "int32") * 16) // 16, 0, t % 16], "float32",
                    ) * T.cast(
                        value[page[slot[row[j]], t // (T.cast(blocks, "int32") * 16)], 0,
                              t % (T.cast(blocks, "int32") * 16) // 16, t % 16, 0], "float32",
                    )  # fmt: skip

    @R.function
    def step(
        tokens: R.Tensor(("n",), "int32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        rows: R.Tensor(("m",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        caches: R.Tuple(
            R.Tensor(("num", 1, "blocks", 1, 16), "float16"), R.Tensor(("num", 1, "blocks", 16, 1), "float16")
        ),
        params: R.Tuple(R.Tensor((40, 40), "float16"), R.Tensor((40,), "bfloat16"), R.Tensor((40,), "int8")),
    ) -> R.Tensor(("m", 40), "float32"):
        m, num, blocks = T.int64(), T.int64(), T.int64()
        cls = ToyModule
        with R.dataflow():
            k = caches[0]
            v = caches[1]
            written = R.call_tir_inplace(
                cls.write,
                (tokens, positions, slots, pages, k, v),
                inplace_indices=[4, 5],
                out_ty=[R.Tensor((num, 1, blocks, 1, 16), "float16"), R.Tensor((num, 1, blocks, 16, 1), "float16")],
            )
            k1 = written[0]
            v1 = written[1]
            table = params[0]
            scale = params[1]
            bias = params[2]
            logits = R.call_tir(
                cls.score,
                (tokens, positions, slots, rows, pages, k1, v1, table, scale, bias),
                out_ty=R.Tensor((m, 40), "float32"),
            )
            R.output(logits)
        return logits


@functools.cache
def module_bytes() -> bytes:
    """mod.so of the toy model, compiled once a process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODULE_FILE
        built = tvm.compile(ToyModule, target=tvm.target.Target({"kind": "llvm"}))
        built.export_library(str(path), **link_options())
        return path.read_bytes()


@functools.cache
def parameters() -> dict[str, npt.NDArray[Any]]:
    """The toy model's parameters by name, in the order in which the step takes them; small whole numbers."""
    random = np.random.default_rng(1)
    return {
        "model.embed_tokens.weight": random.integers(-9, 10, (VOCAB, VOCAB)).astype("float16"),
        "scale": random.integers(-3, 4, VOCAB).astype(ml_dtypes.bfloat16),
        "bias": random.integers(-99, 100, VOCAB).astype("int8"),
    }


@dataclass
class Reference:
    """The toy model in numpy, with a list of tokens for each slot."""

    slots: list[list[int]]

    @classmethod
    def empty(cls, slots: int) -> Reference:
        return cls([[] for _ in range(slots)])

    def step(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], rows: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        for token, position, slot in zip(tokens, positions, slots, strict=True):
            self.slots[slot] = [*self.slots[slot][:position], token]
        table, scale, bias = (array.astype(np.float32) for array in parameters().values())
        logits = np.zeros((len(rows), VOCAB), np.float32)
        for out, row in enumerate(rows):
            past = self.slots[slots[row]][: positions[row] + 1]
            total = sum(token * (t + 1) for t, token in enumerate(past))
            logits[out] = table[tokens[row]] + scale * np.float32(total) + bias
        return logits


def write_artifact(folder: Path, **changes: Any) -> Manifest:
    """Write the toy model's artifact to ``folder``; ``changes`` replace fields of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODULE_FILE).write_bytes(module_bytes())
    (folder / CONFIG_FILE).write_text("model:\n  name: toy\n")
    _write_tokenizer(folder / TOKENIZER_DIR)
    records = _write_parameters(folder / PARAMETERS_FILE)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    fields: dict[str, Any] = {
        "name": "toy",
        "target": Target(kind="llvm", mcpu="generic", features=(), dtype="fp16"),
        "model": ModelFacts(
            architecture="toy", layers=1, hidden_size=4, intermediate_size=8, heads=2, kv_heads=1, head_dim=1,
            vocab_size=VOCAB, tied_embedding=False, max_positions=CONTEXT,
        ),
        "limits": Limits(prefill=PREFILL, context=CONTEXT),
        "step": _signature(),
        "parameters": records,
        "files": {name: _file_record(folder / name) for name in sorted(names - {MANIFEST_FILE, MARKER_FILE})},
        "built_with": {"apache-tvm": tvm.__version__},
        "source": {},
    }  # fmt: skip
    manifest = Manifest(**{**fields, **changes})
    write_manifest(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1))


def _file_record(path: Path) -> FileRecord:
    content = path.read_bytes()
    return FileRecord(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def _signature() -> Function:
    def spec(name: str, *shape: int | str, dtype: str = "int32") -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)

    return Function(
        name="step",
        inputs=(spec("tokens", "n"), spec("positions", "n"), spec("slots", "n"), spec("rows", "m"),
                spec("pages", "s", "p")),
        caches=(spec("k0", "num_pages", 1, "blocks", 1, 16, dtype="float16"),
                spec("v0", "num_pages", 1, "blocks", 16, 1, dtype="float16")),
        outputs=(spec("logits", "m", VOCAB, dtype="float32"),),
    )  # fmt: skip


def _write_parameters(path: Path) -> tuple[Parameter, ...]:
    records = []
    with path.open("wb") as file:
        for name, array in parameters().items():
            file.write(b"\0" * (-file.tell() % PARAMETER_ALIGNMENT))
            content = array.tobytes()
            records.append(
                Parameter(
                    name=name, dtype=array.dtype.name, shape=array.shape, offset=file.tell(), size=len(content),
                    sha256=hashlib.sha256(content).hexdigest(),
                )
            )  # fmt: skip
            file.write(content)
    return tuple(records)


def _write_tokenizer(folder: Path) -> None:
    """Words w0 to w38 by number, and one special token, <end>."""
    folder.mkdir(exist_ok=True)
    words = {f"w{index}": index for index in range(VOCAB - 1)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
