"""Put the stores of Relax's shape functions in order, so that two compiles give the same bytes.

VMShapeLower walks a table hashed by the addresses of symbolic variables, and writes its stores in that order: about
one compile in fifteen of a function with two derived dimensions came out with two of them exchanged.
"""

from __future__ import annotations

import tvm
from tvm import tirx


def _sort_shape_functions(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Each store of a shape function computes one slot of the table from slots that the caller filled, never from
    another store's, so any order is right."""
    module = module.clone()
    for name, function in module.functions_items():
        if name.name_hint.startswith("shape_func") and isinstance(function.body, tirx.SeqStmt):
            stores = sorted(function.body.seq, key=lambda store: int(store.indices[0]))
            module.update_func(name, function.with_body(tirx.SeqStmt(stores)))
    return module


# To run once VMShapeLower has run, at the end of a Relax pipeline. Works on a copy.
sort_shape_functions = tvm.transform.module_pass(_sort_shape_functions, opt_level=0, name="SortShapeFunctions")
