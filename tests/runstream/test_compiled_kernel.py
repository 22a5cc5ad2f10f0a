"""A kernel of TIR, compiled and linked to mod.so, runs in a program through TVM's runtime library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from support import runstreams as made
from tvm.script import tirx as T

from vamc_py._link import link_options
from vamc_py._tvm import compile_module
from vamc_py.errors import ArtifactError
from vamc_py.runstream.check import check_program
from vamc_py.runstream.execute import Die, run_stage
from vamc_py.runstream.memory import DieMemory
from vamc_py.runtime import library


@T.prim_func
def add(a: T.Buffer((32,), "float32"), b: T.Buffer((32,), "float32"), out: T.Buffer((32,), "float32"), n: T.int32):
    T.func_attr({"global_symbol": "add", "tirx.noalias": True})
    for i in range(32):
        out[i] = a[i] + T.Cast("float32", n) * b[i]


def test_a_compiled_kernel_runs(tmp_path: Path) -> None:
    module = tmp_path / "mod.so"
    built = compile_module(tvm.IRModule({"add": add}), tvm.target.Target.from_device("cpu"))
    built.export_library(str(module), **link_options())
    weights = tmp_path / "mod.params"
    row = np.random.default_rng(0).standard_normal((6, 32), np.float32)
    weights.write_bytes(row.tobytes())

    program = made.sum_of_rows()
    check_program(program, ssram_bytes=made.SSRAM_BYTES, ddr_bytes=made.DDR_BYTES)
    memory = DieMemory(weights, ddr_bytes=made.DDR_BYTES, ssram_bytes=made.SSRAM_BYTES)
    die = Die(memory, library.load_module(module))
    for position in (0, 7, 15):
        registers = {"position": position, "row": 0}
        logits = run_stage([die], [program], {"tokens": np.zeros(4, np.int32)}, registers)
        np.testing.assert_allclose(logits, row[0] + position * row[1], rtol=1e-6)


def test_a_kernel_that_mod_so_lacks_is_named(tmp_path: Path) -> None:
    """The runtime library says it in its own way."""
    module = tmp_path / "mod.so"
    renamed = add.with_attr("global_symbol", "other")
    built = compile_module(tvm.IRModule({"other": renamed}), tvm.target.Target.from_device("cpu"))
    built.export_library(str(module), **link_options())
    memory = DieMemory(None, ddr_bytes=made.DDR_BYTES, ssram_bytes=made.SSRAM_BYTES)
    die = Die(memory, library.load_module(module))
    line = made.ssram(0, 128)
    out = (made.ssram(256, 128), "write")
    tensors = tuple(
        tensor.model_copy(update={"role": "cache"}) if tensor.role == "parameter" else tensor for tensor in made.TENSORS
    )
    program = made.program(
        [made.load(made.ddr(0, 128), line), made.launch((line, "read"), (line, "read"), out, waits=(0,))],
        tensors=tensors,
    )
    with pytest.raises(ArtifactError, match=r"mod\.so has no kernel add, which the prefill of rank 0 launches"):
        run_stage([die], [program], {"tokens": np.zeros(4, np.int32)}, {"position": 0, "row": 0})
