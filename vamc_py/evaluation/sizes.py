"""How large an artifact's weights are: bytes, and bits a weight."""

from __future__ import annotations

from collections.abc import Iterable

from vamc_py.artifact.manifest import Manifest, ModelFacts, Parameter


def parameter_bytes(manifest: Manifest) -> int:
    """Bytes of all parameters."""
    return sum(parameter.size for parameter in manifest.parameters)


def bits_per_weight(manifest: Manifest) -> float:
    """8 * bytes of the matrices' parameters / number of the model's weights in matrices.

    The bytes are those of every parameter but the norms and biases: values as the kernels read them, padding included,
    their scales and zero points. The number of weights follows from the model's shape, so it is the same for every
    scheme: the linear layers, the embedding, and lm_head where it is not the embedding.
    """
    return 8 * _matrix_bytes(manifest.parameters) / matrix_weights(manifest.model)


def matrix_weights(model: ModelFacts) -> int:
    """Weights in the matrices of a decoder of this shape."""
    hidden, query, key = model.hidden_size, model.heads * model.head_dim, model.kv_heads * model.head_dim
    layer = hidden * (query + 2 * key) + query * hidden + 3 * hidden * model.intermediate_size
    return model.layers * layer + (1 if model.tied_embedding else 2) * model.vocab_size * hidden


def _matrix_bytes(parameters: Iterable[Parameter]) -> int:
    return sum(p.size for p in parameters if not p.name.endswith(("norm.weight", ".bias")))
