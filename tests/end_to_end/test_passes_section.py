"""A configuration with ``passes`` compiles with these passes, and the artifact computes what they made of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.checkpoints import write_checkpoint
from support.end_to_end import compile_checkpoint, greedy_reference, reference_for
from support.foreign_passes import write_pass_file

from vamc_py.runtime.executor import Executor

LIMIT = 0.25


def test_a_pass_of_a_file_runs_and_another_does_not(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", architecture="qwen3", scale=0.3)
    clamp = f"{{file: '{write_pass_file(tmp_path)}:Clamp', options: {{limit: {LIMIT}}}}}"
    changes = f"passes=[{clamp}, {{name: fuse-attention, off: true}}]"
    compiled = compile_checkpoint(tmp_path / "checkpoint", tmp_path, overrides=[changes])
    assert f"clamped at {LIMIT}" in compiled.notes
    prompt = [5, 17, 200, 31, 8]
    logits = Executor.load(compiled.folder).feed(prompt, slot=0, start=0)
    _, [expected] = greedy_reference(reference_for(tmp_path / "checkpoint"), prompt, 1)
    assert np.abs(expected).max() > 2 * LIMIT
    np.testing.assert_allclose(logits, expected.clip(-LIMIT, LIMIT), atol=1e-5)
