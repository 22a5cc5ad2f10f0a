"""What the virtual machine does between two kernels of a step, reduced to what has to be done there.

For a function of 28 layers TVM leaves 800 checks of arguments and 230 tensors that are made anew in each step: as long
together as some kernels take.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tvm
import tvm_ffi
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from vamc_py.pipeline.graph import operator_name, variables

_CHECKS = ("vm.builtin.check_tensor_info", "vm.builtin.check_tuple_info")
_MATCH_SHAPE = "vm.builtin.match_shape"
_STORE = 1  # MatchShapeCode::kStoreToHeap: the dimension becomes the value of a symbolic variable


def _share_tensors(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Tensors of one shape at one place of a storage become one tensor.

    The memory plan gives a place to one value after the other; of their tensors nothing is left but shape and place.
    """
    module = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            module.update_func(name, _Sharing(module).visit_expr(function))
    return module


@mutator  # type: ignore[untyped-decorator, unused-ignore]
class _Sharing(PyExprMutator):  # type: ignore[misc, unused-ignore]
    """Makes variables of equal tensors one."""

    def __init__(self, module: tvm.IRModule) -> None:
        super().__init__(module)
        self.made: dict[str, list[tuple[Any, Any]]] = {}  # by storage: calls that make a tensor, with their variables

    def visit_var_binding_(self, binding: Any) -> None:
        if operator_name(binding.value) != "relax.memory.alloc_tensor":
            super().visit_var_binding_(binding)
            return
        value = self.visit_expr(binding.value)
        same_storage = self.made.setdefault(str(value.args[0].name), [])
        for call, var in same_storage:
            if tvm_ffi.structural_equal(call, value):
                self.set_var_remap(binding.var, var)
                return
        var = self.builder_.emit(value, binding.var.name)
        self.set_var_remap(binding.var, var)
        same_storage.append((value, var))


def _drop_checks(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """The checks of what lies in tuples (caches, parameters) and of results go.

    Each kernel checks the shapes that it is given, and the runtime has checked the artifact. Those of plain arguments
    stay, and so does what gives a symbolic dimension its value.
    """
    module = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            module.update_func(name, _without_checks(function))
    return module


def _without_checks(function: Any) -> Any:
    kept = [
        binding
        for block in function.body.blocks
        for binding in block.bindings
        if not _is_needless(binding.value, function.params)
    ]
    used = {var for binding in kept for var in variables(binding.value)} | set(variables(function.body.body))
    kept = [one for one in kept if one.var in used or not isinstance(one.value, relax.TupleGetItem)]
    body = relax.SeqExpr([relax.BindingBlock(kept)], function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def _is_needless(value: Any, parameters: Iterable[Any]) -> bool:
    if not isinstance(value, relax.Call) or not isinstance(value.op, relax.ExternFunc):
        return False
    name = str(value.op.global_symbol)
    if name not in (*_CHECKS, _MATCH_SHAPE) or any(value.args[0].same_as(parameter) for parameter in parameters):
        return False
    if name == _MATCH_SHAPE:
        codes = value.args[3:-1:2]  # tensor, heap, number of dimensions, then a code and a value for each; a text
        return all(int(code.value) != _STORE for code in codes)
    return True


# To run once LowerAllocTensor has run, before what ends the lives of values. Works on a copy.
share_tensors = tvm.transform.module_pass(_share_tensors, opt_level=0, name="ShareTensors")
# To run once VMShapeLower has run. Works on a copy.
drop_checks = tvm.transform.module_pass(_drop_checks, opt_level=0, name="DropChecks")
