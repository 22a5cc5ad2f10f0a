"""Every TVM workaround of the compiler, each with the fault of TVM 0.27.0.post1 that it mends."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import tvm
import tvm.relax.script as relax_script
import tvm.relax.script.parser as relax_parser
from tvm import ir, relax, s_tir, tirx

TensorType = relax.TensorType

_NAMESPACE = "vamc"


def register_operator(name: str, infer_type: Callable[[Any], Any], builder: Callable[..., Any]) -> Any:
    """Register ``relax.vamc.<name>`` and make ``R.vamc.<name>`` parse in TVMScript.

    TVM has no public Python call to register a Relax operator, and its script parser looks for operators
    in its own module only. Registering twice (a reloaded module) returns the operator that exists.
    """
    full = f"relax.{_NAMESPACE}.{name}"
    # Two modules pass for R: tvm.script.relax in a person's source, tvm.script.parser.relax in parsed text.
    for script in (relax_script, relax_parser):
        namespace = getattr(script, _NAMESPACE, None)
        if namespace is None:
            namespace = types.SimpleNamespace()
            setattr(script, _NAMESPACE, namespace)
        setattr(namespace, name, builder)
    try:
        return ir.Op.get(full)
    except (AttributeError, ValueError, tvm.error.InternalError):
        pass
    tvm.get_global_func("ir.RegisterOp")(full, "")
    ir.register_op_attr(full, "FInferType", lambda call, _builder: infer_type(call))
    ir.register_op_attr(full, "FPurity", True)
    return ir.Op.get(full)


def make_call(op: Any, arguments: Sequence[Any], attributes: dict[str, Any]) -> Any:
    """A Relax call whose attributes print and parse (``DictAttrs``); TVM makes none for operators from Python."""
    return relax.Call(op, list(arguments), attrs=ir.make_node("ir.DictAttrs", **attributes))


def torch_converters() -> dict[str, Any]:
    """Converters for ``from_exported_program(custom_convert_map=…)``.

    TVM refuses to concatenate the empty one-dimensional tensor with which transformers' DynamicCache begins, and knows
    no ``lift_fresh_copy``, ``detach_`` or ``to.device``, which are identities here.
    """
    identities = ("lift_fresh_copy.default", "detach_.default", "detach.default", "alias.default", "to.device")
    return {"cat.default": _concatenate, **dict.fromkeys(identities, _identity)}


def _identity(node: Any, importer: Any) -> Any:
    return importer.env[node.args[0]]


def _concatenate(node: Any, importer: Any) -> Any:
    tensors = [importer.env[argument] for argument in node.args[0]]
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    kept = [t for t in tensors if not (len(t.ty.shape) == 1 and t.ty.shape[0] == 0)] or tensors[:1]
    return kept[0] if len(kept) == 1 else importer.block_builder.emit(relax.op.concat(kept, axis=axis))


@tvm.transform.module_pass(opt_level=0, name="RewriteDataflowReshape")  # type: ignore[untyped-decorator, unused-ignore]
def rewrite_dataflow_reshape(module: Any, _context: Any) -> Any:
    """relax.transform.RewriteDataflowReshape for a module with hand-written kernels.

    TVM's search for reshapes fails on a PrimFunc whose body is no root block, and a kernel inside one would take the
    lowering for schedules, which does not end on unrolled code. So the kernels wear a root block for this pass only.
    """
    kernels = {
        gv: function
        for gv, function in module.functions_items()
        if isinstance(function, tirx.PrimFunc) and not isinstance(function.body, s_tir.SBlockRealize)
    }
    dressed = module.clone()
    for gv, function in kernels.items():
        root = s_tir.SBlock([], [], [], "root", function.body)
        dressed.update_func(gv, function.with_body(s_tir.SBlockRealize([], True, root)))
    rewritten = relax.transform.RewriteDataflowReshape()(dressed)
    for gv, function in kernels.items():
        rewritten.update_func(gv, function)
    return rewritten


def compile_module(module: tvm.IRModule, target: Any, **options: Any) -> Any:
    """``tvm.compile`` without CompactBufferAllocation.

    That pass gives a buffer the size of what it sees accessed, which it gets wrong for indices that come from memory,
    and it takes half of a kernel's compile time. No buffer here is larger than it has to be: there are no schedules
    that would narrow the use of one.
    """
    with tvm.transform.PassContext(disabled_pass=["s_tir.CompactBufferAllocation"]):
        return tvm.compile(module, target=target, **options)
