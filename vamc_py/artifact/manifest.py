"""manifest.json of an artifact: what the compiler promises and the runtime checks.

Written by ``vamc-py compile``, read by the runtime; imports neither the compiler nor torch.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from vamc_py.activation import Activation
from vamc_py.runstream.file import PROGRAM_FILE as PROGRAM_FILE

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
MODULE_FILE = "mod.so"
PARAMETERS_FILE = "params.bin"
CONFIG_FILE = "config.yaml"
DEVICE_FILE = "device.json"  # of the vacc target: the device model, each value with its status
RUNSTREAM_PARAMETERS_FILE = "mod.params"  # beside PROGRAM_FILE: the beginning of a die's DDR
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

    kind: str  # "llvm", "vacc"
    mcpu: str  # of vacc: that of the host functions that stand for kernels
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


class ManifestBase(_Record):
    """What the manifests of all targets say."""

    format_version: int = FORMAT_VERSION
    name: str
    target: Target
    model: ModelFacts
    limits: Limits
    files: dict[str, FileRecord]  # every other file of the artifact but the manifest itself
    built_with: dict[str, str]  # package → version
    source: dict[str, str]  # "checkpoint" and "config" → sha256
    slow_operators: tuple[str, ...] = ()  # what stayed on TVM's default loops, as the compiler said


class Manifest(ManifestBase):
    """The whole of manifest.json of the llvm target."""

    step: Function
    one_slot_a_step: bool = False  # the step takes the tokens of one slot at a time only (see the pass dense-kv-cache)
    activation: Activation | None = (
        None  # in which int8 weights meet those of more than wide_rows tokens (R.vamc.linear)
    )
    wide_rows: int = 0  # up to so many tokens meet them in int16 anyhow
    parameters: tuple[Parameter, ...]
    accepted: Accepted | None = None  # where the compile was told to measure


class Runstreams(_Record):
    """The programs of the dies: a folder for each stage and rank, with PROGRAM_FILE, MODULE_FILE and
    RUNSTREAM_PARAMETERS_FILE."""

    device: str  # name of the device model
    prefill: tuple[str, ...]  # folders in the order of ranks; a step takes up to limits.prefill tokens
    decode: tuple[str, ...]  # likewise; a step takes one token

    @classmethod
    def named(cls, device: str, limits: Limits, ranks: int) -> Self:
        """The folders ``prefill_<prefill>_rank<r>`` and ``decode_<context>_rank<r>`` of so many ranks."""
        return cls(
            device=device,
            prefill=tuple(f"prefill_{limits.prefill}_rank{rank}" for rank in range(ranks)),
            decode=tuple(f"decode_{limits.context}_rank{rank}" for rank in range(ranks)),
        )

    @model_validator(mode="after")
    def _both_stages(self) -> Self:
        if not self.prefill or len(self.prefill) != len(self.decode):
            raise ValueError("as many folders of prefill as of decode are wanted, at least one")
        return self

    @property
    def ranks(self) -> int:
        """How many dies work together."""
        return len(self.prefill)

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders, those of prefill first."""
        return (*self.prefill, *self.decode)


DEVICE_MODEL_NOTICE = (
    "vacc is a device model of vamc-py's own, for no instruction set of the real device is public. The commands in "
    "mod.json are of that model; mod.so holds functions of the host that compute what its kernels are defined to; "
    "device.json says which figures of the device are published and which are assumed."
)


class VaccManifest(ManifestBase):
    """The whole of manifest.json of the vacc target. Parameters are described by the programs."""

    runstreams: Runstreams
    notice: str = DEVICE_MODEL_NOTICE  # for whoever opens the file
