"""Checkpoints that come quantized: each vendor's form, read in its own precision.

One file a vendor says which weights are quantized, checks their tensors and unpacks rows of them; `stored.py` puts
all of them behind the names of :class:`vamc_py.checkpoint.Checkpoint`.
"""

from __future__ import annotations

from vamc_py.checkpoint.base import Checkpoint
from vamc_py.checkpoint.config_keys import Keys
from vamc_py.checkpoint.quantized import awq, compressed_tensors, fp8, gptq
from vamc_py.checkpoint.quantized.stored import QuantizedCheckpoint

READERS = {
    "gptq": gptq.stored_weights,
    "awq": awq.stored_weights,
    "fp8": fp8.stored_weights,
    "compressed-tensors": compressed_tensors.stored_weights,
}
_SECTION = "quantization_config"


def in_own_precision(base: Checkpoint) -> Checkpoint:
    """The checkpoint with its quantized weights under their names in ``quantized``; itself where none are.

    Which weights are quantized is what the tensors say, not the config's lists of modules that were left out.
    Raises CheckpointError: a method that is not read, a config or tensors at odds with it.
    """
    top = Keys(base.config, str(base.config_file))
    if top.get(_SECTION) is None:
        return base
    keys = top.section(_SECTION)
    method = keys.text("quant_method")
    if method not in READERS:
        hint = f"known: {', '.join(READERS)}; use one of these, or the unquantized checkpoint"
        keys.refuse("quant_method", f"weights quantized by {method} are not read; {hint}")
    weights = READERS[method](base, keys)
    if not weights:
        hint = f"take {_SECTION} out of the config if the weights are meant to be plain"
        top.refuse(_SECTION, f"it says {method}, and no weight is stored in that form; {hint}")
    return QuantizedCheckpoint(base, weights, fp8.ignored(base) if method == "fp8" else frozenset())
