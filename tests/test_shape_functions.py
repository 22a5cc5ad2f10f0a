"""Shape functions come out in one order, whatever the addresses of their variables were."""

from __future__ import annotations

import tvm
import tvm_ffi
from support.tiny_module import lowered_tiny_module
from tvm import tirx

from vamc_py._shape_functions import sort_shape_functions


def shape_functions(module: tvm.IRModule) -> list[tirx.PrimFunc]:
    return [f for name, f in module.functions_items() if name.name_hint.startswith("shape_func")]


def reversed_stores(module: tvm.IRModule) -> tvm.IRModule:
    module = module.clone()
    for name, function in module.functions_items():
        if name.name_hint.startswith("shape_func"):
            stores = list(function.body.seq)[::-1]
            module.update_func(name, function.with_body(tirx.SeqStmt(stores)))
    return module


def slots(function: tirx.PrimFunc) -> list[int]:
    return [int(store.indices[0]) for store in function.body.seq]


def test_stores_are_sorted_by_slot() -> None:
    module = lowered_tiny_module()
    for candidate in (module, reversed_stores(module)):
        [function] = shape_functions(sort_shape_functions(candidate))
        assert slots(function) == [1, 2]


def test_both_orders_become_the_same_module() -> None:
    module = lowered_tiny_module()
    other = reversed_stores(module)
    assert not tvm_ffi.structural_equal(module, other)
    tvm.ir.assert_structural_equal(sort_shape_functions(module), sort_shape_functions(other))


def test_the_callers_module_stays() -> None:
    module = reversed_stores(sort_shape_functions(lowered_tiny_module()))
    sort_shape_functions(module)
    [function] = shape_functions(module)
    assert slots(function) == [2, 1]
