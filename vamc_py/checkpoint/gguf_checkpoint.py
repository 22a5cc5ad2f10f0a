"""A GGUF file as a checkpoint: Hugging Face names, float32 rows, a tied embedding found again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from vamc_py.checkpoint import gguf_config
from vamc_py.checkpoint.base import Checkpoint, TensorInfo, row_range
from vamc_py.checkpoint.gguf_file import GgufFile
from vamc_py.checkpoint.gguf_names import huggingface_name, layers
from vamc_py.checkpoint.gguf_tokenizer import save_tokenizer
from vamc_py.errors import CheckpointError

EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
_CHUNK = 1 << 20  # weights dequantized at once: gguf's temporaries are several times as large as its result
_SAMPLED_ROWS = 64


class GgufCheckpoint(Checkpoint):
    """Every tensor is float32: dequantized by the gguf library when rows are read."""

    def __init__(self, path: Path) -> None:
        """Reads the header; CheckpointError for damage, and for architectures and types that cannot be read."""
        self.path = self.config_file = path
        self._file = GgufFile(path)
        metadata = gguf_config.Metadata(path, self._file.metadata)
        self._metadata = metadata
        arch = gguf_config.architecture(metadata)
        _check_types(self._file)
        if "rope_freqs.weight" in self._file.tensors:
            what = "rope_freqs.weight scales the rotary embedding (rope type llama3)"
            raise CheckpointError(f"{path}: {what}; only models with the default rope type or YaRN can be compiled")
        self._stored = {huggingface_name(name): name for name in self._file.tensors}
        vocab_size = self._vocab_size()
        tied = self._tie()
        self.config = gguf_config.model_config(metadata, vocab_size=vocab_size, tied=tied)
        self.generation_config = gguf_config.generation_config(metadata, vocab_size=vocab_size)
        self._check_layers()
        # llama.cpp interleaves the two halves of llama's q and k heads.
        self._interleaved_head = self.config["head_dim"] if arch == "llama" else 0
        shapes = {name: self._file.tensors[stored].shape for name, stored in self._stored.items()}
        self.tensors = {name: TensorInfo(name, shape, "float32") for name, shape in shapes.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        start, stop = row_range(self.tensors[name], start, stop)
        values = self._read(name, np.arange(start, stop))
        if not np.isfinite(values).all():
            row = start + int(np.argwhere(~np.isfinite(values))[0][0])
            what = f"{self._stored[name]} has values that are no numbers, first in row {row}"
            raise CheckpointError(f"{self.path} is damaged: {what}; fetch it again")
        return values

    def file_of(self, name: str) -> Path:
        return self.path

    def save_tokenizer(self, folder: Path) -> None:
        save_tokenizer(self._metadata, folder)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._file.header())
        digest.update(self.path.stat().st_size.to_bytes(8, "little"))
        for sample in self._file.samples():
            digest.update(sample)
        return digest.hexdigest()

    def _read(self, name: str, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """The rows of these numbers, a chunk at a time."""
        tensor = self._file.tensors[self._stored[name]]
        rows = self._stored_rows(name, rows)
        if len(tensor.shape) < 2:
            return _dequantize(self._file.rows(tensor.name, slice(None)), tensor.kind).reshape(-1)[rows]
        values = np.empty((len(rows), *tensor.shape[1:]), np.float32)
        inner = tensor.rows // tensor.shape[0]  # stored rows to one of the first axis: 1 in a matrix
        chunk = max(1, _CHUNK // (inner * tensor.shape[-1]))
        for at in range(0, len(rows), chunk):
            stored = rows[at : at + chunk, None] * inner + np.arange(inner)
            raw = self._file.rows(tensor.name, stored.reshape(-1))
            values[at : at + chunk] = _dequantize(raw, tensor.kind).reshape(-1, *tensor.shape[1:])
        return values

    def _stored_rows(self, name: str, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Where the rows are in the file: llama's q and k row (head, half, i) is stored at (head, i, half)."""
        size = self._interleaved_head
        if not size or (".self_attn.q_proj." not in name and ".self_attn.k_proj." not in name):
            return rows
        head, half, index = rows // size, rows % size // (size // 2), rows % (size // 2)
        stored: npt.NDArray[np.intp] = head * size + index * 2 + half
        if len(stored) and stored.max() >= self.tensors[name].shape[0]:
            what = f"{self._stored[name]} has {self.tensors[name].shape[0]} rows, no multiple of the head size {size}"
            raise CheckpointError(f"{self.path} is damaged: {what}; fetch it again")
        return stored

    def _vocab_size(self) -> int:
        embedding = self._file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise CheckpointError(f"{self.path} has no matrix token_embd.weight; fetch a whole model")
        return embedding.shape[0]

    def _tie(self) -> bool:
        """Whether the embedding is the lm_head too; then the finer of the two stands for both.

        Quantizers store a tied matrix twice, output.weight often in more bits: logits computed with the coarser copy
        differ in the first digit. No metadata says that a model is tied, so: two matrices of one shape are copies of
        each other if they differ by no more than the coarser one's quantization explains. For b bits a weight that is
        about 1.7 / 2^b of the values (root mean square; steps of 6 sigma / 2^b, whose error is a step / sqrt(12));
        the limit is twice that, and a half at most. Matrices trained apart differ by more than their own size.
        """
        head = self._stored.get(LM_HEAD)
        if head is None:
            return True
        pair = [self._file.tensors[self._stored[EMBEDDING]], self._file.tensors[head]]
        if pair[0].shape != pair[1].shape:
            return False
        coarse, fine = sorted(pair, key=lambda tensor: tensor.bits_per_weight)
        rows = np.unique(np.linspace(0, fine.rows - 1, min(fine.rows, _SAMPLED_ROWS)).astype(np.intp))
        exact = _dequantize(self._file.rows(fine.name, rows), fine.kind)
        with np.errstate(all="ignore"):
            error = np.linalg.norm(_dequantize(self._file.rows(coarse.name, rows), coarse.kind) - exact)
            limit = min(0.5, 3.5 / 2 ** min(8, int(coarse.bits_per_weight)))
            tied = bool(error <= limit * np.linalg.norm(exact))
        if tied:
            del self._stored[LM_HEAD]
            self._stored[EMBEDDING] = fine.name
        return tied

    def _check_layers(self) -> None:
        """The metadata and the tensors agree on the number of layers, so that nobody builds a million layers."""
        found, told = layers(list(self._file.tensors)), self.config["num_hidden_layers"]
        if found != told:
            what = f"the metadata says {told} layers and the tensors are those of {found}"
            raise CheckpointError(f"{self.path}: {what}; fetch the file again")


def _dequantize(raw: npt.NDArray[np.uint8], kind: gguf.GGMLQuantizationType) -> npt.NDArray[np.float32]:
    """float32 values of stored rows, [rows, columns]."""
    with np.errstate(all="ignore"):  # damaged scales may be infinite; read() looks at the result
        values: npt.NDArray[np.float32] = gguf.dequantize(raw, kind)
    return values


def _check_types(file: GgufFile) -> None:
    """The gguf library can dequantize every tensor's type: tried on one block of zeros each."""
    for tensor in {tensor.kind: tensor for tensor in file.tensors.values()}.values():
        _, size = gguf.GGML_QUANT_SIZES[tensor.kind]
        try:
            gguf.dequantize(np.zeros((1, size), np.uint8), tensor.kind)
        except NotImplementedError as error:
            hint = "use another quantization of the model"
            raise CheckpointError(f"{file.path}: {tensor.name} has the type {tensor.kind.name}; {hint}") from error
