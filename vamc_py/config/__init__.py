"""The YAML of vamc: models of its sections, and loading with every fault at its place."""

from vamc_py.config.compilable import check_activation, check_compilable
from vamc_py.config.config import Config
from vamc_py.config.load import LoadedConfig, load_config, load_text
from vamc_py.config.quantize_rules import check_stored, check_wide

__all__ = [
    "Config",
    "LoadedConfig",
    "check_activation",
    "check_compilable",
    "check_stored",
    "check_wide",
    "load_config",
    "load_text",
]
