"""From a configuration to the passes that run: the default list, changed as the YAML's ``passes`` says."""

from __future__ import annotations

from vamc_py.config import LoadedConfig
from vamc_py.pipeline.default import default_pipeline
from vamc_py.pipeline.runner import Planned, planned


def resolve_pipeline(loaded: LoadedConfig) -> tuple[Planned, ...]:
    """The pipeline of a configuration, checked. ConfigError, with the place, for one that cannot run."""
    config = loaded.config
    return planned(default_pipeline(config.backend.dtype, quantize_lm_head=config.quantize_lm_head))
