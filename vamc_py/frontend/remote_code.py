"""Tracing a checkpoint's own model file, named by ``auto_map`` in its config: this runs the checkpoint's code.

The interface is that of the patched files of the vacc toolchain: a config class and a causal language model on top of
transformers, called with input_ids, a 4-D attention_mask of 1 (attend) and 0, position_ids and past_key_values as
tuples of (k, v), answering (logits, past_key_values). Only files inside the checkpoint's folder are imported.
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vamc_py.checkpoint.config_keys import Keys
from vamc_py.errors import CheckpointError, UserError
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.frontend.models.qwen2 import KeyValue
from vamc_py.frontend.trace import Traced, trace_module
from vamc_py.frontend.weightless import build_weightless

_PACKAGE = "_vamc_checkpoint_code"  # the name under which the folder's files are imported
_LEAST_POSITIONS = 16  # the example call of the trace needs some


def trace_checkpoint_code(
    folder: Path, config: Mapping[str, Any], *, context: int, source: str = "config_vacc.json"
) -> Traced:
    """Traces the model class that ``config["auto_map"]`` names, for sequences of up to ``context`` positions.

    ``config`` is the parsed JSON of the file ``source`` in ``folder``. The config's insert_slice and iter_num are
    honoured: with them the logits are those of the last token. Raises UserError where transformers is not installed,
    CheckpointError where the config or the code is not what the compiler can take, or the code fails.
    """
    model = ModelConfig.from_hf(config, source)
    if model.rope.kind != "default":
        raise CheckpointError(
            f"{source}: rope_scaling: {model.rope.kind} is not supported with the checkpoint's own code, which would "
            "ignore it; use the built-in model"
        )
    if context > model.max_positions:
        raise CheckpointError(
            f"{source}: max_position_embeddings: a context of {context} is wanted, the model has {model.max_positions}"
        )
    _require_transformers()
    with _importable(folder), _quiet(), _blaming(folder):
        config_class = _find_class(folder, config, "AutoConfig", source)
        model_class = _find_class(folder, config, "AutoModelForCausalLM", source)
        positions = max(context, _LEAST_POSITIONS)
        module = build_weightless(lambda: model_class(_instantiate(config_class, config, model, positions)))
        traced = trace_module(_Call(module), model, mask="ones", prefix="module.")
    _check_parameters(traced, folder)
    return traced


class _Call(nn.Module):  # type: ignore[misc]
    """Our models' call, on a model of the patched files' interface."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: list[KeyValue],
    ) -> tuple[torch.Tensor, list[KeyValue]]:
        logits, present = self.module(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=tuple(tuple(pair) for pair in past_key_values),
            use_cache=True,
            return_dict=False,
        )[:2]
        return logits.float(), [(pair[0], pair[1]) for pair in present]


def _instantiate(config_class: Any, config: Mapping[str, Any], model: ModelConfig, positions: int) -> Any:
    """The checkpoint's config object: eager attention, float32, rotary tables of ``positions`` rows."""
    rope = {"rope_theta", "rope_scaling", "rope_parameters"}  # 5.x's form means nothing to files written for 4.x
    replaced = {"torch_dtype", "dtype", "attn_implementation", "_attn_implementation"} | rope
    replaced |= {"max_position_embeddings", "tie_word_embeddings"}
    values = {key: value for key, value in config.items() if key not in replaced}
    instance = config_class(
        **values,
        rope_theta=model.rope.theta,
        max_position_embeddings=positions,
        attn_implementation="eager",
        tie_word_embeddings=False,  # a tied lm_head is tied by its tensor's name; 4.x and 5.x tie differently
    )
    if not hasattr(instance, "pad_token_id"):  # every config had it before transformers 5
        instance.pad_token_id = None
    return instance


def _require_transformers() -> None:
    try:
        importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise UserError(
            "the checkpoint's own code needs the package transformers; install it with: "
            "pip install 'vamc-py[checkpoint-code]'"
        ) from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Makes the folder's files importable as a package, so that they can import each other; leaves no trace of it."""
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[_PACKAGE] = package
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_bytecode
        for name in [name for name in sys.modules if name == _PACKAGE or name.startswith(_PACKAGE + ".")]:
            del sys.modules[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' advice to authors of model files from the user, who is not one."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _blaming(folder: Path) -> Iterator[None]:
    """Turns what the checkpoint's code raises into an error that says whose code failed."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        why = str(error).strip().splitlines() or ["no message"]
        raise CheckpointError(
            f"{folder}: the checkpoint's own code failed with {type(error).__name__}: {why[0]}; "
            "use the built-in model, or repair the file"
        ) from error


def _find_class(folder: Path, config: Mapping[str, Any], role: str, source: str) -> Any:
    """The class that ``auto_map`` names for a role, as ``module.Class`` of a file in the folder."""
    references = Keys(config, source).mapping("auto_map")
    keys = Keys(references, source, "auto_map")
    reference = references.get(role)
    if not isinstance(reference, str):
        keys.refuse(role, "the checkpoint's own code is asked for, but the config names no class")
    module_name, _, class_name = reference.partition(".")
    if not (module_name.isidentifier() and class_name.isidentifier()):
        keys.refuse(role, f"{reference!r} is not of the form file.Class; code from elsewhere is not fetched")
    if not (folder / f"{module_name}.py").is_file():
        keys.refuse(role, f"{module_name}.py is not in {folder}")
    module = importlib.import_module(f"{_PACKAGE}.{module_name}")
    if not isinstance(found := getattr(module, class_name, None), type):
        keys.refuse(role, f"{module_name}.py has no class {class_name}")
    return found


def _check_parameters(traced: Traced, folder: Path) -> None:
    """Refuses a model whose tensors are not those that the config implies: the compiler would mistake it."""
    placeholders = {node.name: node for node in traced.program.graph.nodes if node.op == "placeholder"}
    shapes = {name: tuple(placeholders[node].meta["val"].shape) for node, name in traced.parameters.items()}
    expected = expected_tensors(traced.model)
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise CheckpointError(
                f"{folder}: the checkpoint's own code has {name} as {shapes.get(name, 'no parameter')}, the config "
                f"implies {expected.get(name, 'none')}"
            )
