"""``load`` on an artifact that TVM built: text above, the true executor below."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from support.artifacts import CONTEXT, PREFILL, Reference, write_artifact

from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact")
    write_artifact(path)
    for name in ("tokenizer_config.json", "generation_config.json"):
        (path / "tokenizer" / name).write_text("{}")
    return path


def greedy(prompt: list[int], count: int) -> tuple[int, ...]:
    reference = Reference.empty(1)
    tokens = list(prompt)
    for start in [0, *range(len(prompt), len(prompt) + count - 1)]:
        new = tokens[start:]
        logits = reference.step(new, list(range(start, len(tokens))), [0] * len(new), [len(new) - 1])
        tokens.append(int(np.argmax(logits[0])))
    return tuple(tokens[len(prompt) :])


def test_generates_what_the_reference_computes(folder: Path) -> None:
    model = load(folder, threads=1)
    assert (model.executor.context, model.sequence.context) == (CONTEXT, CONTEXT)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6] * 2  # longer than one step
    assert len(prompt) > PREFILL
    for text in (prompt, [*prompt[:5], 7, 7], prompt):  # the cache is reused in part
        result = model.generate(text, max_new_tokens=6).result()
        assert result.output_ids == greedy(text, 6)
    assert load(str(folder), context=16).executor.context == 16


def test_faults_are_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no chat template"):
        load(folder).chat("Hi")
    with pytest.raises(ArtifactError, match="manifest"):
        load(tmp_path)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "tokenizer" / "generation_config.json").unlink()
    with pytest.raises(ArtifactError, match=r"generation_config\.json is missing"):
        load(copy)
