"""The ``R.vamc`` operators: what a Qwen model means, above any target.

Each operator is its own specification: a docstring, type inference, and a reference lowering in TVM's own operators or
in plain loops, against which a target's kernels are tested.
"""

from vamc_py.dialect.attention import attention, cached_attention, qkv_attention
from vamc_py.dialect.collective import all_gather, all_reduce
from vamc_py.dialect.dense_cache import cache_append, causal_mask
from vamc_py.dialect.embedding import embedding
from vamc_py.dialect.linear import LinearCall, linear
from vamc_py.dialect.registry import Operator, operators
from vamc_py.dialect.rms_norm import rms_norm
from vamc_py.dialect.rotary import rotary, rotary_angles
from vamc_py.dialect.select_rows import select_rows
from vamc_py.dialect.swiglu import swiglu

__all__ = [
    "LinearCall",
    "Operator",
    "all_gather",
    "all_reduce",
    "attention",
    "cache_append",
    "cached_attention",
    "causal_mask",
    "embedding",
    "linear",
    "operators",
    "qkv_attention",
    "rms_norm",
    "rotary",
    "rotary_angles",
    "select_rows",
    "swiglu",
]
