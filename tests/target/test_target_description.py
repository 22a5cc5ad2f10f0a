"""What a module may use on a CPU, what it uses, and what LLVM is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tvm

from vamc_py.artifact import cpu as artifact_cpu
from vamc_py.config.cpus import CPUS, NATIVE
from vamc_py.errors import UserError
from vamc_py.schedules.llvm import bfloat, linear, rms_norm, simd
from vamc_py.schedules.llvm.instruction_set import InstructionSet
from vamc_py.target import description, llvm_features
from vamc_py.target.description import OPTIONAL, REQUIRED, target_for, this_machine
from vamc_py.target.used_features import used_features

AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
SECOND_SPELLINGS = {
    "core-avx2", "core_4th_gen_avx", "core_4th_gen_avx_tsx", "core_5th_gen_avx", "core_5th_gen_avx_tsx", "mic_avx512",
    "skx", "skylake_avx512", "icelake_client", "icelake_server", "arrowlake_s", "graniterapids_d",
}  # fmt: skip


def llvm_has(target: Any) -> set[str]:
    """All features by which LLVM compiles for a target."""
    return {str(feature) for feature in tvm.get_global_func("target.llvm_get_cpu_features")(target)}


def test_the_configuration_knows_llvms_cpus_with_avx2() -> None:
    names = map(str, tvm.get_global_func("target.llvm_get_cpu_archlist")(tvm.target.Target("llvm")))
    able = {name for name in names if {*REQUIRED, "64bit"} <= llvm_features.of(name)}
    assert set(CPUS) == able - SECOND_SPELLINGS
    assert len(CPUS) == len(set(CPUS))


@pytest.mark.parametrize("cpu", [NATIVE, *CPUS])
def test_llvm_is_kept_to_the_features_of_the_target(cpu: str) -> None:
    target = target_for(cpu, "int8")
    beyond = llvm_has(target.tvm_target()) - llvm_has(tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"}))
    assert set(target.features) <= llvm_has(target.tvm_target())
    tuning = {feature for feature in beyond if feature not in target.features}
    assert not {feature for feature in tuning if artifact_cpu.missing_features([feature]) == []}, "an instruction set"
    assert not {
        feature for feature in tuning if feature.startswith(("avx", "amx", "sse", "sha", "aes", "vaes", "gfni"))
    }


@pytest.mark.parametrize(
    ("cpu", "instructions"),
    [
        ("x86-64-v3", InstructionSet(False, None, False)),
        ("x86-64-v4", InstructionSet(True, None, False)),
        ("haswell", InstructionSet(False, None, False)),
        ("knl", InstructionSet(False, None, False)),  # AVX-512 without bytes and words
        ("alderlake", InstructionSet(False, "avx", False)),
        ("skylake-avx512", InstructionSet(True, None, False)),
        ("icelake-server", InstructionSet(True, "avx512", False)),
        ("sapphirerapids", InstructionSet(True, "avx512", True)),
        ("znver3", InstructionSet(False, None, False)),
        ("znver4", InstructionSet(True, "avx512", True)),
    ],
)
def test_instruction_sets_of_cpus(cpu: str, instructions: InstructionSet) -> None:
    target = target_for(cpu, "int8")
    assert target.instruction_set == instructions
    assert target.mcpu == cpu
    assert target.features[: len(REQUIRED)] == REQUIRED
    assert set(target.features) <= {*REQUIRED, *OPTIONAL}


def flags(path: Path, *names: str) -> Path:
    path.write_text(f"processor\t: 0\nflags\t\t: {' '.join(names)}\n")
    return path


@pytest.fixture
def this_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the flags that Linux reports of this machine's CPU."""

    def pretend(*names: str) -> None:
        path = flags(tmp_path / "cpuinfo", *names)
        monkeypatch.setattr(description, "missing_features", lambda wanted: artifact_cpu.missing_features(wanted, path))

    return pretend


LINUX_V3 = ("avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "popcnt")
LINUX_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")


@pytest.mark.parametrize(
    ("more", "instructions"),
    [
        ((), InstructionSet(False, None, False)),
        (("avx_vnni",), InstructionSet(False, "avx", False)),
        (LINUX_AVX512, InstructionSet(True, None, False)),
        ((*LINUX_AVX512, "avx512_vnni"), InstructionSet(True, "avx512", False)),
        ((*LINUX_AVX512, "avx512_vnni", "avx512_bf16"), InstructionSet(True, "avx512", True)),
        ((*LINUX_AVX512[:3], "avx512_vnni", "avx512_bf16"), InstructionSet(False, None, False)),
    ],
    ids=["avx2", "avx-vnni", "avx512", "vnni", "bf16", "avx512-without-vl"],
)
def test_this_machine_is_what_linux_says(this_cpu: Any, more: tuple[str, ...], instructions: InstructionSet) -> None:
    this_cpu(*LINUX_V3, *more)
    target = this_machine("int8")
    assert target.instruction_set == instructions
    assert set(target.features) <= llvm_has(target.tvm_target())
    assert not (set(OPTIONAL) - set(target.features)) & llvm_has(target.tvm_target())


def test_a_machine_without_avx2_is_one_sentence(this_cpu: Any) -> None:
    this_cpu("sse4_2", "bmi1", "popcnt")
    with pytest.raises(UserError) as caught:
        this_machine("int8")
    message = str(caught.value)
    assert "lacks avx2, bmi2, f16c, fma, lzcnt, movbe: the llvm kernels need AVX2, FMA and F16C" in message
    assert "--set backend.target=x86-64-v3" in message
    assert target_for("znver4", "int8").mcpu == "znver4"  # it compiles for others all the same


def bfloat16_kernel() -> Any:
    """A kernel with one product of bfloat16."""
    from tvm.script import tirx as T
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script import builder as build

    with IRBuilder() as module, build.prim_func(s_tir=True):
        build.func_name("pairs")
        build.func_attr({"tirx.noalias": True})
        x, y = (build.arg(name, build.buffer((16,), kind)) for name, kind in (("x", "int32"), ("y", "float32")))
        with bfloat.instructions():
            simd.store(y, bfloat.dot_bf16(simd.splat(0.0), simd.load(x, 0), simd.load(x, 0)), 0)
        T.evaluate(T.int32(0))
    return module.get()


def test_only_what_the_kernels_use_is_asked_of_a_cpu() -> None:
    target = target_for("znver4", "int8")
    plain, int8, bf16 = rms_norm.rms_norm(64, 1e-6), linear.linear(64, 64, "int8"), bfloat16_kernel()
    assert used_features(tvm.IRModule({"a": plain}), target) == (*REQUIRED, *AVX512)
    assert used_features(tvm.IRModule({"a": plain, "b": int8}), target) == (*REQUIRED, *AVX512, "avx512vnni")
    everything = used_features(tvm.IRModule({"a": int8, "b": bf16}), target)
    assert everything == (*REQUIRED, *AVX512, "avx512vnni", "avx512bf16")
    assert target.using(everything) == target


@pytest.mark.parametrize(
    ("cpu", "more"), [("x86-64-v3", ()), ("alderlake", ("avxvnni",)), ("x86-64-v4", AVX512), ("icelake-server", AVX512)]
)
def test_other_cpus_use_what_they_have(cpu: str, more: tuple[str, ...]) -> None:
    target = target_for(cpu, "int8")
    with simd.using(target.instruction_set):
        module = tvm.IRModule({"a": linear.linear(64, 64, "int8")})
    vnni = ("avx512vnni",) if cpu == "icelake-server" else ()
    assert used_features(module, target) == (*REQUIRED, *more, *vnni)


def test_what_is_left_out_llvm_does_not_use() -> None:
    target = target_for("znver4", "fp16")
    used = target.using(used_features(tvm.IRModule({"a": rms_norm.rms_norm(64, 1e-6)}), target))
    assert not {"avx512vnni", "avx512bf16", "avx512vbmi", "gfni"} & llvm_has(used.tvm_target())
    assert {"avx512f", "avx2", "fast-vector-fsqrt"} <= llvm_has(used.tvm_target())
