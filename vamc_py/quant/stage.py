"""The calibration of a compile: what the configuration asks for, done or found in the cache."""

from __future__ import annotations

from vamc_py.checkpoint import Checkpoint
from vamc_py.config import LoadedConfig
from vamc_py.frontend.model_config import ModelConfig, expected_matrices
from vamc_py.progress import stage
from vamc_py.quant.cache import default_cache
from vamc_py.quant.calibration import calibrate
from vamc_py.quant.dataset import calibration_tokens
from vamc_py.quant.faults import with_places
from vamc_py.weights.calibration_plan import calibration_method, calibration_plan


def calibrated(loaded: LoadedConfig, checkpoint: Checkpoint, model: ModelConfig) -> Checkpoint:
    """The checkpoint with the weights that the configuration wants calibrated; itself where there are none.

    ConfigError for calibration data or settings that will not do, with their place.
    """
    config = loaded.config
    method, plan = calibration_method(config), calibration_plan(config, expected_matrices(model))
    if method is None or not plan:
        return checkpoint
    arguments = config.frontend.quantize.calib_args if config.frontend.quantize is not None else None
    with stage("calibrate"), with_places(loaded):
        tokens = calibration_tokens(checkpoint, config.dataset)
        return calibrate(checkpoint, model, tokens, plan, method, arguments, default_cache())
