"""The section ``frontend``: which model, at which lengths, quantized how."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from vamc_py.activation import Activation
from vamc_py.config.accept import Accept
from vamc_py.config.section import Section, on

FrontendType = Literal["huggingface", "gguf", "onnx", "pytorch", "keras", "tensorflow", "darknet"]
QuantizeType = Literal["w8a16", "w4a16", "w8a16_gptq", "w4a16_gptq", "w4a16_awq", "w16kv8"]
RuleType = Literal["w8a16", "w4a16", "w8a16_gptq", "w4a16_gptq", "w4a16_awq", "fp16"]

_TYPE_BY_SUFFIX = {
    ".gguf": "gguf",
    ".onnx": "onnx",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".torchscript": "pytorch",
    ".h5": "keras",
    ".pb": "tensorflow",
    ".weights": "darknet",
}

MOST_TOKENS = 1 << 20

Length = Annotated[int, Field(gt=0, le=MOST_TOKENS, multiple_of=16)]
Lengths = tuple[Annotated[tuple[Length, ...], Field(min_length=1)], tuple[Length, ...]]
Dimension = Annotated[int, Field(gt=0)]


def nesting(value: object) -> str:
    """Tag of a shape: ``<nested>`` for a list of lists, else ``<flat>``. The brackets mark it as no key of the file."""
    nested = isinstance(value, tuple) and any(isinstance(part, tuple) for part in value)
    return "<nested>" if nested else "<flat>"


_Flat = Annotated[tuple[Dimension, ...], Tag("<flat>")]
TokenShape = Annotated[Annotated[Lengths, Tag("<nested>")] | _Flat, Discriminator(nesting)]
InputShape = Annotated[
    Annotated[tuple[tuple[Dimension, ...], ...], Tag("<nested>")] | _Flat,
    Discriminator(nesting),
]


def type_by_name(checkpoint: object) -> str:
    """The frontend type that a checkpoint's file ending tells; ``huggingface`` for a folder or a hub id."""
    return _TYPE_BY_SUFFIX.get(PurePath(str(checkpoint)).suffix.lower(), "huggingface")


class Shape(Section):
    """Lengths of a language model, or the input shapes of another network, by the name of the input."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, InputShape]

    input_ids: TokenShape | None = Field(
        default=None,
        description="`[[prefill lengths], [context lengths]]` in tokens, each a multiple of 16. The longest prefill is "
        "the most tokens of one step, the longest context the most positions of one sequence. `[[512], []]` is "
        "prefill only (embedding models). A flat list is the shape of an ONNX graph's input, of another network.",
        json_schema_extra=on("vacc", "llvm", "cuda", form="list of two lists of int"),
    )


class ModelKwargs(Section):
    """How the model is built from the checkpoint."""

    b2s: bool = Field(
        default=False,
        description="vamc's switch for throughput (true) or latency (false), never explained; batching, by all that is "
        "known. vamc-py compiles vacc for one sequence, so it is without effect.",
        json_schema_extra=on(),
    )
    tp: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Tensor parallelism: the number of dies that share the model.",
        json_schema_extra=on("vacc"),
    )
    model_arch: Literal["vacc"] | None = Field(
        default=None,
        description="`vacc`: read `config_vacc.json` in place of `config.json` where the checkpoint has one.",
    )
    align_qkv: bool = Field(
        default=False,
        description="Pads the KV heads to a multiple of `tp`. Needed where `num_key_value_heads % tp` is not 0.",
        json_schema_extra=on("vacc"),
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Trace the checkpoint's own `modeling_*_vacc.py` (named by `auto_map`). This runs the checkpoint's "
        "code on your machine, so it has to be asked for; without it vamc-py's own model is used.",
    )
    build_visual: bool = Field(
        default=False,
        description="Build the vision tower of a vision-language model in place of its language model.",
        json_schema_extra=on(),
    )


class CalibrationArguments(Section):
    """Settings of GPTQ; each default is GPTQ's own. AWQ heeds `wbits` and `onegroup` alone."""

    true_sequential: bool | None = Field(
        default=None,
        description="Quantize the linear layers of a decoder layer one after the other, each with the inputs that the "
        "quantized ones before it give. false: all with the inputs in the float layer, seen in one pass. null is true.",
    )
    wbits: Annotated[int, Field(ge=2, le=8)] | None = Field(
        default=None, description="Bits of a weight. `type` says them, so this can only agree; null is best."
    )
    damp_percent: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Share of the mean diagonal added to the Hessian before it is inverted; null is 0.01.",
    )
    blocksize: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Columns whose updates are summed before the columns behind get them; changes the time, not the "
        "result. null is 128.",
    )
    desc_act: bool | None = Field(
        default=None,
        description="Quantize the columns in order of falling activation. Each column keeps the scale of its place, "
        "taken from the weight as it was. null is false.",
    )
    onegroup: bool | None = Field(
        default=None,
        description="One scale for each output row, no groups of columns. `type` says this, so it can only agree.",
    )


class Rule(Section):
    """How certain weights are kept."""

    match: str = Field(
        min_length=1,
        description="A pattern of weights' names in the checkpoint, with or without `.weight`, such as `*.down_proj`, "
        "`model.layers.0.*` or `lm_head`.",
    )
    type: RuleType = Field(description="As `quantize.type`; `fp16` leaves them 16-bit numbers.")


class Quantize(Section):
    """How the weights become integers. Without this section `backend.dtype: int8` means `w8a16`."""

    type: QuantizeType | None = Field(
        default=None,
        description="`w8a16`: int8 weights with a scale for each output row, rounded to nearest, no data needed (what "
        "`dtype: int8` means when nothing is written here). `w4a16`: int4 weights with scales for groups of columns, "
        "rounded to nearest; lm_head and the embedding stay int8. `w8a16_gptq`, `w4a16_gptq`: the same formats "
        "calibrated by GPTQ, `w4a16_awq` by AWQ, with the data of `dataset`. `w16kv8`: 16-bit weights and an int8 KV "
        "cache. On vacc `w8a16_gptq` without a section `dataset`, as vamc's public files have it, is `w8a16`.",
    )
    group: Literal[32, 64, 128] | None = Field(
        default=None,
        description="Columns of a 4-bit weight that share a scale; the last group of a row may be shorter. null: 128.",
        json_schema_extra=on("vacc", "llvm"),
    )
    zeros: bool = Field(
        default=False,
        description="4-bit weights have a zero point for each group, too: a finer grid for groups whose weights lie on "
        "one side, for 0.25 bits more a weight with groups of 32, 0.06 with 128.",
        json_schema_extra=on("vacc", "llvm"),
    )
    kv8: bool = Field(
        default=False,
        description="The KV cache is int8 with a scale for each token and head: half of the bytes.",
        json_schema_extra=on("llvm", "vacc"),
    )
    rules: tuple[Rule, ...] = Field(
        default=(),
        description="Other types for certain weights; of each weight the first rule that fits it counts. A pattern "
        "that fits no weight is a fault.",
        json_schema_extra=on("vacc", "llvm"),
    )
    lm_head: bool | None = Field(
        default=None,
        description="Quantize lm_head and the embedding too. null is the target's default: true on llvm; false on "
        "vacc, where they are float16 then.",
    )
    activation: Activation | None = Field(
        default=None,
        description="How exactly the int8 weights meet the activations of more than a few tokens a step (8; with bf16 "
        "24), as in prefill; fewer tokens always keep 16 bits. `int16`: 16 bits for all. `bf16`: both rounded to "
        "bfloat16. `int8_g32`, `int8_g64`, `int8_g128`: int8 for each token and group of so many columns. "
        "`int8_token`: int8 for each token. null: `bf16` where the target has AVX512-BF16, else `int16`. On vacc all "
        "that has 16 bits is float16, null is that, and there is no `bf16`.",
        json_schema_extra=on("vacc", "llvm"),
    )
    wide: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None,
        description="Weights whose activations keep 16 bits whatever `activation` says: patterns of their names in "
        'the checkpoint, with or without `.weight`, such as `["lm_head", "*.down_proj", "model.layers.0.*"]`. null: '
        '`["lm_head"]` beside int8 activations, else none.',
        json_schema_extra=on("vacc", "llvm"),
    )
    device: str | None = Field(
        default=None, description="Where vamc calibrates, such as `cuda:5`. vamc-py calibrates on the CPU."
    )
    calib_args: CalibrationArguments | None = Field(default=None, description="Settings of GPTQ. Not used by `w8a16`.")
    accept: Accept | None = Field(
        default=None,
        description="Measure the artifact before it is put in place, and widen its worst layers until it is close "
        "enough to the float model. Left out: nothing is measured. The artifact has to run on this machine.",
        json_schema_extra=on("llvm"),
    )


class Frontend(Section):
    """The checkpoint and what is traced from it."""

    checkpoint: str = Field(
        min_length=1,
        description="A folder, a file or a Hugging Face hub id. A relative path starts at the current directory, not "
        "at the YAML file, as with vamc.",
    )
    adapters: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None,
        description="LoRA adapters to merge into the weights while these are read: folders that PEFT saved "
        "(`adapter_config.json`, `adapter_model.safetensors`) or hub ids. What several add to one weight adds up. "
        "Weights that come quantized cannot be adapted.",
    )
    type: FrontendType = Field(
        default="huggingface",
        description="Form of the checkpoint. When absent, the file ending tells (`.gguf`, `.onnx`, `.pb`, ...).",
    )
    dtype: Literal["fp32", "fp16", "int64", "int32"] | None = Field(
        default=None, description="Data type of an ONNX graph's inputs.", json_schema_extra=on()
    )
    shape: Shape = Field(description="The lengths to compile for.")
    model_kwargs: ModelKwargs = Field(default_factory=ModelKwargs, description="How the model is built.")
    quantize: Quantize | None = Field(default=None, description="How the weights become int8.")

    @model_validator(mode="before")
    @classmethod
    def _type_from_checkpoint(cls, data: Any) -> Any:
        if isinstance(data, dict) and "type" not in data and isinstance(data.get("checkpoint"), str):
            return {**data, "type": type_by_name(data["checkpoint"])}
        return data
