"""From the lowered program to mod.so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tvm
from tvm import relax

from vamc_py import _tvm
from vamc_py._link import Link
from vamc_py._shape_functions import sort_shape_functions
from vamc_py.pipeline.lean_step import drop_checks, share_tensors
from vamc_py.pipeline.program import Program
from vamc_py.schedules.llvm import simd
from vamc_py.schedules.llvm.machine_limits import machine_limits
from vamc_py.target.description import TargetDescription

# Parallel pieces of the loops that measure a machine's limits. They share out evenly over 2, 3, 4, 6, 8, 12, 16, 24 or
# 48 threads, so that a module measures the machine it runs on and not the one it was built on.
LIMIT_TASKS = 48


def build_module(program: Program, target: TargetDescription) -> tvm.runtime.Module:
    """The compiled Relax executable: ``step``, its kernels, and the loops that measure the machine's limits."""
    module = program.module.clone()
    for name, function in _limits(target).items():
        module[name] = function.with_attr("global_symbol", name)
    tvm_target = target.tvm_target()
    with tvm_target:
        return _tvm.compile_module(module, tvm_target, relax_pipeline=lowering())


def build_limits(target: TargetDescription) -> tvm.runtime.Module:
    """A module of the loops that measure the machine's limits alone; its functions are its items."""
    tvm_target = target.tvm_target()
    with tvm_target:
        return _tvm.compile_module(tvm.IRModule(_limits(target)), tvm_target)


def _limits(target: TargetDescription) -> dict[str, tvm.tirx.PrimFunc]:
    with simd.using(target.instruction_set):
        return machine_limits(LIMIT_TASKS)


def lowering() -> tvm.transform.Pass:
    """TVM's CPU pipeline without the dispatch to libraries that no wheel has, and with its faults mended."""
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            *fusing(),
            *planning(),
            passes.LowerAllocTensor(),
            share_tensors,
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            drop_checks,
            passes.AttachGlobalSymbol(),
            sort_shape_functions,
        ]
    )


def fusing() -> list[tvm.transform.Pass]:
    """The beginning of ``lowering``: after it the function holds a call for each kernel that will run."""
    passes = relax.transform
    return [
        passes.LegalizeOps(),
        passes.AnnotateTIROpPattern(),
        passes.FoldConstant(),
        passes.FuseOps(),
        passes.FuseTIR(),
        _tvm.rewrite_dataflow_reshape,
    ]


def planning() -> list[tvm.transform.Pass]:
    """What follows in ``lowering``: after it the function says which values share which memory."""
    passes = relax.transform
    return [
        passes.ToNonDataflow(),
        passes.RemovePurityChecking(),
        passes.CallTIRRewrite(),
        passes.StaticPlanBlockMemory(),
    ]


def export_module(executable: tvm.runtime.Module, path: Path, link: Mapping[str, Link]) -> None:
    """Writes the shared library; ``link`` are the options of ``_link.link_options``."""
    executable.export_library(str(path), **link)
