"""What the inputs and results of a decoder's ONNX graph are: found by their names, checked by their shapes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from vamc_py.checkpoint.onnx_file import OnnxFile
from vamc_py.errors import CheckpointError

_PART = re.compile(r"(?:^|[._/])(?:(k|key|keys)|(v|value|values))(?:$|[._/\d])", re.IGNORECASE)
Dims = tuple[int | None, ...]


@dataclass(frozen=True)
class Roles:
    """Names, and the lengths of a graph of fixed lengths (None: dynamic).

    ``past`` is empty in a prefill graph, which has none; ``past_length`` is then 0.
    """

    input_ids: str
    attention_mask: str
    position_ids: str
    past: tuple[tuple[str, str], ...]
    logits: str
    present: tuple[tuple[str, str], ...]
    new_length: int | None
    past_length: int | None
    kv_heads: int
    head_dim: int

    @property
    def layers(self) -> int:
        return len(self.present)


def find_roles(file: OnnxFile) -> Roles:
    """CheckpointError for a graph that is no step of a decoder with a KV cache, one sequence at a time."""
    inputs = {value.name: _dims(value) for value in file.inputs}
    outputs = {value.name: _dims(value) for value in file.model.graph.output}
    masks = [name for name in inputs if "mask" in name.lower()]
    positions = [name for name in inputs if "position" in name.lower()]
    caches = {name: dims for name, dims in inputs.items() if len(dims) == 4 and name not in masks}
    ids = [name for name in inputs if name not in {*masks, *positions, *caches}]
    for what, found in (("input_ids", ids), ("attention_mask", masks), ("position_ids", positions)):
        if len(found) != 1:
            said = ", ".join(f"{name} {_text(dims)}" for name, dims in inputs.items())
            raise CheckpointError(
                f"{file.path}: one input {what} is needed; the graph has {said}. What compiles is a step of one "
                "sequence: input_ids, attention_mask [1, 1, n, p + n], position_ids, past keys and values by layer"
            )
    # Exporters leave out the shapes of results behind operators that they do not know.
    logits = next((name for name in outputs if "logits" in name.lower()), next(iter(outputs)))
    past = _pairs(file, "inputs", list(caches))
    present = _pairs(file, "results", [name for name in outputs if name != logits])
    if not present or (past and len(past) != len(present)):
        raise CheckpointError(
            f"{file.path}: keys and values of {len(past)} layers come in and of {len(present)} go out; a graph with a "
            "KV cache is needed, exported with use_cache"
        )
    _check_dims(file, ids[0], inputs[ids[0]], (1, None))
    _check_dims(file, positions[0], inputs[positions[0]], (1, None))
    _check_dims(file, masks[0], inputs[masks[0]], (1, 1, None, None))
    shape = outputs[present[0][0]] if not past else inputs[past[0][0]]
    kv_heads, head_dim = (shape[1], shape[3]) if len(shape) == 4 else (None, None)
    if not kv_heads or not head_dim:
        raise CheckpointError(
            f"{file.path}: keys and values are {_text(shape)}; [1, KV heads, positions, head size] is needed, with "
            "numbers for KV heads and head size"
        )
    for pair in past:
        for name in pair:
            _check_dims(file, name, inputs[name], (1, kv_heads, None, head_dim))
    return Roles(
        input_ids=ids[0],
        attention_mask=masks[0],
        position_ids=positions[0],
        past=past,
        logits=logits,
        present=present,
        new_length=inputs[ids[0]][1],
        past_length=inputs[past[0][0]][2] if past else 0,
        kv_heads=kv_heads,
        head_dim=head_dim,
    )


def _pairs(file: OnnxFile, what: str, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(key, value) of each layer: by number and part where the names have them, else as they come, in turns."""
    if len(names) % 2:
        raise CheckpointError(f"{file.path}: the {what} have an odd number of keys and values: {', '.join(names)}")
    known = [_layer_and_part(name) for name in names]
    if None not in known and len(set(known)) == len(names):
        by_role = dict(zip(known, names, strict=True))
        layers = sorted({role[0] for role in known if role})
        if all((layer, part) in by_role for layer in layers for part in "kv"):
            return tuple((by_role[layer, "k"], by_role[layer, "v"]) for layer in layers)
    return tuple(zip(names[::2], names[1::2], strict=True))


def _layer_and_part(name: str) -> tuple[int, str] | None:
    """``past_key_values.3.value`` -> (3, "v")."""
    numbers = re.findall(r"\d+", name)
    # "past_key_values" and "present_key_value" name both parts; what is left names one.
    part = _PART.search(re.sub(r"key_values?|kv", "", name))
    return (int(numbers[0]), "k" if part[1] else "v") if len(numbers) == 1 and part else None


def _dims(value: onnx.ValueInfoProto) -> Dims:
    """The dimensions, None where they are dynamic; () for what is no tensor of known rank."""
    shape = value.type.tensor_type.shape
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in shape.dim)


def _check_dims(file: OnnxFile, name: str, dims: Dims, wanted: Dims) -> None:
    fits = len(dims) == len(wanted) and all(
        size is None or have is None or have == size for have, size in zip(dims, wanted, strict=True)
    )
    if not fits:
        raise CheckpointError(f"{file.path}: {name} is {_text(dims)}; {_text(wanted)} is needed")


def _text(dims: Dims) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in dims)}]"
