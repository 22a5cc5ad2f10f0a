"""Dumps of tiny models that several test files read."""

from __future__ import annotations

import pytest
from support.dumps import make_dump

from vamc_py.inspect.dump import Dump


@pytest.fixture(scope="session")
def dump_with_kernels(tmp_path_factory: pytest.TempPathFactory) -> Dump:
    """Two layers, int8, and a kernel for every operator. Prefill 64, context 128."""
    return make_dump(tmp_path_factory.mktemp("kernels") / "dump", text=False)


@pytest.fixture(scope="session")
def dump_with_loops(tmp_path_factory: pytest.TempPathFactory) -> Dump:
    """Two layers, fp32, with heads of 8, for which attention has no kernel: it runs on TVM's own loops."""
    return make_dump(tmp_path_factory.mktemp("loops") / "dump", text=False, head_dim=8, dtype="fp32")
