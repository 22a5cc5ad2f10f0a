"""Kernels as a shared library, and what stays of their regions in text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi

from vamc_py._link import link_options
from vamc_py.schedules.vacc.elementwise import add, cast_f16, embed_rows
from vamc_py.schedules.vacc.gemm import gemm
from vamc_py.schedules.vacc.head_prep import head_prep
from vamc_py.schedules.vacc.host import compile_kernels, export_kernels
from vamc_py.schedules.vacc.kernel import DeviceKernel
from vamc_py.schedules.vacc.quantization import dequantize, dequantize_groups, quantize_rows
from vamc_py.schedules.vacc.rms_norm import rms_norm
from vamc_py.schedules.vacc.softmax import softmax
from vamc_py.schedules.vacc.swiglu import swiglu
from vamc_py.schedules.vacc.work import count_work
from vamc_py.target.vacc.tag import vacc_target

KERNELS = [
    gemm(65, 144, 100, dtype="f16", bias=True, residual=True, alpha=0.5, out="float16", cores=3),
    gemm(7, 48, 100, dtype="i8", group=32, scale=True, cores=3),
    rms_norm(5, 100, 1e-6, out="float16", cores=3),
    swiglu(5, 96, out="float16", cores=3),
    softmax(6, 3, 32, cores=3),
    head_prep(16, 3, 1, 8, norms=True, eps=1e-6, cores=3),
    quantize_rows(5, 100, group=32, cores=3),
    dequantize(100, values="float8_e4m3fn", cores=3),
    dequantize_groups(48, 100, values="int4", group=32, zeros=True, cores=3),
    embed_rows(5, 100, "int8", scale=True, cores=3),
    add(100, cores=3),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name.split("_rows")[0])
def test_a_kernel_reads_back_from_its_text(kernel: DeviceKernel) -> None:
    parsed = tvm.script.from_source(kernel.function.script())
    tvm.ir.assert_structural_equal(parsed, kernel.function)
    work = kernel.record().work
    assert len(work) == 3
    assert all(work)  # no core of the three has nothing to do
    assert count_work(parsed) == work


def test_a_library_has_a_function_for_each_kernel(tmp_path: Path) -> None:
    x = np.linspace(-2, 2, 100, dtype=np.float32)
    scores, p = np.zeros(6 * 32, np.float32), np.zeros((6, 32), np.float16)
    wide = rms_norm(1, 100, 0.0, out="float32", cores=2)
    export_kernels([wide, softmax(6, 3, 32, cores=3), wide], tmp_path / "mod.so", link_options())
    module = tvm_ffi.load_module(str(tmp_path / "mod.so"))
    y = np.zeros_like(x)
    module[wide.name](*(tvm_ffi.from_dlpack(a) for a in (x, np.ones_like(x), y)))
    np.testing.assert_allclose(y, x / np.sqrt((x * x).mean()), rtol=1e-6)
    module[softmax(6, 3, 32, cores=3).name](tvm_ffi.from_dlpack(scores), tvm_ffi.from_dlpack(p.reshape(-1)), 1)
    np.testing.assert_array_equal((p > 0).sum(1), [2, 3, 4] * 2)


def test_a_wrong_buffer_is_refused() -> None:
    module = compile_kernels([cast_f16(100, cores=1)])
    x, y = np.zeros(99, np.float32), np.zeros(100, np.float16)
    with pytest.raises(ValueError, match="shape"):
        module[cast_f16(100, cores=1).name](tvm_ffi.from_dlpack(x), tvm_ffi.from_dlpack(y))


def test_a_name_stands_for_one_kernel() -> None:
    kernel = add(16, cores=1)
    assert kernel is add(16, cores=1)
    assert kernel != add(17, cores=1)
    other = DeviceKernel(kernel.name, add(17, cores=1).function, "vector", kernel.arguments, kernel.modes)
    with pytest.raises(ValueError, match="two different kernels are called add_elements16_cores1"):
        compile_kernels([kernel, other])


@pytest.mark.parametrize("name", [kernel.name for kernel in KERNELS])
def test_names_are_symbols(name: str) -> None:
    assert name.isidentifier()
    assert name.isascii()


def test_the_target_is_a_tag() -> None:
    target = tvm.target.Target("vacc")
    assert list(target.keys) == ["vacc", "cpu"]
    assert str(target) == str(vacc_target())


def test_no_product_is_fused_with_its_sum() -> None:
    module = compile_kernels([kernel for kernel in KERNELS if kernel.name.startswith(("gemm", "swiglu"))])
    assembly = module.mod.inspect_source("asm")
    assert "vmulps" in assembly
    assert "vfmadd" not in assembly
