"""The passes that run, in order, for a target and a weight type, where the configuration changes nothing."""

from __future__ import annotations

from typing import Literal

from vamc_py.activation import default_wide
from vamc_py.config import Config
from vamc_py.errors import UserError
from vamc_py.passes.bundle_parameters import BundleParameters
from vamc_py.passes.cast_weights import CastWeights
from vamc_py.passes.dense_kv_cache import DenseKvCache
from vamc_py.passes.flatten_batch import FlattenBatch
from vamc_py.passes.fuse_attention import FuseAttention
from vamc_py.passes.fuse_prologue import FusePrologue
from vamc_py.passes.fuse_residual import FuseResidual
from vamc_py.passes.fuse_swiglu import FuseSwiglu
from vamc_py.passes.kv_cache_layout import KvCacheLayout
from vamc_py.passes.lower_reference import LowerReference
from vamc_py.passes.merge_linear import MergeLinear
from vamc_py.passes.quantize_activations import QuantizeActivations
from vamc_py.passes.quantize_int8 import QuantizeInt8
from vamc_py.passes.raise_attention import RaiseAttention
from vamc_py.passes.raise_embedding import RaiseEmbedding
from vamc_py.passes.raise_linear import RaiseLinear
from vamc_py.passes.raise_rms_norm import RaiseRmsNorm
from vamc_py.passes.raise_rotary import RaiseRotary
from vamc_py.passes.raise_swiglu import RaiseSwiglu
from vamc_py.passes.select_kernels import SelectKernels
from vamc_py.passes.select_rows_early import SelectRowsEarly
from vamc_py.passes.simplify import Simplify
from vamc_py.passes.strided_slice import StridedSlice
from vamc_py.pipeline.base import Pass

_RAISE: tuple[Pass, ...] = (
    Simplify(),
    RaiseLinear(),
    RaiseEmbedding(),
    RaiseRmsNorm(),
    RaiseSwiglu(),
    RaiseRotary(),
    RaiseAttention(),
    Simplify(),
)
_STEP: tuple[Pass, ...] = (
    StridedSlice(),
    KvCacheLayout(),
    DenseKvCache(),
    Simplify(),
    FlattenBatch(),
    Simplify(),
    MergeLinear(),
    FuseSwiglu(),
    FuseResidual(),
    FusePrologue(),
    FuseAttention(),
    SelectRowsEarly(),
    Simplify(),
)
_LOWER: tuple[Pass, ...] = (SelectKernels(), LowerReference(), BundleParameters())


def weight_passes(
    dtype: str, *, quantize_lm_head: bool, activations: QuantizeActivations | None = None
) -> tuple[Pass, ...]:
    """The passes that give the weights their type: ``dtype`` is backend.dtype (int8, fp16, bf16, fp32).

    ``activations`` is how int8 weights meet activations, where it is not by default.
    """
    if dtype == "int8":
        # Without lm_head the embedding and the output projection stay float, in 16 bits.
        rest = () if quantize_lm_head else (CastWeights("float16"),)
        return (QuantizeInt8(lm_head=quantize_lm_head), activations or QuantizeActivations(), *rest)
    names: dict[str, Literal["float16", "bfloat16"]] = {"fp16": "float16", "bf16": "bfloat16"}
    return (CastWeights(names[dtype]),) if dtype in names else ()


def default_pipeline(
    dtype: str, *, quantize_lm_head: bool, activations: QuantizeActivations | None = None
) -> tuple[Pass, ...]:
    """The whole pass list of the llvm target."""
    weights = weight_passes(dtype, quantize_lm_head=quantize_lm_head, activations=activations)
    return (*_RAISE, *_STEP, *weights, *_LOWER)


def default_passes(config: Config) -> tuple[Pass, ...]:
    """The pass list of the configuration's target, before its own ``passes``. UserError for a target without one."""
    if config.target != "llvm":
        raise UserError(f"{config.backend.type} has no list of passes yet; tvm_llvm has (--set backend.type=tvm_llvm)")
    return default_pipeline(
        config.backend.dtype, quantize_lm_head=config.quantize_lm_head, activations=_activations(config)
    )


def _activations(config: Config) -> QuantizeActivations | None:
    """What the configuration says of activations."""
    quantize = config.frontend.quantize
    if quantize is None:
        return None
    wide = quantize.wide
    if wide is None:
        wide = default_wide(quantize.activation) if config.quantize_lm_head else ()
    return QuantizeActivations(quantize.activation, wide=wide)
