"""``python -m vamc_py.cli``: the same as ``vamc-py``."""

from __future__ import annotations

from vamc_py.cli import main

main()
