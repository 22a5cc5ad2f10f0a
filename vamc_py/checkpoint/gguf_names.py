"""llama.cpp's names of tensors and Hugging Face's."""

from __future__ import annotations

import re

_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(0|[1-9]\d*)\.([a-z_]+)\.(weight|bias)")


def huggingface_name(name: str) -> str:
    """blk.3.ffn_up.weight is model.layers.3.mlp.up_proj.weight; a name unknown here stays as it is."""
    if match := _BLOCK.fullmatch(name):
        layer, module, kind = match.groups()
        return f"model.layers.{layer}.{_LAYER[module]}.{kind}" if module in _LAYER else name
    module, _, kind = name.rpartition(".")
    return f"{_MODEL[module]}.{kind}" if module in _MODEL else name


def layers(names: list[str]) -> int:
    """How many layers the tensors of these (llama.cpp) names belong to: the highest number + 1."""
    matches = [_BLOCK.fullmatch(name) for name in names]
    return max((int(match.group(1)) + 1 for match in matches if match), default=0)
