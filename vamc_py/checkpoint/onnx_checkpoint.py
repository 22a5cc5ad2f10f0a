"""An ONNX file as a checkpoint: its initializers under the names of the checkpoint it was exported from."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy.typing as npt
from onnx import NodeProto

from vamc_py.checkpoint.base import Checkpoint, TensorInfo, hash_parts, row_range
from vamc_py.checkpoint.huggingface_tokenizer import TOKENIZER_FILES, save_tokenizer
from vamc_py.checkpoint.jsonfile import read_json_object
from vamc_py.checkpoint.onnx_config import derived_config
from vamc_py.checkpoint.onnx_file import OnnxFile
from vamc_py.checkpoint.onnx_roles import Roles, find_roles
from vamc_py.errors import CheckpointError
from vamc_py.weights.formats import SCALE, WeightFormat

QUANTIZED_LINEAR = "QuantizedLinearPerChannel"
_FILES = ("iter1.onnx", "iter0.onnx")  # decode first: it says what the past is
_MADE_UP = re.compile(r"^(onnx::|_|val_|\d)")  # names that exporters give to what they computed


class OnnxCheckpoint(Checkpoint):
    """``file``: the graph; ``roles``: what its inputs and results are; ``names``: tensor by initializer.

    A tensor is [N, K] where a linear layer uses it, also where exporters have stored it transposed: then it is in
    ``transposed``, and a row of it is a column in the file.
    """

    def __init__(self, path: Path) -> None:
        """Reads the graph and the JSON files beside it; CheckpointError for what cannot be read or is no such model."""
        self.path = _graph_file(path)
        self.file = OnnxFile(self.path)
        self.roles: Roles = find_roles(self.file)
        self.transposed: set[str] = set()
        self.names: dict[str, str] = {}
        self._scales: dict[str, str] = {}
        self._name_all()
        self._initializers = {name: initializer for initializer, name in self.names.items()}
        self.tensors = {name: self._info(name) for name in self._initializers}
        self.quantized = {self.names[weight]: WeightFormat("int8") for weight in self._scales}
        self._check_scales()
        beside = self._beside("config.json")
        self.config_file = beside or self.path
        self.config = read_json_object(beside) if beside else derived_config(self.path, self.roles, self.tensors)
        self.config = {**self.config, "tie_word_embeddings": "lm_head.weight" not in self.tensors}
        generation = self._beside("generation_config.json")
        self.generation_config = read_json_object(generation) if generation else {}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        start, stop = row_range(self.tensors[name], start, stop)
        initializer = self._initializers[name]
        values = self.file.array(initializer)
        if initializer in self.transposed:
            values = values.T
        return values[start:stop] if values.ndim else values

    def file_of(self, name: str) -> Path:
        return self.file.stored[self._initializers[name]].file

    def save_tokenizer(self, folder: Path) -> None:
        found = self._beside("tokenizer.json")
        if found is None:
            raise CheckpointError(
                f"{self.path.parent} has no tokenizer.json, and no folder tokenizer with one, beside the graph; copy "
                "the model's tokenizer.json and tokenizer_config.json there"
            )
        save_tokenizer(found.parent, folder)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.file.model.SerializeToString(deterministic=True))
        for name in ("config.json", "generation_config.json", *TOKENIZER_FILES):
            found = self._beside(name)
            if found:
                hash_parts(digest, name.encode(), found.read_bytes())
        for file in self.file.files():
            hash_parts(digest, file.name.encode(), str(file.stat().st_size).encode())
        hash_parts(digest, *self.file.samples())
        return digest.hexdigest()

    def _beside(self, name: str) -> Path | None:
        """A file in the graph's folder, or in the folder ``tokenizer`` there."""
        folder = self.path.parent
        return next((path for path in (folder / name, folder / "tokenizer" / name) if path.is_file()), None)

    def _info(self, name: str) -> TensorInfo:
        initializer = self._initializers[name]
        stored = self.file.stored[initializer]
        shape = stored.shape[::-1] if initializer in self.transposed else stored.shape
        return TensorInfo(name, shape, stored.dtype.name)

    def _name_all(self) -> None:
        """Gives each initializer its name, by its own or by the layer whose node uses it."""
        uses = _uses(self.file)
        for initializer, stored in self.file.stored.items():
            nodes = uses[initializer]
            columns_first = bool(nodes) and all(_takes_columns(node, position) for node, position in nodes)
            if len(stored.shape) == 2 and columns_first:
                self.transposed.add(initializer)
            for node, position in nodes:
                if node.op_type == QUANTIZED_LINEAR and position == 1 and len(node.input) == 3:
                    self._scales[initializer] = node.input[2]
        wanted = {}
        for initializer in self.file.stored:
            made_up = _MADE_UP.match(initializer) and uses[initializer]
            wanted[initializer] = (_name_of_layer(uses[initializer][0][0]) if made_up else None) or initializer
        prefix = _prefix(wanted.values())
        wanted = {initializer: name.removeprefix(prefix) for initializer, name in wanted.items()}
        wanted |= {scale: wanted[weight] + SCALE for weight, scale in self._scales.items() if scale in wanted}
        taken: set[str] = set()
        for initializer, name in wanted.items():
            self.names[initializer] = initializer if name in taken else name
            taken.add(self.names[initializer])

    def _check_scales(self) -> None:
        for weight, scale in self._scales.items():
            name = self.names[weight]
            named = self.names.get(scale) == name + SCALE  # else another weight has it, too
            info, scales = self.tensors[name], self.tensors[name + SCALE] if named else None
            if info.dtype != "int8" or len(info.shape) != 2:
                what = f"{name} of a {QUANTIZED_LINEAR} is {info.dtype} {list(info.shape)}, not int8 [N, K]"
                raise CheckpointError(f"{self.path}: {what}")
            if scales is None or scales.shape != info.shape[:1] or not scales.dtype.startswith("float"):
                said = f"{scales.dtype} {list(scales.shape)}" if scales else "no tensor of its own"
                raise CheckpointError(f"{self.path}: the scale of {name} is {said} ({scale}), not float [N]")


def _uses(file: OnnxFile) -> dict[str, list[tuple[NodeProto, int]]]:
    """The nodes that read each initializer, and as which argument, through casts."""
    behind = {name: name for name in file.stored}
    uses: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
    for node in file.model.graph.node:
        for position, name in enumerate(node.input):
            if name not in behind:
                continue
            if node.op_type in ("Cast", "Identity"):
                behind[node.output[0]] = behind[name]
            else:
                uses[behind[name]].append((node, position))
    return uses


def _takes_columns(node: NodeProto, position: int) -> bool:
    """Whether a node multiplies with its argument as it is: [K, N]."""
    if node.op_type == "Gemm":
        return position == 1 and not any(one.name == "transB" and one.i for one in node.attribute)
    return bool(node.op_type == "MatMul" and position == 1)


def _name_of_layer(node: NodeProto) -> str | None:
    """``/model/layers.0/mlp/up_proj/MatMul``, as torch.onnx names it -> ``model.layers.0.mlp.up_proj.weight``."""
    path, _, kind = node.name.rpartition("/")
    if not path.startswith("/") or not kind.startswith(("MatMul", "Gemm", QUANTIZED_LINEAR)):
        return None
    return f"{path[1:].replace('/', '.')}.weight"


def _prefix(names: Iterable[str]) -> str:
    """What stands before ``model.layers.0.`` in the names, where a wrapper around the model was exported."""
    found = (re.match(r"(.*\.)?model\.layers\.0\.", name) for name in names)
    return next((match[1] or "" for match in found if match), "")


def _graph_file(path: Path) -> Path:
    """The file itself, or the graph to read in a folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"there is no ONNX file {path}")
    known = [path / name for name in _FILES if (path / name).is_file()]
    files = known or sorted(path.glob("*.onnx"))
    if not files:
        raise CheckpointError(f"{path} has no .onnx file; name the file, or the folder that holds iter0 and iter1")
    if not known and len(files) > 1:
        listed = ", ".join(file.name for file in files)
        raise CheckpointError(f"{path} has several graphs ({listed}) and neither iter0.onnx nor iter1.onnx; name one")
    return files[0]
