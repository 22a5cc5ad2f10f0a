"""select-kernels: each R.vamc operator becomes a call of the target's kernel."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import tvm
from tvm import relax

from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.matching import shape
from vamc_py.pipeline.program import OPERATOR_ATTRIBUTE, Program, layout
from vamc_py.schedules.kernel import Kernel, KernelChoice
from vamc_py.weights.plan import ParameterPlan


@dataclass(frozen=True)
class SelectKernels(Pass):
    """Replaces each call for which ``schedules/<target>`` has a kernel by ``call_tir`` of it.

    Weights that a kernel wants packed get their packed type, and the parameter plan the packing step. A call without a
    kernel, or whose weight something else needs unpacked, stays for its reference lowering.
    """

    name: ClassVar[str] = "select-kernels"
    stage: ClassVar[Stage] = "lower"
    tolerance: ClassVar[float] = 1e-3  # activations of 16 bits meet int8 weights
    after: ClassVar[tuple[str, ...]] = ("flatten-batch",)
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(x: R.Tensor(("n", 64), "float32"), weight: R.Tensor((128, 64), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            gate_up = R.vamc.linear(x, weight, bias=False, residual=False)
            out = R.vamc.swiglu(gate_up)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        module = importlib.import_module(f"vamc_py.schedules.{context.target.kind}.select")
        select = cast(KernelChoice, module.select)
        return _Selection(program, lambda call: select(call, context.target.features)).run()


class _Selection:
    def __init__(self, program: Program, select: Callable[[Any], Kernel | None]) -> None:
        self.program = program
        self.select = select
        self.graph = Graph(program.function)
        self.symbols: dict[Any, Any] = {}  # kernel function -> global variable
        self.builder = relax.BlockBuilder(program.module)
        self.weights = set(layout(program.function)[2])
        self.packed: dict[Any, Any] = {}  # weight -> packed weight
        self.plan: ParameterPlan = program.plan

    def run(self) -> Program:
        for var, kernel in self._kernels().items():
            self._replace(var, self.graph.values[var], kernel)
        inputs, caches, weights = layout(self.program.function)
        parameters = [*inputs, *caches, *(self.packed.get(weight, weight) for weight in weights)]
        function = self.graph.rebuild(parameters=parameters)
        program = Program(self._module_with_kernels(), self.program.plan, self.program.notes)
        return program.with_function(function, plan=self.plan)

    def _kernels(self) -> dict[Any, Kernel]:
        """The kernel by variable, without those that want to pack what cannot be packed."""
        chosen = {var: self.select(value) for var, value in self.graph.values.items() if isinstance(value, relax.Call)}
        kernels = {var: kernel for var, kernel in chosen.items() if kernel is not None}
        refused: set[Any] | None = None
        while refused is None or refused:
            refused = {var for var, kernel in kernels.items() if not self._can_pack(var, kernel, kernels)}
            kernels = {var: kernel for var, kernel in kernels.items() if var not in refused}
        return kernels

    def _can_pack(self, var: Any, kernel: Kernel, kernels: Mapping[Any, Kernel]) -> bool:
        """Whether all that the kernel wants packed are parameters which only kernels read, each of them packed."""
        for position in kernel.packed:
            weight = self.graph.values[var].args[position]
            if weight not in self.weights or self.graph.is_result(weight):
                return False
            for user in self.graph.users[weight]:
                packed = kernels[user].packed if user in kernels else {}
                arguments = enumerate(self.graph.values[user].args if packed else ())
                if not packed or any(argument == weight and i not in packed for i, argument in arguments):
                    return False
        return True

    def _replace(self, var: Any, call: Any, kernel: Kernel) -> None:
        arguments = [
            self._pack(argument, kernel.packed[position]) if position in kernel.packed else argument
            for position, argument in enumerate(call.args)
        ]
        symbol = self._symbol(kernel, operator_name(call))
        if not kernel.in_place:
            types = list(call.ty.fields) if isinstance(call.ty, relax.TupleType) else call.ty
            self.graph.replace(var, relax.call_tir(symbol, arguments, types))
            return
        changed = [call.args[position].ty for position in kernel.in_place]
        results = relax.op.call_tir_inplace(symbol, arguments, [*kernel.in_place, -1], [*changed, call.ty])
        self.graph.replace(var, relax.TupleGetItem(self.graph.bind(results, "in_place"), len(changed)))

    def _symbol(self, kernel: Kernel, operator: str) -> Any:
        if kernel.function not in self.symbols:
            # Opaque (8) to TVM's own fusion; private, as the factories name all kernels of a kind alike.
            function = kernel.function.with_attr("op_pattern", 8).without_attr("global_symbol")
            function = function.with_attr(OPERATOR_ATTRIBUTE, operator.removeprefix("relax.").removeprefix("vamc."))
            for name, value in kernel.attributes.items():
                function = function.with_attr(name, value)
            self.symbols[kernel.function] = self.builder.add_func(function, kernel.name)
        return self.symbols[kernel.function]

    def _pack(self, weight: Any, wanted: Any) -> Any:
        if weight not in self.packed:
            self.packed[weight] = relax.Var(weight.name, relax.TensorType(list(wanted.shape), wanted.dtype))
            self.plan = self.plan.with_recipes({weight.name: self.plan[weight.name].then(wanted.step)})
        elif [int(d) for d in shape(self.packed[weight])] != list(wanted.shape):
            raise ValueError(f"two kernels want {weight.name} in different layouts")
        return self.packed[weight]

    def _module_with_kernels(self) -> Any:
        module = self.builder.get()
        return tvm.IRModule(dict(module.functions_items()), attrs=self.program.module.attrs)
