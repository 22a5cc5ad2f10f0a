"""Whether a graph is of the model that its config describes."""

from __future__ import annotations

from vamc_py.checkpoint import Checkpoint
from vamc_py.checkpoint.onnx_checkpoint import OnnxCheckpoint
from vamc_py.errors import CheckpointError
from vamc_py.frontend.model_config import ModelConfig


def check_graph(checkpoint: Checkpoint, model: ModelConfig, dtype: str) -> None:
    """CheckpointError where a graph and the config.json beside it are not of one model, or where ``dtype``, the
    ``backend.dtype``, is not int8 and layers of the graph are."""
    assert isinstance(checkpoint, OnnxCheckpoint)
    roles = checkpoint.roles
    if checkpoint.quantized and dtype != "int8":
        raise CheckpointError(
            f"{checkpoint.path}: {len(checkpoint.quantized)} layers are int8, which contradicts backend.dtype {dtype}; "
            "--set backend.dtype=int8, or compile a float graph"
        )
    pairs = {
        "num_hidden_layers": (model.layers, roles.layers),
        "num_key_value_heads": (model.kv_heads, roles.kv_heads),
        "head_dim": (model.head_dim, roles.head_dim),
    }
    for key, (said, found) in pairs.items():
        if said != found:
            raise CheckpointError(
                f"{checkpoint.config_file}: {key}: {said} is said, and the graph {checkpoint.path.name} has {found}; "
                "keep the graph beside the config.json of its model, or away from any"
            )
