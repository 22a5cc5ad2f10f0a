"""What a kernel is: its TIR, and the LLVM IR and the assembly that it becomes."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, Literal, get_args

import tvm
from tvm import tirx

from vamc_py._tvm import compile_module
from vamc_py.errors import UserError
from vamc_py.target.description import TargetDescription

Form = Literal["tir", "llvm", "asm"]
FORMS: tuple[Form, ...] = get_args(Form)

_INSPECTED = {"llvm": "ll", "asm": "s"}  # TVM's names of the forms


def kernel_names(module: Any) -> tuple[str, ...]:
    """The symbols of a module's kernels (PrimFuncs), sorted; their bodies may be parallel loops."""
    return tuple(sorted(gv.name_hint for gv, f in module.functions_items() if isinstance(f, tirx.PrimFunc)))


def kernel_source(module: Any, name: str, form: Form, target: TargetDescription) -> str:
    """One kernel as text: "tir" as it is in the module, "llvm" and "asm" compiled for the target, optimised.

    The compiled forms hold the function that the module calls, ``__tvm_ffi_<name>``, which checks its arguments, the
    kernel itself, ``<name>_compute_``, and a ``__tvm_parallel_lambda`` for each parallel loop.
    UserError for a name that is no kernel of the module.
    """
    function = _kernel(module, name)
    if form == "tir":
        return tir_text(module, name)
    tvm_target = target.tvm_target()
    alone = tvm.IRModule({name: function.with_attr("global_symbol", name)})
    with tvm_target:
        built = compile_module(alone, tvm_target)
    return str(built.mod.inspect_source(_INSPECTED[form]))


def tir_text(module: Any, name: str) -> str:
    """A kernel's TIR as TVMScript, the same in every process. UserError for a name that is no kernel of the module."""
    function = _kernel(module, name)
    text = str(function.with_attr("global_symbol", name).script(show_meta=False)) + "\n"
    return _stable_names(text, {parameter.name for parameter in function.params})


def _stable_names(text: str, parameters: set[str]) -> str:
    """The script with sizes of one name (n, n_1, n_2) numbered as they come in the signature.

    TVM numbers them in the order of their addresses in memory.
    """
    head, mark, rest = text.partition("@T.prim_func")
    signature = next(line for line in rest.splitlines() if line.startswith("def "))
    shapes = " ".join(re.findall(r"T\.Buffer\(\((.*?)\), \"", signature))
    alike: dict[str, list[str]] = {}
    for size in dict.fromkeys(re.findall(r"[A-Za-z_]\w*", shapes)):
        if size not in parameters:
            alike.setdefault(re.sub(r"_\d+$", "", size), []).append(size)
    order = {old: new for sizes in alike.values() for old, new in zip(sizes, sorted(sizes, key=_number), strict=True)}
    return head + mark + re.sub(r"[A-Za-z_]\w*", lambda word: order.get(word[0], word[0]), rest)


def _number(name: str) -> int:
    found = re.search(r"_(\d+)$", name)
    return int(found[1]) if found else 0


def _kernel(module: Any, name: str) -> Any:
    names = kernel_names(module)
    if name in names:
        return module[name]
    if not names:
        raise UserError(f"no kernel {name}: the program has none yet; take a stage after select-kernels")
    close = get_close_matches(name, names, n=3)
    raise UserError(f"no kernel {name}; {'did you mean' if close else 'there are'} {' or '.join(close or names)}")
