"""manifest.json of an artifact: what the compiler promises and the runtime checks.

Written by ``vamc-py compile``, read by the runtime; imports neither the compiler nor torch.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from vamc_py.activation import Activation

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
MODULE_FILE = "mod.so"
PARAMETERS_FILE = "params.bin"
CONFIG_FILE = "config.yaml"
TOKENIZER_DIR = "tokenizer"
IR_DIR = "ir"  # the IR after every pass, for people (see vamc_py.inspect.dump)
IR_TIMES_FILE = f"{IR_DIR}/times.json"  # in no record: it differs from compile to compile
PARAMETER_ALIGNMENT = 64  # bytes; the kernels use aligned vector loads


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelFacts(_Record):
    """The model's shape, as the runtime and the benchmark need it."""

    architecture: str  # "qwen2", "qwen3", …
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embedding: bool
    max_positions: int  # positions for which the rotary embedding is defined


class Limits(_Record):
    """Lengths in tokens, as the YAML names them."""

    prefill: int  # most tokens in one step
    context: int  # most positions of one sequence


class TensorSpec(_Record):
    """One tensor of a signature; a string in ``shape`` is a symbolic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Function(_Record):
    """A compiled function: tensors in order, then the caches (one tuple), then the parameters (one tuple)."""

    name: str
    inputs: tuple[TensorSpec, ...]
    caches: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Parameter(_Record):
    """A parameter in ``params.bin``: its bytes start at ``offset``, a multiple of PARAMETER_ALIGNMENT."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int  # bytes
    sha256: str


class FileRecord(_Record):
    """Size in bytes and hash of one file of the artifact, by its path relative to the folder."""

    size: int
    sha256: str


class Target(_Record):
    """What the module was compiled for."""

    kind: str  # "llvm"
    mcpu: str
    features: tuple[str, ...]  # CPU features without which the module would die on an illegal instruction
    dtype: str  # backend.dtype: "int8", "fp16", "bf16", "fp32"


class Widened(_Record):
    """Weights that the gate of the compile gave a wider type."""

    tensors: tuple[str, ...]  # names in the checkpoint
    type: str  # what they have now, as frontend.quantize.rules names it
    before: str  # what they would have had
    error: float  # of the weights with that, relative to their norm


class Accepted(_Record):
    """What the gate (frontend.quantize.accept) measured and did."""

    ppl: float
    reference_ppl: float  # of the float model
    increase: float  # ppl / reference_ppl - 1
    allowed: float
    text: str  # sha256 of the file
    chunks: int
    context: int
    widened: tuple[Widened, ...]


class Manifest(_Record):
    """The whole of manifest.json."""

    format_version: int = FORMAT_VERSION
    name: str
    target: Target
    model: ModelFacts
    limits: Limits
    step: Function
    one_slot_a_step: bool = False  # the step takes the tokens of one slot at a time only (see the pass dense-kv-cache)
    activation: Activation | None = (
        None  # in which int8 weights meet those of more than wide_rows tokens (R.vamc.linear)
    )
    wide_rows: int = 0  # up to so many tokens meet them in int16 anyhow
    parameters: tuple[Parameter, ...]
    files: dict[str, FileRecord]  # every other file of the artifact but the manifest itself
    built_with: dict[str, str]  # package → version
    source: dict[str, str]  # "checkpoint" and "config" → sha256
    accepted: Accepted | None = None  # where the compile was told to measure
    slow_operators: tuple[str, ...] = ()  # what stayed on TVM's default loops, as the compiler said
