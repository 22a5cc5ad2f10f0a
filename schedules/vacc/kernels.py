"""The kernels of the device model under one roof, for those who emit commands."""

from __future__ import annotations

from vamc_py.schedules.vacc.add_rows import add_rows
from vamc_py.schedules.vacc.elementwise import cast_f16, embed_rows
from vamc_py.schedules.vacc.gemm import gemm
from vamc_py.schedules.vacc.head_prep import head_prep
from vamc_py.schedules.vacc.head_prep_int8 import head_prep_int8
from vamc_py.schedules.vacc.quantization import dequantize, dequantize_groups, dequantize_rows, quantize_rows
from vamc_py.schedules.vacc.rms_norm import rms_norm
from vamc_py.schedules.vacc.softmax import softmax
from vamc_py.schedules.vacc.swiglu import swiglu

__all__ = [
    "add_rows",
    "cast_f16",
    "dequantize",
    "dequantize_groups",
    "dequantize_rows",
    "embed_rows",
    "gemm",
    "head_prep",
    "head_prep_int8",
    "quantize_rows",
    "rms_norm",
    "softmax",
    "swiglu",
]
