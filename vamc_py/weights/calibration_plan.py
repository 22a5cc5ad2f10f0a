"""Which weights a configuration wants calibrated, by which method, to which formats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from vamc_py.config import Config
from vamc_py.config.frontend import Quantize
from vamc_py.config.patterns import EMBEDDING, LM_HEAD, rule_of
from vamc_py.weights.formats import WeightFormat


def calibration_method(config: Config) -> Literal["gptq", "awq"] | None:
    """The method of the configuration's types; None where none is calibrated."""
    types = [rule.rpartition("=")[2] for rule in config.weight_rules]
    if any(kind.endswith("_gptq") for kind in types):
        return "gptq"
    return "awq" if any(kind.endswith("_awq") for kind in types) else None


def calibration_plan(config: Config, matrices: Iterable[str]) -> dict[str, WeightFormat]:
    """The formats of the weights to calibrate, by name.

    ``matrices`` are the names of the model's tensors of two dimensions; lm_head and the embedding are never calibrated.
    """
    if calibration_method(config) is None:
        return {}
    quantize = config.frontend.quantize or Quantize()
    forms = {
        "w8a16": WeightFormat("int8"),
        "w4a16": WeightFormat("int4", quantize.group or 128, quantize.zeros, "float16"),
    }
    plan: dict[str, WeightFormat] = {}
    for name in matrices:
        bits, _, method = (rule_of(config.weight_rules, [name]) or "").partition("_")
        if method and name not in (LM_HEAD, EMBEDDING):
            plan[name] = forms[bits]
    return plan
