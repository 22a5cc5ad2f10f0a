"""Rules between keys. They read the raw data, so that they speak together with the faults of single keys."""

from __future__ import annotations

from typing import Any

from vamc_py.config.cpus import NATIVE, cpu_fault
from vamc_py.config.frontend import nesting, type_by_name
from vamc_py.config.pass_rules import check_pass_changes
from vamc_py.config.tree import Tree
from vamc_py.errors import UserError
from vamc_py.target.vacc import device

_INPUT_IDS = ("frontend", "shape", "input_ids")
_WRITE = "write input_ids: [[prefill lengths], [context lengths]], such as [[512], [2048]]"


def check_rules(tree: Tree) -> None:
    """Note what is wrong between keys in ``tree.faults``; keys of a wrong type are left to the models."""
    data = tree.data if isinstance(tree.data, dict) else {}
    if data.get("name") in (".", ".."):
        tree.fault(("name",), "this would not be a folder of its own below workspace.path; choose another name")
    if _is_language_model(_mapping(data, "frontend")):
        _check_lengths(tree, _mapping(data, "frontend"))
    _check_target(tree, _mapping(data, "backend"))
    check_pass_changes(tree, data.get("passes"))


def _mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _check_target(tree: Tree, backend: dict[str, Any]) -> None:
    """The name of a card on vacc, of a CPU on llvm; on other targets the key is not used."""
    kind, name = backend.get("type", "tvm_vacc"), backend.get("target")
    if not isinstance(name, str) or name == NATIVE:
        return
    fault = cpu_fault(name) if kind == "tvm_llvm" else None
    if kind == "tvm_vacc":
        try:
            device.canonical(name)
        except UserError as error:
            fault = str(error)
    if fault:
        tree.fault(("backend", "target"), fault)


def _is_language_model(frontend: dict[str, Any]) -> bool:
    kind = frontend.get("type", type_by_name(frontend.get("checkpoint")))
    if kind == "onnx":  # a flat shape is another network's
        return nesting(_mapping(frontend, "shape").get("input_ids")) == "<nested>"
    return kind in ("huggingface", "gguf") and _mapping(frontend, "model_kwargs").get("build_visual") is not True


def _check_lengths(tree: Tree, frontend: dict[str, Any]) -> None:
    shape = frontend.get("shape")
    if not isinstance(shape, dict) or tree.refused_below(_INPUT_IDS):
        return
    if shape.get("input_ids") is None:
        tree.fault(_INPUT_IDS, f"missing; {_WRITE}")
        return
    lengths = shape["input_ids"]
    if not isinstance(lengths, tuple):
        return
    if nesting(lengths) == "<flat>":
        tree.fault(_INPUT_IDS, f"a flat list is the shape of a graph's input; for a language model {_WRITE}")
        return
    if len(lengths) == 2 and all(isinstance(part, tuple) for part in lengths):
        _check_order(tree, *(tuple(n for n in part if type(n) is int) for part in lengths))


def _check_order(tree: Tree, prefill: tuple[int, ...], context: tuple[int, ...]) -> None:
    if prefill and context and max(prefill) > max(context):
        tree.fault(
            (*_INPUT_IDS, 0),
            f"the prefill length {max(prefill)} is longer than the context length {max(context)}; a prompt has to fit "
            "in the context",
        )
