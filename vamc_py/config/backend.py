"""The section ``backend``: the target, the data type and what vamc's compiler takes as switches."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vamc_py.config.cpus import NATIVE
from vamc_py.config.device import DeviceFigures
from vamc_py.config.section import Section, on
from vamc_py.target.vacc.device import DEFAULT, Device

BackendType = Literal["tvm_vacc", "tvm_llvm", "tvm_cuda"]
DataType = Literal["int8", "fp16", "bf16", "fp32"]
_NOT_EXPLAINED = "A vamc switch without a public explanation"


class Compile(Section):
    """vamc's compiler switches, all that public files use. They are accepted; none has an effect on any target here."""

    data_type: int | None = Field(
        default=None,
        description="vamc's number of the data type; 0 in every language-model file. `backend.dtype` says it here.",
    )
    gather_data_vccl_dsp_enable: bool | None = Field(
        default=None,
        description="Gathers through VCCL on the DSP; vamc says that it saves memory while compiling. vamc-py always "
        "joins the dies' parts by collectives.",
    )
    cluster_mode: int | None = Field(default=None, description=f"{_NOT_EXPLAINED} (0 or 1).")
    data_transport_mode: int | None = Field(default=None, description=f"{_NOT_EXPLAINED} (1 or 3).")
    opt_level: int | None = Field(default=None, description="Optimization level (2).")
    stream_mode: bool | None = Field(default=None, description=f"{_NOT_EXPLAINED}.")
    mem_inplace: bool | None = Field(default=None, description="Let outputs reuse the memory of inputs.")
    llm_build: bool | None = Field(default=None, description="Build a vision tower by the language-model path.")
    attention_split_num: int | None = Field(default=None, description="Pieces into which attention is split.")
    ffn_split_num: int | None = Field(default=None, description="Pieces into which the feed-forward layer is split.")
    fullatt_block_indexes: tuple[int, ...] | None = Field(
        default=None, description="Blocks of a vision tower with full attention."
    )
    dense_special_config: tuple[int, ...] | None = Field(default=None, description=f"{_NOT_EXPLAINED}.")
    output_ddr: tuple[int, ...] | None = Field(default=None, description="Outputs placed in DDR.")
    output_layout: tuple[str, ...] | None = Field(
        default=None, description='Layout of each output, such as `["0:YX"]`.'
    )
    real_output_shape: tuple[tuple[int, ...], ...] | None = Field(
        default=None, description="Shapes of the outputs without padding."
    )
    split_convergence_points: tuple[str, ...] | None = Field(default=None, description=f"{_NOT_EXPLAINED}.")
    partition_convergence_dsp_enable: bool | None = Field(default=None, description=f"{_NOT_EXPLAINED}.")
    nearest_interpol_on_dsp: bool | None = Field(default=None, description="Nearest interpolation on the DSP.")
    enable_dense_to_matmul: bool | None = Field(default=None, description="Rewrite dense layers as matmul.")
    enable_float_to_half: bool | None = Field(default=None, description="Convert float32 to float16.")
    enable_graph_partition: bool | None = Field(default=None, description="Cut the graph in parts.")
    enable_groundingdino_axis_change: bool | None = Field(default=None, description="For Grounding DINO.")
    enable_groundingdino_cut_layernorm: bool | None = Field(default=None, description="For Grounding DINO.")
    enable_inputs_align: bool | None = Field(default=None, description="Align the inputs.")
    enable_transform_vision_language_pan: bool | None = Field(default=None, description="For YOLO-World.")
    switch_lhs_rhs: bool | None = Field(default=None, description=f"{_NOT_EXPLAINED}.")


class GraphQuantize(Section):
    """Calibration of networks that are not language models (``frontend.quantize`` is the one for those)."""

    calibrate_mode: Literal["percentile", "kl_divergence", "max", "mse"] | None = Field(
        default=None, description="How the range of an activation is found."
    )
    quantize_per_channel: bool | None = Field(default=None, description="A scale for each channel.")
    calibrate_chunk_by: int | None = Field(default=None, description="Samples calibrated at a time; -1 is all.")
    calibrate_range: float | None = Field(default=None, description="Share of the values inside the range.")
    overflow_adaptive: int | None = Field(default=None, description=f"{_NOT_EXPLAINED}.")
    quantize_mode: Literal["manual", "force_auto"] | None = Field(default=None, description=f"{_NOT_EXPLAINED}.")
    weight_scale: str | None = Field(default=None, description="Form of a weight's scale (`power2`).")
    exclude_layers: tuple[int, ...] | None = Field(default=None, description="Layers that stay in floating point.")
    skip_conv_layers: tuple[int, ...] | None = Field(default=None, description="Convolutions not quantized.")
    skip_matmul_layers: tuple[int, ...] | None = Field(default=None, description="Matrix products not quantized.")
    ops_usingfp: tuple[str, ...] | None = Field(default=None, description="Operators left in floating point.")
    quantize_operators: tuple[str, ...] | None = Field(
        default=None, description="Operators to quantize; `!` before a name excludes it."
    )
    quantize_dsp_ops: tuple[str, ...] | None = Field(default=None, description="DSP operators to quantize.")
    requant_suppress: bool | None = Field(default=None, description=f"{_NOT_EXPLAINED}.")
    dense_special_config: tuple[int, ...] | None = Field(default=None, description=f"{_NOT_EXPLAINED}.")
    nearest_interpol_on_dsp: bool | None = Field(default=None, description="As in `backend.compile`.")
    output_ddr: tuple[int, ...] | None = Field(default=None, description="As in `backend.compile`.")
    stream_mode: bool | None = Field(default=None, description="As in `backend.compile`.")


class DynamicParameters(Section):
    """For networks with dynamic shapes that are not language models."""

    is_elic_gs: bool | None = Field(default=None, description="For the ELIC codec.")
    enable_graph_partition: bool | None = Field(default=None, description="Cut the graph in parts.")


class Backend(Section):
    """What is compiled for."""

    type: BackendType = Field(
        default="tvm_vacc",
        description="The target: `tvm_llvm` is an x86 processor (see `target`), `tvm_vacc` Vastai's accelerator, "
        "`tvm_cuda` an NVIDIA GPU.",
    )
    dtype: DataType = Field(
        description="The weights' data type. `int8`: one scale for each output row, see `frontend.quantize`. The KV "
        "cache is float32 with `fp32`, else float16.",
    )
    target: str = Field(
        default=NATIVE,
        description=f"On vacc the card: {', '.join(Device.names())} (made up, for tests), in any case; `native` is "
        f"{DEFAULT}. On llvm the CPU that the module is for: `native` is the one of this machine; else an LLVM name, "
        "such as `target: znver4`, `icelake-server`, `alderlake` or `haswell`, or a level: `x86-64-v3` runs on every "
        "CPU with AVX2, FMA and F16C, `x86-64-v4` on every one with AVX-512. The compile runs anywhere; the artifact "
        "runs where the CPU has the instructions that its kernels use.",
        json_schema_extra=on("vacc", "llvm", form="name of a card or CPU"),
    )
    merge_params: bool | None = Field(
        default=None,
        description="Written in every language-model file of vamc; no public explanation. On vacc one parameter file "
        "serves both stages of a rank, prefill and decode, as they have the same parameters; that is always so, and "
        "`false` is without effect.",
        json_schema_extra=on("vacc"),
    )
    remove_params: bool | None = Field(default=None, description=f"{_NOT_EXPLAINED}.", json_schema_extra=on())
    device: DeviceFigures = Field(
        default_factory=DeviceFigures,
        description="Other figures for the card of `target`, above all for those that are only assumed.",
        json_schema_extra=on("vacc"),
    )
    compile: Compile = Field(default_factory=Compile, description="vamc's compiler switches.", json_schema_extra=on())
    quantize: GraphQuantize | None = Field(
        default=None, description="Calibration of other networks.", json_schema_extra=on()
    )
    dynamic_params: DynamicParameters | None = Field(
        default=None, description="Dynamic shapes of other networks.", json_schema_extra=on()
    )
