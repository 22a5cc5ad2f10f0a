"""A patched Qwen2 and Qwen3 of the vacc toolchain's interface, written for the tests.

It differs from vamc_py.frontend.models where the public files do: rotary tables in each layer, indexed by position_ids;
a mask of ones and zeros; tuples for the past; transformers' base class.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from .configuration_qwen2_vacc import Qwen2Config


class RootMeanSquare(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, value):
        single = value.to(torch.float32)
        inverse = torch.rsqrt(torch.mean(single * single, dim=-1, keepdim=True) + self.eps)
        return self.weight * (single * inverse).to(value.dtype)


class Tables(nn.Module):
    """Rows of cos and sin for every position."""

    def __init__(self, width, positions, theta):
        super().__init__()
        frequencies = theta ** -(torch.arange(0, width, 2, dtype=torch.int64).float() / width)
        angles = torch.outer(torch.arange(positions).float(), frequencies).repeat(1, 2)
        self.register_buffer("cos_cached", torch.cos(angles), persistent=False)
        self.register_buffer("sin_cached", torch.sin(angles), persistent=False)

    def forward(self, position_ids, length):
        rows = self.cos_cached[:length], self.sin_cached[:length]
        return tuple(table[position_ids].unsqueeze(1) for table in rows)


def turn(states, cosine, sine):
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat((second.neg(), first), dim=-1) * sine


def repeat_kv(states, times):
    if times == 1:
        return states
    batch, heads, length, width = states.shape
    states = states.unsqueeze(2).expand(batch, heads, times, length, width)
    return states.reshape(batch, heads * times, length, width)


class SelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.width, self.heads = config.head_dim, config.num_attention_heads
        self.groups = self.heads // config.num_key_value_heads
        normed = config.model_type == "qwen3"
        outputs, shared = self.heads * self.width, config.num_key_value_heads * self.width
        self.q_proj = nn.Linear(config.hidden_size, outputs, bias=not normed)
        self.k_proj = nn.Linear(config.hidden_size, shared, bias=not normed)
        self.v_proj = nn.Linear(config.hidden_size, shared, bias=not normed)
        self.o_proj = nn.Linear(outputs, config.hidden_size, bias=False)
        self.q_norm = RootMeanSquare(self.width, config.rms_norm_eps) if normed else None
        self.k_norm = RootMeanSquare(self.width, config.rms_norm_eps) if normed else None
        self.rotary_emb = Tables(self.width, config.max_position_embeddings, config.rope_theta)

    def heads_of(self, projection, states, norm=None):
        batch, length, _ = states.shape
        split = projection(states).view(batch, length, -1, self.width)
        return (split if norm is None else norm(split)).permute(0, 2, 1, 3)

    def forward(self, states, bias, position_ids, past):
        query = self.heads_of(self.q_proj, states, self.q_norm)
        key = self.heads_of(self.k_proj, states, self.k_norm)
        value = self.heads_of(self.v_proj, states)
        length = key.shape[2] + (0 if past is None else past[0].shape[2])
        cosine, sine = self.rotary_emb(position_ids, length)
        query, key = turn(query, cosine, sine), turn(key, cosine, sine)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        scores = query @ repeat_kv(key, self.groups).transpose(-1, -2) / self.width**0.5
        if bias is not None:
            scores = scores + bias
        shares = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        mixed = (shares @ repeat_kv(value, self.groups)).transpose(1, 2).contiguous()
        return self.o_proj(mixed.reshape(states.shape[0], states.shape[1], -1)), (key, value)


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, states):
        return self.down_proj(self.act_fn(self.gate_proj(states)) * self.up_proj(states))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn, self.mlp = SelfAttention(config), FeedForward(config)
        self.input_layernorm = RootMeanSquare(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RootMeanSquare(config.hidden_size, config.rms_norm_eps)

    def forward(self, states, bias, position_ids, past):
        change, present = self.self_attn(self.input_layernorm(states), bias, position_ids, past)
        states = states + change
        return states + self.mlp(self.post_attention_layernorm(states)), present


class Base(PreTrainedModel):
    config_class = Qwen2Config
    base_model_prefix = "model"

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(std=0.02)


class Qwen2Model(Base):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RootMeanSquare(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None):
        states = self.embed_tokens(input_ids)
        bias = None
        if attention_mask is not None:
            refused = 1.0 - attention_mask.to(states.dtype)
            bias = refused.masked_fill(refused.bool(), torch.finfo(states.dtype).min)
        present = ()
        for index, layer in enumerate(self.layers):
            past = None if past_key_values is None else past_key_values[index]
            states, pair = layer(states, bias, position_ids, past)
            present = (*present, pair)
        states = self.norm(states)
        if not self.config.iter_num and self.config.insert_slice:
            states = states[:, -1:, :]
        return states, present


class Qwen2ForCausalLM(Base):
    _tied_weights_keys = ["lm_head.weight"]  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=True,
        return_dict=False,
    ):
        states, present = self.model(input_ids, attention_mask, position_ids, past_key_values)
        return self.lm_head(states).float(), present
