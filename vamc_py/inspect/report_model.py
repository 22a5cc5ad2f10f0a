"""What the HTML report shows, as plain data: the page is given this as JSON and computes nothing itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

LineKind = Literal["same", "removed", "added"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fact(_Part):
    """One line of the overview: "Target", "llvm rocketlake"."""

    name: str
    value: str


class DiffLine(_Part):
    """One binding, or one line of a signature."""

    kind: LineKind
    text: str


class DiffHunk(_Part):
    """Bindings that changed together, with a little of what stayed around them."""

    title: str  # "layer 0", "before the layers", "signature"
    repeats: str  # "" or "the same in layers 1 to 27"
    lines: tuple[DiffLine, ...]


class FunctionChange(_Part):
    """What a pass did to one function."""

    name: str
    status: Literal["added", "removed", "changed"]
    hunks: tuple[DiffHunk, ...]


class Step(_Part):
    """One bar of the timeline: the trace, the import, a pass, the build, the weights."""

    label: str
    kind: Literal["frontend", "raise", "rewrite", "lower", "build", "weights"]
    seconds: float | None  # None where nobody measured
    summary: str  # one sentence
    origin: str  # the package or file that brought the pass; "" for what is no pass
    place: str  # where the YAML asks for it; "" for the default list
    options: dict[str, JsonValue]
    changed: bool
    operators: dict[str, int]  # calls by operator after the step
    notes: tuple[str, ...]
    changes: tuple[FunctionChange, ...]


class Node(_Part):
    """One call of the final graph."""

    id: str  # the binding's name
    kind: str  # the operator that a kernel serves ("linear"), or TVM's ("add")
    kernel: str  # symbol of the kernel; "" where TVM's own loops run
    layer: int | None  # None before and behind the layers
    inputs: tuple[str, ...]  # ids of nodes, and names of the function's inputs and caches
    shape: str  # "[n, 1024]"
    dtype: str
    parameters: tuple[str, ...]  # "model.layers.0.mlp.down_proj.weight uint8[16, 768, 4, 16, 4]"
    parameter_bytes: int
    decode_bytes: int  # read and written by one step of one token, with the context that `Roofline` names
    decode_operations: int
    prefill_bytes: int  # by one step of the compiled prefill length
    prefill_operations: int


class Storage(_Part):
    """A piece of memory that the step allocates once and uses for several values in turn."""

    name: str
    bytes: int  # at the largest step
    values: tuple[str, ...]  # ids of nodes, in the order of use
    first: int  # index of the node that first writes it
    last: int  # index of the node that last reads it


class MemoryPlan(_Part):
    """What lives where, in bytes, at the largest step."""

    parameters: int
    caches: int  # one slot of the whole context
    activations: int  # all storages
    peak: int  # the three together
    storages: tuple[Storage, ...]
    live: tuple[int, ...]  # bytes of activations in use while each node of the graph runs, in order


class RooflinePoint(_Part):
    """All calls of one kernel in one step, summed."""

    kernel: str
    kind: str
    calls: int
    bytes: int
    operations: int
    least_seconds: float  # by the limits: the larger of bytes / bandwidth and operations / peak
    bound: Literal["memory", "arithmetic"]
    measured_seconds: float | None  # None where the report did not run the module


class Roofline(_Part):
    """One step against the machine's limits, measured when the report was made."""

    title: str  # "decode: 1 token after 1024", "prefill: 512 tokens"
    points: tuple[RooflinePoint, ...]


class MachineLimits(_Part):
    """What this machine can do at most, measured by loops of the module itself."""

    machine: str  # CPU and threads
    bandwidth: float  # bytes per second read
    int8_peak: float  # operations per second of the int8 dot product; a multiplication and an addition are two
    float_peak: float  # operations per second of float32 fused multiply-add
    bf16_peak: float | None = None  # operations per second of the bfloat16 dot product, where the code has it


class ConfigValue(_Part):
    """One value of the configuration and where it came from."""

    key: str  # "frontend.checkpoint"
    value: JsonValue
    origin: str  # "model.yaml:4:15", "--set backend.dtype=int8", or "default"


class Report(_Part):
    """The whole page."""

    title: str
    facts: tuple[Fact, ...]
    steps: tuple[Step, ...]
    nodes: tuple[Node, ...]  # in the order in which they run
    layers: int
    memory: MemoryPlan
    limits: MachineLimits | None
    rooflines: tuple[Roofline, ...]
    config: tuple[ConfigValue, ...]
    notes: tuple[str, ...]
