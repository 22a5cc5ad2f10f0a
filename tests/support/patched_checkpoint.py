"""Random checkpoints that bring their own model file, of the interface of the vacc toolchain's patched files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from support.checkpoints import write_checkpoint

_FILES = Path(__file__).parent / "patched_files"


def patched_config(config: dict[str, Any], *, insert_slice: bool = True, **keys: Any) -> dict[str, Any]:
    """config_vacc.json for a config.json."""
    return config | {
        "auto_map": {
            "AutoConfig": "configuration_qwen2_vacc.Qwen2Config",
            "AutoModel": "modeling_qwen2_vacc.Qwen2ForCausalLM",
            "AutoModelForCausalLM": "modeling_qwen2_vacc.Qwen2ForCausalLM",
        },
        "_attn_implementation": "eager",
        "insert_slice": insert_slice,
        **keys,
    }


def write_patched_checkpoint(
    folder: Path, *, architecture: str, insert_slice: bool = True, **options: Any
) -> dict[str, Any]:
    """A folder as support.checkpoints writes it, with the patched files beside the weights; returns config_vacc.json.

    ``architecture``: qwen2 or qwen3. ``options`` are those of write_checkpoint.
    """
    config = patched_config(write_checkpoint(folder, architecture=architecture, **options), insert_slice=insert_slice)
    add_patched_files(folder, config)
    return config


def add_patched_files(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config_vacc.json").write_text(json.dumps(config, indent=2))
    for name in ("configuration_qwen2_vacc.py", "modeling_qwen2_vacc.py"):
        shutil.copy(_FILES / name, folder / name)
