"""Many programs in one module: they share their kernels, which TVM takes long over, and so compile in a fraction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from support.relax_modules import Array, context_for, tensor
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from vamc_py._tvm import compile_module
from vamc_py.passes.lower_reference import LowerReference
from vamc_py.pipeline.build import lowering
from vamc_py.pipeline.program import Program


@mutator
class _Symbols(PyExprMutator):
    """Names other kernels."""

    def __init__(self, symbols: dict[Any, Any]) -> None:
        super().__init__()
        self.symbols = symbols

    def visit_global_var_(self, symbol: Any) -> Any:
        return self.symbols.get(symbol, symbol)


def compile_together(programs: Sequence[Program]) -> list[Callable[..., list[Array]]]:
    """Each program's function, lowered by reference and compiled for this machine; see ``relax_modules.Compiled``."""
    context = context_for()
    builder = relax.BlockBuilder()
    functions = []
    for program in (LowerReference().apply(program, context) for program in programs):
        kernels = [(symbol, f) for symbol, f in program.module.functions_items() if symbol.name_hint != program.name]
        # add_func gives the symbol of an equal function that is there already
        symbols = {symbol: builder.add_func(function, symbol.name_hint) for symbol, function in kernels}
        functions.append(relax.utils.copy_with_new_vars(_Symbols(symbols).visit_expr(program.function)))
    module = builder.get()
    names = [f"function_{index}" for index in range(len(functions))]
    for name, function in zip(names, functions, strict=True):
        module[name] = function.with_attr("global_symbol", name)
    executable = compile_module(module, context.target.tvm_target(), relax_pipeline=lowering())
    machine = relax.VirtualMachine(executable, tvm.cpu())

    def callable_of(name: str) -> Callable[..., list[Array]]:
        return lambda *arguments: [
            machine[name](*(tensor(a) if isinstance(a, np.ndarray) else a for a in arguments)).numpy()
        ]

    return [callable_of(name) for name in names]
