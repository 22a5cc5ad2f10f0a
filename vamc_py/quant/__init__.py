"""Calibration: weights quantized with a look at the activations, by GPTQ or AWQ, one decoder layer in memory at a time.

>>> tokens = calibration_tokens(checkpoint, config.dataset)
>>> calibrated = calibrate(checkpoint, model, tokens, plan, "gptq", arguments, default_cache())
>>> calibrated.quantized["model.layers.0.mlp.up_proj.weight"]
WeightFormat(values='int4', group=128, zeros=False, scale='float32')

The result is a Checkpoint like any other, kept in a cache folder that the next compile reads. Imports torch, numpy,
safetensors and tokenizers; neither TVM nor transformers.
"""

from __future__ import annotations

from vamc_py.quant.cache import default_cache
from vamc_py.quant.calibrated import CalibratedCheckpoint
from vamc_py.quant.calibration import calibrate
from vamc_py.quant.dataset import calibration_tokens
from vamc_py.quant.faults import CalibrationError, with_places
from vamc_py.quant.needs import Needs, calibration_needs
from vamc_py.quant.options import Method, Options

__all__ = [
    "CalibratedCheckpoint",
    "CalibrationError",
    "Method",
    "Needs",
    "Options",
    "calibrate",
    "calibration_needs",
    "calibration_tokens",
    "default_cache",
    "with_places",
]
