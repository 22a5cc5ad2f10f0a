"""Where calibrated weights are kept, and under which name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vamc_py.checkpoint import Checkpoint
from vamc_py.errors import UserError
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.quant.options import Options
from vamc_py.weights.formats import WeightFormat

VERSION = 1
"""Raised whenever the same input would give other weights."""


def default_cache() -> Path:
    """``calibration`` in $VAMC_CACHE, else in ``vamc-py`` in $XDG_CACHE_HOME or ~/.cache. Nothing is ever removed."""
    if own := os.environ.get("VAMC_CACHE"):
        return Path(own) / "calibration"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vamc-py" / "calibration"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A fault of writing into the cache as a sentence."""
    try:
        yield
    except OSError as error:
        what = f"{folder}: cannot be written ({error.strerror or error})"
        raise UserError(f"{what}; make room, or set VAMC_CACHE to another folder") from error


def cache_key(
    checkpoint: Checkpoint,
    model: ModelConfig,
    tokens: npt.NDArray[np.int64],
    plan: Mapping[str, WeightFormat],
    method: str,
    options: Options,
) -> str:
    """sha256 (hex) of all that the calibrated weights depend on."""
    about = {
        "version": VERSION,
        "checkpoint": checkpoint.fingerprint(),
        "model": repr(model),
        "tokens": [list(tokens.shape), hashlib.sha256(np.ascontiguousarray(tokens, dtype="<i8").tobytes()).hexdigest()],
        "plan": {name: asdict(form) for name, form in plan.items()},
        "method": method,
        "options": asdict(options) if method == "gptq" else None,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
