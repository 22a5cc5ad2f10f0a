"""Reading an ONNX file without its weights: the tensors inside it become references to where they lie.

onnx.load reads a whole file, weights and all. A protobuf message can be walked without decoding it, since each field
says its length (https://protobuf.dev/programming-guides/encoding); this walks model, graph and tensor, and leaves
the rest to the onnx package.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError

from vamc_py.errors import CheckpointError

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_TENSOR_PLACE = (13, 14)  # external_data, data_location
_LEAST_REFERRED = 1024  # bytes; smaller tensors stay in the message
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    number: int
    kind: int
    start: int  # of the tag
    content: int  # of the value; for bytes, behind their length
    end: int


def load_without_weights(path: Path) -> onnx.ModelProto:
    """The model of a file; the raw data of its larger tensors is external data, in the file itself.

    CheckpointError for a file that cannot be read or is none of ONNX.
    """
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty; export or fetch it again")
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    try:
        model = onnx.ModelProto.FromString(_light_model(data, path.name))
    except (DecodeError, _DamagedError) as error:
        raise CheckpointError(f"{path} is no ONNX model, or damaged; export or fetch it again") from error
    if not all(isinstance(text, str) for text in _texts(model)):  # bytes: no UTF-8
        raise CheckpointError(f"{path} is damaged: a name in it is no text; export or fetch it again")
    if not model.graph.node:
        raise CheckpointError(f"{path} is no ONNX model: it has no graph; export or fetch it again")
    return model


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """The names in a model, which protobuf gives as bytes where they are no text."""
    for node in model.graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for value in [*model.graph.input, *model.graph.output]:
        yield value.name
    for tensor in model.graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)


class _DamagedError(Exception):
    """A field that ends outside of its message."""


def _light_model(data: memoryview, name: str) -> bytes:
    parts: list[bytes] = []
    for field in _fields(data, 0, len(data)):
        if field.number == _MODEL_GRAPH and field.kind == _BYTES:
            parts.append(_delimited(_MODEL_GRAPH, _light_graph(data, field, name)))
        else:
            parts.append(bytes(data[field.start : field.end]))
    return b"".join(parts)


def _light_graph(data: memoryview, graph: _Field, name: str) -> bytes:
    parts: list[bytes] = []
    for field in _fields(data, graph.content, graph.end):
        if field.number == _GRAPH_INITIALIZER and field.kind == _BYTES:
            parts.append(_delimited(_GRAPH_INITIALIZER, _light_tensor(data, field, name)))
        else:
            parts.append(bytes(data[field.start : field.end]))
    return b"".join(parts)


def _light_tensor(data: memoryview, tensor: _Field, name: str) -> bytes:
    fields = list(_fields(data, tensor.content, tensor.end))
    raw = next((field for field in fields if field.number == _TENSOR_RAW_DATA), None)
    if raw is None or raw.end - raw.content < _LEAST_REFERRED:
        return bytes(data[tensor.content : tensor.end])
    reference = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": name, "offset": raw.content, "length": raw.end - raw.content}.items():
        reference.external_data.add(key=key, value=str(value))
    kept = [field for field in fields if field.number not in (_TENSOR_RAW_DATA, *_TENSOR_PLACE)]
    return b"".join([*(bytes(data[field.start : field.end]) for field in kept), reference.SerializeToString()])


def _fields(data: memoryview, start: int, end: int) -> Iterator[_Field]:
    """The fields of the message in data[start:end]."""
    while start < end:
        tag, at = _varint(data, start, end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            content, stop = at, _varint(data, at, end)[1]
        elif kind == _BYTES:
            length, content = _varint(data, at, end)
            stop = content + length
        elif kind in (_FIXED64, _FIXED32):
            content, stop = at, at + (8 if kind == _FIXED64 else 4)
        else:
            raise _DamagedError
        if stop > end:
            raise _DamagedError
        yield _Field(number, kind, start, content, stop)
        start = stop


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """The number that starts there, and where it ends."""
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
    raise _DamagedError


def _delimited(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    head, length = bytearray([number << 3 | _BYTES]), len(content)
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + content
