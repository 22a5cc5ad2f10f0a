"""Faults of calibration data and settings, which know the YAML key that they are about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vamc_py.config import LoadedConfig
from vamc_py.errors import ConfigError, UserError


class CalibrationError(UserError):
    """What is wrong with the value of ``key`` (``dataset.path``, ``frontend.quantize.calib_args.wbits``, ...)."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message


@contextmanager
def with_places(loaded: LoadedConfig) -> Iterator[None]:
    """A CalibrationError inside becomes a ConfigError with the place of its key in the YAML."""
    try:
        yield
    except CalibrationError as error:
        raise ConfigError([loaded.fault(error.key, error.message)]) from error
