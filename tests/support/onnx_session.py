"""Runs exported graphs in ONNX Runtime, a prompt through iter0 and more tokens through iter1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Array = np.ndarray[Any, Any]


class OnnxModel:
    """iter0.onnx and iter1.onnx of a folder, with fixed lengths or dynamic ones, for one sequence.

    With fixed lengths the past of iter1 is a buffer: positions that are not filled yet are masked, and what iter1 adds
    stands behind the buffer and is moved into it.
    """

    def __init__(self, folder: Path) -> None:
        self.prefill, self.decode = (
            onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
            for name in ("iter0", "iter1")
        )
        self.past_names = [value.name for value in self.decode.get_inputs() if value.name.startswith("past")]
        self.length = 0
        self.past: list[Array] = []

    def read(self, tokens: list[int]) -> Array:
        """The logits f32 [V] of the last token of a prompt; a graph of fixed length takes that many tokens."""
        n = len(tokens)
        logits, *self.past = self.prefill.run(
            None,
            {
                "input_ids": np.array([tokens], np.int64),
                "attention_mask": np.tril(np.ones((1, 1, n, n), np.float32)),
                "position_ids": np.arange(n, dtype=np.int64)[None],
            },
        )
        self.length = n
        assert logits.shape[:2] == (1, 1)
        room = self.decode.get_inputs()[-1].shape[2]
        if isinstance(room, int):
            self.past = [np.pad(part, ((0, 0), (0, 0), (0, room - n), (0, 0))) for part in self.past]
        row: Array = logits[0, -1]
        return row

    def step(self, token: int) -> Array:
        """The logits f32 [V] behind one more token."""
        room = self.past[0].shape[2]
        mask = np.zeros((1, 1, 1, room + 1), np.float32)
        mask[..., : self.length] = mask[..., -1] = 1
        inputs = {
            "input_ids": np.array([[token]], np.int64),
            "attention_mask": mask,
            "position_ids": np.array([[self.length]], np.int64),
        }
        logits, *present = self.decode.run(None, inputs | dict(zip(self.past_names, self.past, strict=True)))
        if isinstance(self.decode.get_inputs()[-1].shape[2], int):
            for past, grown in zip(self.past, present, strict=True):
                past[:, :, self.length] = grown[:, :, -1]
        else:
            self.past = present
        self.length += 1
        row: Array = logits[0, -1]
        return row
