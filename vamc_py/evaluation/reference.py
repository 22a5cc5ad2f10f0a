"""Configurations derived from a user's own, compiled once and kept: the float reference, and the schemes of a table."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import vamc_py
from vamc_py.artifact.manifest import CONFIG_FILE, MANIFEST_FILE, TOKENIZER_DIR
from vamc_py.artifact.verify import read_manifest
from vamc_py.config import LoadedConfig, load_config, load_text
from vamc_py.errors import ArtifactError, UserError
from vamc_py.extras import require_compiler
from vamc_py.progress import stage

CACHE = ".eval"  # in workspace.path; may be deleted at any time
FLOATS = ("fp32", "fp16", "bf16")
_SIXTEEN_BITS = {"bfloat16": "bf16", "float16": "fp16"}
_NO_DATA: Any = {"name": True, "workspace": True, "frontend": {"checkpoint": True}}
_LONGEST_STEM = 80  # characters of the checkpoint's name in that of a kept artifact


def float_config(loaded: LoadedConfig) -> LoadedConfig:
    """The configuration of the float reference: the same model and lengths, no quantization, no changes to the passes.

    ``backend.dtype`` is the type in which the checkpoint keeps its matrices, bf16 or fp16, so that the weights are
    exact; fp32 where it keeps others, or several. Activations are float32 with each of the three, as are norms and
    biases; the KV cache is float16 unless it is fp32. A checkpoint that is itself quantized is dequantized.
    """
    from vamc_py.compiler import open_model
    from vamc_py.frontend.model_config import expected_matrices

    checkpoint, model = open_model(loaded.config)
    matrices = expected_matrices(model)
    kinds = {checkpoint.tensors[name].dtype for name in matrices if name in checkpoint.tensors}
    dtype = _SIXTEEN_BITS.get(kinds.pop(), "fp32") if len(kinds) == 1 and not checkpoint.quantized else "fp32"
    return derived(loaded, [f"backend.dtype={dtype}", "frontend.quantize=null", "dataset=null", "passes=null"])


def float_model(loaded: LoadedConfig, cache: Path) -> tuple[str, Path]:
    """What the float reference is called, and its artifact, from ``cache`` or compiled into it."""
    floating = float_config(loaded)
    label = f"float ({floating.config.backend.dtype})"
    return label, built(floating, label, cache)


def scheme_config(loaded: LoadedConfig, scheme: str) -> LoadedConfig:
    """The configuration with another ``frontend.quantize.type``, and without the gate.

    ``w4a16,group=32,kv8=true`` sets further keys of ``frontend.quantize``. ``fp32``, ``fp16`` and ``bf16`` are the
    types of ``backend.dtype``, without quantization. UserError for what is neither.
    """
    kind, *others = (part.strip() for part in scheme.split(","))
    if kind in FLOATS and not others:
        return derived(loaded, [f"backend.dtype={kind}", "frontend.quantize=null"])
    if not kind or "=" in kind or not all("=" in part for part in others):
        raise UserError(f"--scheme {scheme}: not of the form TYPE or TYPE,key=value, such as w4a16,group=32")
    keys = [f"frontend.quantize.{part}" for part in (f"type={kind}", *others)]
    return derived(loaded, [*keys, "frontend.quantize.accept=null"])


def kept_in(workspace: str | Path) -> Path:
    """The folder in a workspace where what is compiled to be measured stays; the workspace itself if it is one."""
    return Path(workspace) if Path(workspace).name == CACHE else Path(workspace) / CACHE


def derived(loaded: LoadedConfig, overrides: Sequence[str]) -> LoadedConfig:
    """The configuration with other values, as ``--set`` gives them."""
    return load_text(loaded.text, loaded.path, overrides)


def config_of(artifact: Path) -> LoadedConfig:
    """The configuration that an artifact was compiled from. UserError where its checkpoint is not that any more."""
    from vamc_py.compiler import open_model

    manifest = read_manifest(artifact)
    path = artifact / CONFIG_FILE
    if not path.is_file():
        raise ArtifactError(f"{path}: the file is missing, and with it the float model; say --against ARTIFACT or none")
    require_compiler()
    loaded = load_config(path)
    try:
        found = open_model(loaded.config)[0].fingerprint()
    except UserError as error:
        raise UserError(f"{error} (for the float reference of {artifact}; or say --against ARTIFACT or none)") from None
    if manifest.source.get("checkpoint") != found:
        raise UserError(
            f"{artifact}: the checkpoint {loaded.config.frontend.checkpoint} is not the one that it was compiled from; "
            "say --against ARTIFACT or none"
        )
    return loaded


def built(loaded: LoadedConfig, label: str, cache: Path) -> Path:
    """The artifact of a configuration, which is compiled into the folder ``cache`` unless it is there already.

    It is known by the checkpoint, what the configuration says but for ``name`` and ``workspace``, the files that it
    names, and the source of vamc-py. With changes to the passes it is always compiled, as they may use any file.
    """
    require_compiler()
    from vamc_py.compiler import compile_config

    words = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{Path(loaded.config.frontend.checkpoint).stem[:_LONGEST_STEM]}-{label}")
    name = f"{words.strip('-')}-{_key(loaded)}"
    folder = cache / name
    if (folder / MANIFEST_FILE).is_file() and not loaded.config.passes:
        return folder
    own = derived(loaded, [*_place(name, cache)])
    with stage(f"compile {label}"):
        return compile_config(own).folder


def _place(name: str, folder: Path | str) -> list[str]:
    workspace = {"path": str(folder), "enable_ir": False}
    return [f"name={json.dumps(name)}", f"workspace={json.dumps(workspace)}"]


def _key(loaded: LoadedConfig) -> str:
    from vamc_py.compiler import open_model

    digest = hashlib.sha256()
    anonymous = derived(loaded, _place("name", "."))
    digest.update(anonymous.text.encode())
    digest.update(open_model(loaded.config)[0].fingerprint().encode())
    for path in _named_files(anonymous.config.model_dump(mode="json", exclude=_NO_DATA)):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    digest.update(_source_digest())
    return digest.hexdigest()[:16]


def _named_files(value: Any) -> Iterator[Path]:
    """The files that a configuration names, and those directly in folders that it names: data, adapters."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _named_files(part)
    elif isinstance(value, str) and os.path.isdir(value):
        yield from sorted(Path(value).iterdir())
    elif isinstance(value, str) and os.path.isfile(value):
        yield Path(value)


def _source_digest() -> bytes:
    """Of every Python file of the package: another version of a pass or kernel may give other numbers."""
    digest = hashlib.sha256()
    for folder, below, files in os.walk(vamc_py.__path__[0], followlinks=True):
        below.sort()
        for name in sorted(files):
            if name.endswith((".py", ".c")):
                digest.update(name.encode())
                digest.update(Path(folder, name).read_bytes())
    return digest.digest()


def check_same_tokens(artifacts: Sequence[Path]) -> None:
    """UserError unless all artifacts have the same tokenizer."""
    name = f"{TOKENIZER_DIR}/tokenizer.json"
    records = {path: read_manifest(path).files.get(name) for path in artifacts}
    first = artifacts[0]
    for path, record in records.items():
        if record != records[first]:
            raise UserError(f"{path}: has another tokenizer than {first}; only like models can be compared")
