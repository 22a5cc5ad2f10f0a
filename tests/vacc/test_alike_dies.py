"""The programs of a die that follow from those of another one are what writing them anew gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import model_config

from benchmarks.headers import write_headers
from vamc_py.compiler import write_programs
from vamc_py.config import load_text
from vamc_py.schedules.vacc.emit import step
from vamc_py.vacc import dies
from vamc_py.vacc.compile import Runs

YAML = """\
name: alike
frontend:
  checkpoint: {checkpoint}
  shape: {{input_ids: [[32], [64]]}}
  model_kwargs: {{tp: {tp}, align_qkv: true}}
backend: {{type: tvm_vacc, dtype: {dtype}}}
"""


def runs_of(folder: Path, tp: int, dtype: str, **shape: Any) -> Runs:
    write_headers(folder / "model", model_config(layers=2, **shape))
    return write_programs(load_text(YAML.format(checkpoint=folder / "model", tp=tp, dtype=dtype), Path("alike.yaml")))


@pytest.mark.parametrize(
    ("shape", "tp", "dtype", "most"),
    [
        ({"architecture": "qwen3", "intermediate": 128}, 4, "int8", 1),  # more dies than KV heads
        ({"architecture": "qwen2", "heads": 8, "kv_heads": 8, "intermediate": 128, "tied": False}, 2, "fp16", 1),
        ({"architecture": "llama", "heads": 3, "kv_heads": 3, "hidden": 48}, 2, "int8", 2),  # heads do not split evenly
    ],
)
def test_written_from_another_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: dict[str, Any], tp: int, dtype: str, most: int
) -> None:
    written: list[int] = []
    real = step.write_step

    def counted(*arguments: Any) -> Any:
        written.append(arguments[-1].rank)
        return real(*arguments)

    monkeypatch.setattr(dies, "write_step", counted)
    short = runs_of(tmp_path, tp, dtype, **shape)
    assert len(set(written)) <= most
    monkeypatch.setattr(dies, "same_form", lambda *_: False)
    written.clear()
    long = runs_of(tmp_path, tp, dtype, **shape)
    assert set(written) == set(range(tp))
    for one, other in zip(short.dies, long.dies, strict=True):
        for stage in ("prefill", "decode"):
            ours, theirs = one.stages[stage], other.stages[stage]
            assert ours.program == theirs.program
            assert ours.program.rank == one.rank
            assert set(ours.kernels) == set(theirs.kernels)
