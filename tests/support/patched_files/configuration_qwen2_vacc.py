"""The config class of the test's own patched model; see support.patched_checkpoint."""

from transformers import PretrainedConfig


class Qwen2Config(PretrainedConfig):
    model_type = "qwen2"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __init__(self, rope_theta=10000.0, head_dim=None, attention_bias=None, insert_slice=False, iter_num=0, **keys):
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "rms_norm_eps",
        ):
            setattr(self, name, keys.pop(name, None))
        self.head_dim = head_dim or (self.hidden_size and self.hidden_size // self.num_attention_heads)
        self.rope_theta = rope_theta
        self.insert_slice, self.iter_num = insert_slice, iter_num
        super().__init__(**keys)
