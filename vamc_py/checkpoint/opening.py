"""Finds the reader for what the YAML names."""

from __future__ import annotations

from pathlib import Path

from vamc_py.checkpoint.base import Checkpoint
from vamc_py.errors import CheckpointError


def open_checkpoint(location: str, kind: str, *, vacc_config: bool = False) -> Checkpoint:
    """Opens a checkpoint; reads headers and JSON files, no weights.

    Args:
        location: a folder, a GGUF or ONNX file, or a hub id (``Qwen/Qwen3-0.6B``) if no such folder exists.
        kind: ``huggingface``, ``gguf`` or ``onnx``, as ``frontend.type`` says.
        vacc_config: prefer config_vacc.json to config.json (``model_kwargs.model_arch: vacc``); most folders have none.

    Raises CheckpointError: nothing there, damaged, or of a kind that cannot be read.
    """
    path = Path(location).expanduser()
    # Imported where needed: each needs a library that only this kind of checkpoint uses.
    if kind == "gguf":
        from vamc_py.checkpoint.gguf_checkpoint import GgufCheckpoint

        if vacc_config:
            raise CheckpointError(f"{path}: a GGUF file has no config_vacc.json; take model_arch: vacc out of the YAML")
        return GgufCheckpoint(_gguf_file(path))
    if kind == "onnx":
        from vamc_py.extras import require_onnx

        require_onnx()
        from vamc_py.checkpoint.onnx_checkpoint import OnnxCheckpoint

        return OnnxCheckpoint(path)
    if kind == "huggingface":
        from vamc_py.checkpoint.hub import download, is_hub_id
        from vamc_py.checkpoint.huggingface import HuggingFaceCheckpoint
        from vamc_py.checkpoint.quantized import in_own_precision

        if path.is_file():
            hint = "; set frontend.type: gguf" if path.suffix == ".gguf" else ""
            raise CheckpointError(f"{path} is a file, and frontend.type: huggingface needs a folder{hint}")
        if not path.exists() and is_hub_id(location):
            path = download(location)
        return in_own_precision(HuggingFaceCheckpoint(path, vacc_config=vacc_config))
    raise ValueError(f"unknown kind of checkpoint: {kind}")


def _gguf_file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(file.name for file in path.glob("*.gguf"))
        found = f"it holds {', '.join(files)}" if files else "it holds none"
        raise CheckpointError(f"{path} is a folder, and frontend.type: gguf needs one .gguf file ({found})")
    if not path.is_file():
        raise CheckpointError(f"there is no GGUF file {path}")
    return path
