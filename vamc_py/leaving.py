"""How a program of this project ends where its input is at fault."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vamc_py.errors import UserError


@contextmanager
def faults_end(program: str) -> Iterator[None]:
    """Around all that ``program`` does: a fault of the input (UserError) becomes a sentence on stderr for each and exit
    code 2, an interruption exit code 130, both by SystemExit. Other exceptions pass."""
    try:
        yield
    except UserError as error:
        for line in str(error).splitlines():
            print(f"{program}: error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
