"""Qwen2 and Qwen3 in plain torch, written to be exported: eager attention, explicit mask, positions and past.

Parameter names are Hugging Face's, so a checkpoint's tensors fit without a mapping.
"""
