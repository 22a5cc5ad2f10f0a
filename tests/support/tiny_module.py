"""A Relax function small enough to compile in a moment. Run as a program: export it to the file named."""

from __future__ import annotations

import sys

import tvm
from tvm import relax

from vamc_py._link import link_options
from vamc_py._shape_functions import sort_shape_functions

TARGET = tvm.target.Target({"kind": "llvm"})


def tiny_module() -> tvm.IRModule:
    """``main(x: f32[n, 4]) -> tanh(exp(x))``: it calls libm and derives dimensions, as real modules do."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([tvm.tirx.Var("n", "int64"), 4], "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.tanh(builder.emit(relax.op.exp(x)))))
    return builder.get()


def lowered_tiny_module() -> tvm.IRModule:
    """The same after TVM's default Relax pipeline."""
    with TARGET:
        return relax.get_default_pipeline(TARGET)(tiny_module())


def compile_tiny() -> tvm.runtime.Executable:
    """The same compiled, with its shape functions in order."""
    return tvm.compile(sort_shape_functions(lowered_tiny_module()), target=TARGET, relax_pipeline=None)


if __name__ == "__main__":
    compile_tiny().export_library(sys.argv[1], **link_options())
