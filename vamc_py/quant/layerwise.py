"""Our torch model run layer by layer over all samples: one decoder layer's weights in memory, and the hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vamc_py.checkpoint import Checkpoint
from vamc_py.errors import CheckpointError
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.layers import RMSNorm, RotaryEmbedding, repeat_kv, rotate
from vamc_py.frontend.models.qwen2 import DecoderLayer, Qwen2Attention
from vamc_py.frontend.models.qwen3 import Qwen3Attention
from vamc_py.frontend.weightless import build_weightless
from vamc_py.progress import track
from vamc_py.quant.float_weights import float_rows
from vamc_py.quant.hidden import hidden_array

Half = Literal["attention", "mlp"]
BOTH: tuple[Half, Half] = ("attention", "mlp")
Rotation = tuple[torch.Tensor, torch.Tensor]
Tokens = npt.NDArray[np.int64]
Watch = Mapping[str, Callable[[torch.Tensor], None]]

_EMBEDDING, _NORM = "model.embed_tokens.weight", "model.norm.weight"
_ATTENTION: dict[str, type[Qwen2Attention]] = {"qwen2": Qwen2Attention, "qwen3": Qwen3Attention}
BATCH_BYTES = 1 << 26  # of the largest activation of a batch of samples
_EMBEDDING_ROWS = 4096  # read at a time
_LARGEST_SQUARES = 1e30  # of a batch, summed; float32 ends at 3e38


def layer_prefix(layer: int) -> str:
    """What the names of a layer's tensors begin with in the checkpoint."""
    return f"model.layers.{layer}."


class LayerwiseModel:
    """A model over samples of equal length, each a sequence of its own from position 0 on.

    ``load`` gives a layer its weights (they replace those of the layer loaded before), ``run`` sends the samples
    through it. Weights that come quantized count as what they mean in float32.
    """

    def __init__(self, checkpoint: Checkpoint, model: ModelConfig) -> None:
        self.checkpoint = checkpoint
        self.model = model
        self._loaded = 0
        self._layer = build_weightless(lambda: DecoderLayer(model, _ATTENTION[model.architecture]))
        self._rotary = RotaryEmbedding(model.rope, model.head_dim)

    def embed(self, tokens: Tokens, hidden: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """Embeddings f32 [samples, length, hidden] of tokens i64 [samples, length], read by the rows that occur.

        They are put into ``hidden`` where it is given. CheckpointError for tokens that the embedding does not have.
        """
        largest, rows = int(tokens.max()), self.model.vocab_size
        if largest >= rows or int(tokens.min()) < 0:
            what = f"the tokenizer gives the token {largest}, and the embedding has {rows} rows"
            raise CheckpointError(f"{self.checkpoint.path}: {what}; use the tokenizer and the weights of one model")
        if hidden is None:
            hidden = hidden_array((*tokens.shape, self.model.hidden_size))
        for start in range(0, rows, _EMBEDDING_ROWS):
            stop = min(start + _EMBEDDING_ROWS, rows)
            here = np.nonzero((tokens >= start) & (tokens < stop))
            wanted, places = np.unique(tokens[here], return_inverse=True)
            if len(wanted):
                first, last = int(wanted[0]), int(wanted[-1]) + 1
                read = float_rows(self.checkpoint, _EMBEDDING, first, last, wanted - first)
                hidden[here] = read[places]
        return hidden

    def load(self, index: int, checkpoint: Checkpoint | None = None) -> DecoderLayer:
        """The decoder layer of this index with float32 weights, from ``checkpoint`` where it is given."""
        source = checkpoint or self.checkpoint
        self._loaded = index
        for name, parameter in list(self._layer.named_parameters()):
            values = float_rows(source, layer_prefix(index) + name)
            if values.shape != tuple(parameter.shape):
                raise CheckpointError(f"{source.file_of(layer_prefix(index) + name)}: {name} has another shape")
            set_weight(self._layer, name, torch.from_numpy(values))
        return self._layer

    @torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
    def run(
        self,
        layer: DecoderLayer,
        hidden: npt.NDArray[np.float32],
        halves: Sequence[Half] = BOTH,
        *,
        watch: Watch | None = None,
        keep: bool,
    ) -> None:
        """Sends all samples through one or both halves of a layer, each half with its residual.

        Args:
            watch: for linear layers by name (``self_attn.q_proj``), who is given their inputs f32 [tokens, K].
            keep: whether the results replace ``hidden``; otherwise nothing is computed behind the last watched layer.

        CheckpointError for inputs of watched layers that are no numbers, or whose squares float32 cannot sum.
        """
        mask, rotation = self._positions(hidden.shape[1])
        checked = {name: self._checked(name, give) for name, give in (watch or {}).items()}
        with _watched(layer, checked, stop=not keep) as seen:
            for batch in self._batches(hidden):
                x = torch.from_numpy(np.array(batch))
                try:
                    for half in halves:
                        x = self._half(layer, half, x, mask, rotation)
                except _AllSeenError:
                    seen.clear()
                    continue
                if keep:
                    batch[:] = x.numpy()

    @torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
    def attend(
        self,
        layer: DecoderLayer,
        hidden: npt.NDArray[np.float32],
        give: Callable[[torch.Tensor, torch.Tensor], None],
    ) -> None:
        """Gives v_proj's inputs f32 [samples, n, K] and attention's weights f32 [samples, heads, n, n], by batches."""
        mask, rotation = self._positions(hidden.shape[1])
        for batch in self._batches(hidden):
            x = layer.input_layernorm(torch.from_numpy(np.array(batch)))
            give(x, _attention_weights(layer.self_attn, x, mask, rotation))

    @torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
    def final_hidden(self, tokens: Tokens, hidden: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """The hidden states behind the final norm, f32 [samples, length, hidden]: what lm_head multiplies.

        They are put into ``hidden`` where it is given; else see ``hidden_array``.
        """
        hidden = self.embed(tokens, hidden)
        for index in track(range(self.model.layers), "layers"):
            self.run(self.load(index), hidden, keep=True)
        norm = RMSNorm(self.model.hidden_size, self.model.rms_norm_eps)
        set_weight(norm, "weight", torch.from_numpy(float_rows(self.checkpoint, _NORM)))
        for batch in self._batches(hidden):
            batch[:] = norm(torch.from_numpy(np.array(batch))).numpy()
        return hidden

    def _checked(self, name: str, give: Callable[[torch.Tensor], None]) -> Callable[[torch.Tensor], None]:
        """``give``, for inputs that statistics can be made of."""
        place = f"{self.checkpoint.path}: the inputs of {layer_prefix(self._loaded)}{name}"

        def give_checked(x: torch.Tensor) -> None:
            if not float(torch.dot(x.reshape(-1), x.reshape(-1))) < _LARGEST_SQUARES:
                raise CheckpointError(f"{place} are too large for float32, or no numbers: the weights are damaged")
            give(x)

        return give_checked

    def _half(
        self, layer: DecoderLayer, half: Half, x: torch.Tensor, mask: torch.Tensor, rotation: Rotation
    ) -> torch.Tensor:
        if half == "mlp":
            return x + layer.mlp(layer.post_attention_layernorm(x))
        empty = torch.zeros(len(x), self.model.kv_heads, 0, self.model.head_dim)
        return x + layer.self_attn(layer.input_layernorm(x), mask, rotation, (empty, empty))[0]

    def _positions(self, length: int) -> tuple[torch.Tensor, Rotation]:
        """The causal mask [1, 1, length, length], added to the scores, and the rotation of each position."""
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
        return mask, self._rotary(torch.arange(length)[None])

    def _batches(self, hidden: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
        """A few samples at a time, as views."""
        length = hidden.shape[1]
        widest = max(self.model.heads * length, self.model.intermediate_size, self.model.hidden_size)
        size = max(1, BATCH_BYTES // (4 * length * widest))
        for start in range(0, len(hidden), size):
            yield hidden[start : start + size]


def _attention_weights(
    attention: Qwen2Attention, x: torch.Tensor, mask: torch.Tensor, rotation: Rotation
) -> torch.Tensor:
    """How much each token of x [samples, n, K] looks at each other one, f32 [samples, heads, n, n]."""
    q, k, _ = attention.project(x)
    q, k = rotate(q, *rotation), repeat_kv(rotate(k, *rotation), attention.groups)
    return torch.softmax(torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5 + mask, dim=-1)


def set_weight(module: nn.Module, name: str, values: torch.Tensor) -> None:
    """Replaces a parameter by its dotted name."""
    owner, _, last = name.rpartition(".")
    setattr(module.get_submodule(owner), last, nn.Parameter(values, requires_grad=False))


class _AllSeenError(Exception):
    """Every watched layer has had its input."""


@contextmanager
def _watched(layer: nn.Module, watch: Watch, *, stop: bool) -> Iterator[set[str]]:
    """Hands out the inputs of watched layers; with ``stop`` the last raises _AllSeenError. The value: those seen."""
    seen: set[str] = set()

    def hook_of(name: str) -> Callable[[nn.Module, tuple[torch.Tensor]], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            watch[name](inputs[0].reshape(-1, inputs[0].shape[-1]))
            seen.add(name)
            if stop and len(seen) == len(watch):
                raise _AllSeenError

        return hook

    handles = [layer.get_submodule(name).register_forward_pre_hook(hook_of(name)) for name in watch]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
