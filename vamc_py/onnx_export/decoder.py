"""Qwen2, Qwen3 and Llama as an ONNX graph, in the standard's operators; what each means is in frontend/models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto

from vamc_py import __version__
from vamc_py.artifact.manifest import Parameter
from vamc_py.config.patterns import EMBEDDING, LM_HEAD
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.onnx_export.builder import Builder, Dimension
from vamc_py.onnx_export.quantized_linear import DOMAIN, OPERATOR
from vamc_py.weights.formats import SCALE

_LAST = np.iinfo(np.int64).max
_MASKED = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a step and positions before it, each a number or the name of a dynamic axis. No ``past``: a prefill,
    whose graph has no past among its inputs."""

    new: Dimension
    past: Dimension | None = None

    @property
    def total(self) -> Dimension:
        """Positions behind the step."""
        if self.past is None:
            return self.new
        return self.past + self.new if isinstance(self.past, int) and isinstance(self.new, int) else "total"


def decoder(
    model: ModelConfig, lengths: Lengths, weights: Mapping[str, Parameter], location: str, *, last_token: bool
) -> ModelProto:
    """One step of one sequence.

    Inputs: input_ids, position_ids i64 [1, n]; attention_mask f32 [1, 1, n, p + n], 1 where a token attends and 0
    elsewhere; past_key_values.<layer>.key and .value f32 [1, KV, p, d], rotated keys. Results: logits f32 [1, n, V], or
    [1, 1, V] with ``last_token``; present.<layer>.key and .value f32 [1, KV, p + n, d].

    ``weights`` are the tensors in the file ``location``, by their names in the checkpoint. An int8 weight, whose scales
    stand beside it, goes through the node of ``quantized_linear``; one of 16 bits is cast to float32 where it is used.
    """
    return _Decoder(model, lengths, Builder(weights, location)).build(last_token=last_token)


class _Decoder:
    def __init__(self, model: ModelConfig, lengths: Lengths, builder: Builder) -> None:
        self.model = model
        self.lengths = lengths
        self.graph = builder
        self.op = builder.op
        self.cast: set[str] = set()  # weights of 16 bits that have been cast

    def build(self, *, last_token: bool) -> ModelProto:
        model, lengths, builder = self.model, self.lengths, self.graph
        ids = builder.input("input_ids", "int64", [1, lengths.new])
        ones = builder.input("attention_mask", "float32", [1, 1, lengths.new, lengths.total])
        positions = builder.input("position_ids", "int64", [1, lengths.new])
        table = self.float_weight(EMBEDDING)
        x = self.op("Gather", "/model/embed_tokens/Gather", table, ids, axis=0)
        mask = self.op("Sub", "/model/mask/Sub", ones, builder.constant("float32", 1.0))
        mask = self.op("Mul", "/model/mask/Mul", mask, builder.constant("float32", _MASKED))
        rotation = self.rotation(positions)
        present = []
        for layer in range(model.layers):
            x, pair = self.layer(layer, x, mask, rotation)
            present.append(pair)
        x = self.rms_norm("model.norm", x)
        if last_token:
            bounds = (builder.constant("int64", [number]) for number in (-1, _LAST, 1))  # of axis 1
            x = self.op("Slice", "/model/Slice", x, *bounds)
        head = EMBEDDING if model.tied_embedding else LM_HEAD
        logits = self.product("/lm_head", x, head)
        builder.output(logits, "logits", [1, 1 if last_token else lengths.new, model.vocab_size])
        for layer, pair in enumerate(present):
            for part, value in zip(("key", "value"), pair, strict=True):
                shape = [1, model.kv_heads, lengths.total, model.head_dim]
                builder.output(value, f"present.{layer}.{part}", shape)
        return builder.model("decoder", "vamc-py", __version__)

    def layer(self, layer: int, x: str, mask: str, rotation: tuple[str, str]) -> tuple[str, tuple[str, str]]:
        at = f"model.layers.{layer}"
        attended, present = self.attention(layer, self.rms_norm(f"{at}.input_layernorm", x), mask, rotation)
        x = self.op("Add", f"{_path(at)}/Add", x, attended)
        normed = self.rms_norm(f"{at}.post_attention_layernorm", x)
        return self.op("Add", f"{_path(at)}/Add_1", x, self.swiglu(f"{at}.mlp", normed)), present

    def attention(self, layer: int, x: str, mask: str, rotation: tuple[str, str]) -> tuple[str, tuple[str, str]]:
        model, at = self.model, f"model.layers.{layer}.self_attn"
        path = _path(at)
        q = self.rotate(f"{path}/q", self.heads(at, "q", x, model.heads), rotation)
        k = self.rotate(f"{path}/k", self.heads(at, "k", x, model.kv_heads), rotation)
        v = self.heads(at, "v", x, model.kv_heads)
        if self.lengths.past is not None:
            shape = [1, model.kv_heads, self.lengths.past, model.head_dim]
            past = [self.graph.input(f"past_key_values.{layer}.{part}", "float32", shape) for part in ("key", "value")]
            k = self.op("Concat", f"{path}/Concat", past[0], k, axis=2)
            v = self.op("Concat", f"{path}/Concat_1", past[1], v, axis=2)
        keys = self.op("Transpose", f"{path}/Transpose", self.repeat(f"{path}/keys", k), perm=[0, 1, 3, 2])
        scores = self.op("MatMul", f"{path}/MatMul", q, keys)
        scale = self.graph.constant("float32", model.head_dim**-0.5)
        scores = self.op("Add", f"{path}/Add", self.op("Mul", f"{path}/Mul", scores, scale), mask)
        shares = self.op("Softmax", f"{path}/Softmax", scores, axis=-1)
        mixed = self.op("MatMul", f"{path}/MatMul_1", shares, self.repeat(f"{path}/values", v))
        merged = self.op("Transpose", f"{path}/Transpose_1", mixed, perm=[0, 2, 1, 3])
        rows = self.graph.constant("int64", [1, -1, model.heads * model.head_dim])
        return self.linear(f"{at}.o_proj", self.op("Reshape", f"{path}/Reshape", merged, rows)), (k, v)

    def heads(self, at: str, part: str, x: str, count: int) -> str:
        """q, k or v [1, heads, n, d], not yet rotated; Qwen3 norms each head of q and k."""
        path = f"{_path(at)}/{part}"
        shape = self.graph.constant("int64", [1, -1, count, self.model.head_dim])
        split = self.op("Reshape", f"{path}/Reshape", self.linear(f"{at}.{part}_proj", x), shape)
        if self.model.architecture == "qwen3" and part != "v":
            split = self.rms_norm(f"{at}.{part}_norm", split)
        return self.op("Transpose", f"{path}/Transpose", split, perm=[0, 2, 1, 3])

    def repeat(self, path: str, x: str) -> str:
        """[1, KV, t, d] -> [1, H, t, d], each head as often as heads of q share it."""
        model, groups = self.model, self.model.heads // self.model.kv_heads
        if groups == 1:
            return x
        wide = self.op("Unsqueeze", f"{path}/Unsqueeze", x, self.graph.constant("int64", [2]))
        wide = self.op("Expand", f"{path}/Expand", wide, self.graph.constant("int64", [1, 1, groups, 1, 1]))
        shape = self.graph.constant("int64", [1, model.heads, -1, model.head_dim])
        return self.op("Reshape", f"{path}/Reshape", wide, shape)

    def rotation(self, positions: str) -> tuple[str, str]:
        """cos and sin f32 [1, 1, n, d] of each position's angles."""
        path, rope = "/model/rotary_emb", self.model.rope
        column = self.op("Unsqueeze", f"{path}/Unsqueeze", positions, self.graph.constant("int64", [1, 3]))
        column = self.op("Cast", f"{path}/Cast", column, to=TensorProto.FLOAT)
        frequencies = self.graph.constant("float32", rope.inverse_frequencies(self.model.head_dim))
        half = self.op("Mul", f"{path}/Mul", column, frequencies)
        angles = self.op("Concat", f"{path}/Concat", half, half, axis=-1)
        cos, sin = (self.op(kind, f"{path}/{kind}", angles) for kind in ("Cos", "Sin"))
        if rope.attention_scaling() == 1.0:
            return cos, sin
        scaling = self.graph.constant("float32", rope.attention_scaling())
        return self.op("Mul", f"{path}/Mul_1", cos, scaling), self.op("Mul", f"{path}/Mul_2", sin, scaling)

    def rotate(self, path: str, x: str, rotation: tuple[str, str]) -> str:
        """Turns the pairs (i, i + d/2) of [1, heads, n, d]."""
        half = self.model.head_dim // 2
        first, second = self.graph.split(f"{path}/Split", x, [half, half])
        turned = self.op("Concat", f"{path}/Concat", self.op("Neg", f"{path}/Neg", second), first, axis=-1)
        straight = self.op("Mul", f"{path}/Mul", x, rotation[0])
        return self.op("Add", f"{path}/Add", straight, self.op("Mul", f"{path}/Mul_1", turned, rotation[1]))

    def rms_norm(self, at: str, x: str) -> str:
        path = _path(at)
        squares = self.op("Pow", f"{path}/Pow", x, self.graph.constant("float32", 2.0))
        mean = self.op("ReduceMean", f"{path}/ReduceMean", squares, axes=[-1], keepdims=1)
        biased = self.op("Add", f"{path}/Add", mean, self.graph.constant("float32", self.model.rms_norm_eps))
        normed = self.op("Div", f"{path}/Div", x, self.op("Sqrt", f"{path}/Sqrt", biased))
        return self.op("Mul", f"{path}/Mul", self.graph.weight(f"{at}.weight"), normed)

    def swiglu(self, at: str, x: str) -> str:
        gate, up = self.linear(f"{at}.gate_proj", x), self.linear(f"{at}.up_proj", x)
        path = _path(at)
        silu = self.op("Mul", f"{path}/Mul", gate, self.op("Sigmoid", f"{path}/Sigmoid", gate))
        return self.linear(f"{at}.down_proj", self.op("Mul", f"{path}/Mul_1", silu, up))

    def linear(self, at: str, x: str) -> str:
        """x @ weight.T, plus the bias where the model has one."""
        product = self.product(_path(at), x, f"{at}.weight")
        biases = dict.fromkeys(("q_proj", "k_proj", "v_proj"), self.model.qkv_bias) | {"o_proj": self.model.output_bias}
        biased = biases.get(at.rpartition(".")[2], False)
        return self.op("Add", f"{_path(at)}/Add", product, self.graph.weight(f"{at}.bias")) if biased else product

    def product(self, path: str, x: str, name: str) -> str:
        weight = self.graph.weight(name)
        if self.graph.dtype_of(weight) == "int8":
            scale = self.graph.weight(name + SCALE)
            return self.op(OPERATOR, f"{path}/{OPERATOR}", x, weight, scale, domain=DOMAIN)
        columns = self.op("Transpose", f"{path}/Transpose", self.float_weight(name), perm=[1, 0])
        return self.op("MatMul", f"{path}/MatMul", x, columns)

    def float_weight(self, name: str) -> str:
        weight = self.graph.weight(name)
        if self.graph.dtype_of(weight) == "float32":
            return weight
        if (at := f"{weight}/Cast") not in self.cast:
            self.cast.add(self.op("Cast", at, weight, to=TensorProto.FLOAT))
        return at


def _path(at: str) -> str:
    """``model.layers.0.mlp`` -> ``/model/layers.0/mlp``, as torch.onnx names nodes."""
    return "/" + at.replace(".", "/").replace("layers/", "layers.")
