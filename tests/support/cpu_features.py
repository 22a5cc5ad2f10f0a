"""Which tests this machine's CPU can run."""

from __future__ import annotations

import pytest

from vamc_py.artifact.cpu import missing_features

needs_bf16 = pytest.mark.skipif(bool(missing_features(["avx512bf16"])), reason="needs a CPU with avx512_bf16")
