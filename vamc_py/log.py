"""The log of a compile, in the form of vamc's own: ``03/20/2023 16:40:31 - vamc - ERROR - …``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vamc_py.errors import UserError

LOGGER = logging.getLogger("vamc")
LOGGER.addHandler(logging.NullHandler())  # without a file nothing is logged, not even errors to stderr
LOGGER.propagate = False
_FORM = logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s", datefmt="%m/%d/%Y %H:%M:%S")


@contextmanager
def logged_to(path: Path, verbosity: int) -> Iterator[None]:
    """Writes what is logged inside to a file that starts anew; 1: stages and passes, 2: also what each one did.

    An exception that leaves the block is logged with its traceback, one of the input as its sentences. UserError when
    the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: the log cannot be written ({error.strerror}); set another workspace.path") from None
    handler.setFormatter(_FORM)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    try:
        yield
    except UserError as error:
        for line in str(error).splitlines():
            LOGGER.error(line)
        raise
    except KeyboardInterrupt:
        LOGGER.error("interrupted")
        raise
    except Exception:
        LOGGER.exception("a fault of vamc-py")
        raise
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(logging.WARNING)
        handler.close()
