"""When a pass or the build fails: at which operator, told by the exception itself in its notes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import tvm
from tvm import relax, tirx

from vamc_py._tvm import compile_module
from vamc_py.errors import UserError
from vamc_py.inspect.dump import INDEX_FILE
from vamc_py.interrupts import interrupted
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.build import lowering
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.runner import Observer, PassRun, Planned
from vamc_py.target.description import TargetDescription


def first_failing(program: Program, error: BaseException, attempt: Callable[[Program], object]) -> str | None:
    """The binding without which ``attempt`` does not fail as it did, as "lv3 = relax.add"; None when none can be named.

    The function is one straight line of bindings, so its beginnings are tried: ``attempt`` fails from the first one on
    that holds the binding it fails at. Some ten attempts for a function of a thousand bindings.
    """
    graph = Graph(program.function)
    bindings = [var for var in graph.values if isinstance(var.ty, relax.TensorType | relax.TupleType)]

    def fails(count: int) -> bool:
        beginning = program.with_function(graph.rebuild(outputs=bindings[:count][-1:]))
        try:
            attempt(beginning)
        except Exception as again:
            return _same(again, error)
        return False

    if not bindings or not fails(len(bindings)):
        return None
    low, high = 0, len(bindings)  # the first ``high`` bindings fail, the first ``low`` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle, high)
    var = bindings[high - 1]
    return f"{var.name} = {operator_name(graph.values[var]) or 'a value without an operator'}"


def _same(left: BaseException, right: BaseException) -> bool:
    return type(left) is type(right) and str(left).splitlines()[-1:] == str(right).splitlines()[-1:]


class FaultKeeper(Observer):
    """A context around passes and build: a fault of ours that leaves it says in its notes where it happened.

    :param ir: the folder with the IR up to the fault. It becomes ``kept``, which a later run without a fault removes.

    What is the input's fault passes as it is.
    """

    def __init__(self, context: Context, ir: Path | None = None, kept: Path | None = None) -> None:
        self._context = context
        self._ir = ir
        self._kept = kept
        self._running: tuple[int, Planned] | None = None
        self._program: Program | None = None

    def before(self, index: int, planned: Planned, program: Program) -> None:
        self._running, self._program = (index, planned), program

    def after(self, run: PassRun) -> None:
        self._running, self._program = None, run.after

    def __enter__(self) -> FaultKeeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._forget()
        elif self._program is None or interrupted() or isinstance(error, UserError):
            return
        elif isinstance(error, Exception):
            if self._running is not None:
                explain_pass(error, *self._running, self._program, self._context)
            else:
                explain_build(error, self._program, self._context.target)
            self._keep(error)

    def _keep(self, error: Exception) -> None:
        if self._ir is None or self._kept is None or not self._ir.is_dir():
            return
        self._forget()
        shutil.move(self._ir, self._kept)
        error.add_note(f"the IR up to there is kept: vamc-py ir show {self._kept} last")
        again = f"ir apply {self._kept}:last {self._running[1].command}" if self._running else f"ir build {self._kept}"
        error.add_note(f"to see it fail again without the checkpoint: vamc-py {again}")

    def _forget(self) -> None:
        if self._kept is not None and (self._kept / INDEX_FILE).is_file():
            shutil.rmtree(self._kept)


def explain_pass(error: Exception, index: int, step: Planned, program: Program, context: Context) -> None:
    """Adds to an exception which pass it left, and at which operator."""
    error.add_note(f"the pass {step.label} ({index} in the pipeline, from {step.origin}) failed")
    at = first_failing(program, error, lambda beginning: step.one.apply(beginning, context))
    if at is not None:
        error.add_note(f"first at {at} in {program.name}")


def explain_build(error: Exception, program: Program, target: TargetDescription) -> None:
    """Adds to an exception of the build the kernel that cannot be compiled, or the operator that cannot be lowered."""
    error.add_note("the build failed")
    kernel = failing_kernel(program, target)
    if kernel is not None:
        error.add_note(f"the kernel {kernel} does not compile")
        return

    def attempt(beginning: Program) -> Any:
        with target.tvm_target():
            return lowering()(beginning.module)

    at = first_failing(program, error, attempt)
    if at is not None:
        error.add_note(f"first at {at} in {program.name}")


def failing_kernel(program: Program, target: TargetDescription) -> str | None:
    """The first kernel of the module that does not compile by itself."""
    for symbol, function in program.module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            name = symbol.name_hint
            alone = tvm.IRModule({name: function.with_attr("global_symbol", name)})
            try:
                compile_module(alone, target.tvm_target())
            except Exception:
                return str(name)
    return None
