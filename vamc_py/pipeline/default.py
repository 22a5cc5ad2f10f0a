"""The passes that run, in order, for a target and a weight type, where the configuration changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from vamc_py.activation import default_wide
from vamc_py.config import Config
from vamc_py.config.frontend import Quantize
from vamc_py.errors import UserError
from vamc_py.passes.bundle_parameters import BundleParameters
from vamc_py.passes.cast_weights import CastWeights
from vamc_py.passes.dense_kv_cache import DenseKvCache
from vamc_py.passes.flatten_batch import FlattenBatch
from vamc_py.passes.fuse_attention import FuseAttention
from vamc_py.passes.fuse_prologue import FusePrologue
from vamc_py.passes.fuse_residual import FuseResidual
from vamc_py.passes.fuse_swiglu import FuseSwiglu
from vamc_py.passes.keep_quantized import KeepQuantized
from vamc_py.passes.kv_cache_layout import KvCacheLayout
from vamc_py.passes.lower_reference import LowerReference
from vamc_py.passes.merge_linear import MergeLinear
from vamc_py.passes.quantize_activations import QuantizeActivations
from vamc_py.passes.quantize_int4 import QuantizeInt4
from vamc_py.passes.quantize_int8 import FLOATS, QuantizeInt8
from vamc_py.passes.quantize_kv_cache import QuantizeKvCache
from vamc_py.passes.raise_attention import RaiseAttention
from vamc_py.passes.raise_embedding import RaiseEmbedding
from vamc_py.passes.raise_linear import RaiseLinear
from vamc_py.passes.raise_rms_norm import RaiseRmsNorm
from vamc_py.passes.raise_rotary import RaiseRotary
from vamc_py.passes.raise_swiglu import RaiseSwiglu
from vamc_py.passes.select_kernels import SelectKernels
from vamc_py.passes.select_rows_early import SelectRowsEarly
from vamc_py.passes.shard_tensors import ShardTensors
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


@dataclass(frozen=True)
class Numbers:
    """In which numbers a module keeps its weights and computes, as far as that decides which passes run."""

    dtype: str
    """backend.dtype: int8, fp16, bf16 or fp32."""
    lm_head: bool = True
    """int8: the output projection and the embedding, too."""
    activations: QuantizeActivations = field(default_factory=QuantizeActivations)
    """int8: how weights meet activations."""
    rules: tuple[str, ...] = ()
    """int8: ``PATTERN=TYPE``, the first that fits a weight; without one, w8a16."""
    group: int = 128
    """Columns of a 4-bit weight that share a scale."""
    zeros: bool = False
    """4-bit weights have zero points."""
    kv8: bool = False
    """The KV cache is int8."""

    def passes(self) -> tuple[Pass, ...]:
        """The passes that give weights and caches their type."""
        return (*((QuantizeKvCache(),) if self.kv8 else ()), *self._weight_passes())

    def _weight_passes(self) -> tuple[Pass, ...]:
        if self.dtype == "int8":
            types = {rule.rpartition("=")[2] for rule in self.rules}
            int4 = (QuantizeInt4(self.group, self.zeros, self.rules),) if "w4a16" in types else ()
            # What stays float takes 16 bits.
            rest = () if self.lm_head and types.isdisjoint(FLOATS) else (CastWeights("float16"),)
            return (KeepQuantized(), *int4, QuantizeInt8(self.lm_head, self.rules), self.activations, *rest)
        names: dict[str, Literal["float16", "bfloat16"]] = {"fp16": "float16", "bf16": "bfloat16"}
        return (CastWeights(names[self.dtype]),) if self.dtype in names else ()


def default_pipeline(numbers: Numbers) -> tuple[Pass, ...]:
    """The whole pass list of the llvm target."""
    return (*_to_step(numbers), *_LOWER)


def vacc_pipeline(numbers: Numbers, *, tp: int = 1, align: bool = False) -> tuple[Pass, ...]:
    """The whole pass list of the vacc target, whose operators become commands without passes (``schedules/vacc``).

    It ends with the program of the first die; those of the others differ in the last pass.
    """
    narrow = numbers.activations.activation not in (None, "int16", "bf16")
    passes = (one for one in _to_step(numbers) if narrow or not isinstance(one, QuantizeActivations))
    return (*passes, ShardTensors(tp=tp, align=align))


def _to_step(numbers: Numbers) -> tuple[Pass, ...]:
    """The passes to a step in the operators that every target has kernels for."""
    step = (replace(one, rules=numbers.rules) if isinstance(one, MergeLinear) else one for one in _STEP)
    return (*_RAISE, *step, *numbers.passes())


def all_passes() -> tuple[Pass, ...]:
    """A pass list in which every pass stands that runs by default for some configuration of int8 weights."""
    return default_pipeline(Numbers("int8", lm_head=False, rules=("*=w4a16",), kv8=True))


def default_passes(config: Config) -> tuple[Pass, ...]:
    """The pass list of the configuration's target, before its own ``passes``. UserError for a target without one."""
    if config.target == "cuda":
        raise UserError(f"{config.backend.type} has no list of passes yet; tvm_llvm has (--set backend.type=tvm_llvm)")
    quantize = config.frontend.quantize or Quantize()
    numbers = Numbers(
        config.backend.dtype,
        config.quantize_lm_head,
        _activations(config),
        config.weight_rules,
        quantize.group or 128,
        quantize.zeros,
        config.kv8,
    )
    if config.target == "vacc":
        kwargs = config.frontend.model_kwargs
        return vacc_pipeline(numbers, tp=kwargs.tp, align=kwargs.align_qkv)
    return default_pipeline(numbers)


def _activations(config: Config) -> QuantizeActivations:
    """What the configuration says of activations."""
    quantize = config.frontend.quantize
    if quantize is None:
        return QuantizeActivations()
    wide = quantize.wide
    if wide is None:
        wide = default_wide(quantize.activation) if config.quantize_lm_head else ()
    return QuantizeActivations(quantize.activation, wide=wide)
