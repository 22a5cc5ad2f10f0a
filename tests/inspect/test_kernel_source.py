"""Kernels as TIR, LLVM IR and assembly: what is shown is what runs, parallel loops included."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from support.dumps import make_dump

from vamc_py.errors import UserError
from vamc_py.inspect.kernel_source import kernel_names, kernel_source
from vamc_py.target.description import TargetDescription

HAS_VNNI = tvm.get_global_func("target.target_has_feature")("avx512vnni", tvm.target.Target.from_device("cpu"))


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, TargetDescription]:
    """The modules after select-kernels and after lower-reference, and the target."""
    dump = make_dump(tmp_path_factory.mktemp("kernels") / "dump", layers=1, text=False)
    return dump.module(dump.find("select-kernels")), dump.module(dump.find("last")), dump.context().target


def kernel_of(module: Any, operator: str) -> str:
    return next(name for name in kernel_names(module) if module[name].attrs["vamc.operator"] == operator)


def test_kernels_are_the_modules_prim_funcs(lowered: tuple[Any, Any, TargetDescription]) -> None:
    selected, last, _ = lowered
    names = kernel_names(selected)
    assert list(names) == sorted(names)
    assert {"step", *names} == {gv.name_hint for gv in selected.get_global_vars()}
    assert kernel_names(last) == names


def test_tir_is_the_script_under_the_kernels_name(lowered: tuple[Any, Any, TargetDescription]) -> None:
    selected, _, target = lowered
    name = kernel_of(selected, "linear")
    text = kernel_source(selected, name, "tir", target)
    assert f"def {name}(x: T.Buffer((" in text
    assert "T.parallel(" in text
    assert "T.call_llvm_pure_intrin(" in text


def test_llvm_defines_the_kernel_and_its_parallel_loops(lowered: tuple[Any, Any, TargetDescription]) -> None:
    _, last, target = lowered
    name = kernel_of(last, "linear")
    definitions = [line for line in kernel_source(last, name, "llvm", target).splitlines() if line.startswith("define")]
    for symbol in (f"@__tvm_ffi_{name}(", f"@{name}_compute_(", "@__tvm_parallel_lambda"):
        assert any(symbol in line for line in definitions), symbol


@pytest.mark.skipif(not HAS_VNNI, reason="needs a CPU with avx512_vnni")
def test_assembly_of_the_int8_linear_uses_vnni(lowered: tuple[Any, Any, TargetDescription]) -> None:
    selected, _, target = lowered
    name = kernel_of(selected, "linear")
    text = kernel_source(selected, name, "asm", target)
    assert f"{name}_compute_:" in text
    body = text.partition("__tvm_parallel_lambda:")[2]
    assert "vpdpbusd" in body


def test_an_unknown_kernel_is_a_sentence(lowered: tuple[Any, Any, TargetDescription]) -> None:
    selected, _, target = lowered
    name = kernel_of(selected, "select_rows")
    with pytest.raises(UserError, match=f"no kernel {name}x; did you mean {name}"):
        kernel_source(selected, f"{name}x", "asm", target)
    with pytest.raises(UserError, match=f"no kernel 7; there are .*{name}"):
        kernel_source(selected, "7", "tir", target)
    with pytest.raises(UserError, match="no kernel step"):
        kernel_source(selected, "step", "tir", target)


def test_a_program_without_kernels_says_when_they_come() -> None:
    target = TargetDescription("llvm", "x86-64", 1, (), "fp32")
    with pytest.raises(UserError, match="take a stage after select-kernels"):
        kernel_source(tvm.IRModule({}), "linear", "tir", target)
