"""frontend.quantize.activation from the YAML to the logits: what has the same bits, what moves, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint
from support.cpu_features import needs_bf16
from support.end_to_end import Greedy, compile_checkpoint, configuration, reference_for, relative_error
from support.instruction_sets import runnable

from vamc_py.activation import default_wide_rows
from vamc_py.cli import main
from vamc_py.errors import ConfigError
from vamc_py.runtime.executor import Executor

PROMPT = np.random.default_rng(5).integers(0, 288, 60).tolist()
WITHOUT_BF16 = "icelake-server"  # AVX-512 with VNNI
NO_BF16_CPU = f"backend.target={WITHOUT_BF16}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("activations") / "model"
    write_checkpoint(folder, architecture="qwen3", scale=0.3)
    return folder


@pytest.fixture(scope="module")
def executors(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Executor]:
    """By activation. Those of int8 attend in float32, so that the layers alone are looked at."""
    runnable(WITHOUT_BF16)
    made = {}
    for activation in ("int16", "int8_g32"):
        folder = tmp_path_factory.mktemp(activation)
        overrides = [f"frontend.quantize.activation={activation}", NO_BF16_CPU]
        made[activation] = Executor.load(
            compile_checkpoint(checkpoint, folder, dtype="int8", overrides=overrides).folder, slots=2
        )
    return made


def fed(executor: Executor, *chunks: int) -> np.ndarray:
    """The last token's logits of the prompt in chunks of these sizes."""
    assert sum(chunks) == len(PROMPT)
    start = 0
    for size in chunks:
        logits = executor.feed(PROMPT[start : start + size], slot=0, start=start)
        start += size
    return logits


def test_sixteen_bits_give_the_same_bits_in_any_chunks(executors: dict[str, Executor]) -> None:
    whole = fed(executors["int16"], 60)
    for chunks in ((30, 30), (59, 1), (9, 8, 7, 6, 5, 25), (1,) * 60):
        np.testing.assert_array_equal(fed(executors["int16"], *chunks), whole)


def test_int8_gives_the_same_bits_in_chunks_of_many_tokens(executors: dict[str, Executor]) -> None:
    """The guarantee of the documentation: chunks that stay above the rows up to which activations keep 16 bits."""
    executor = executors["int8_g32"]
    assert default_wide_rows(executor.manifest.activation) == executor.manifest.wide_rows == 8
    whole = fed(executor, 60)
    for chunks in ((30, 30), (9, 51), (20, 9, 31)):
        np.testing.assert_array_equal(fed(executor, *chunks), whole)
    few = fed(executor, 52, 8)
    assert not np.array_equal(few, whole)
    assert relative_error(few, whole) < 0.1


def test_few_tokens_are_those_of_sixteen_bits(executors: dict[str, Executor]) -> None:
    for chunks in ((8,) * 7 + (4,), (1,) * 60):
        np.testing.assert_array_equal(fed(executors["int8_g32"], *chunks), fed(executors["int16"], *chunks))


def test_fewer_bits_move_the_logits_a_little(checkpoint: Path, executors: dict[str, Executor]) -> None:
    with torch.no_grad():
        exact = reference_for(checkpoint)(input_ids=torch.tensor([PROMPT])).logits[0, -1].numpy()
    int16, groups = (relative_error(fed(executors[one], 60), exact) for one in ("int16", "int8_g32"))
    assert int16 < 0.15
    assert groups < int16 + 0.05


@needs_bf16
def test_bf16_is_the_default(checkpoint: Path, executors: dict[str, Executor], tmp_path: Path) -> None:
    """Prefill is close to 16 bits and the same in chunks of many tokens; a sequence is the same in either slot."""
    ours = Executor.load(compile_checkpoint(checkpoint, tmp_path, dtype="int8").folder, slots=2)
    assert (ours.manifest.activation, ours.manifest.wide_rows) == ("bf16", 24)
    assert (executors["int16"].manifest.activation, executors["int16"].manifest.wide_rows) == ("int16", 0)
    assert "avx512bf16" in ours.manifest.target.features
    whole = fed(ours, 60)
    assert 0 < relative_error(whole, fed(executors["int16"], 60)) < 0.02
    for chunks in ((30, 30), (35, 25)):  # each above 24 rows
        np.testing.assert_array_equal(fed(ours, *chunks), whole)
    alone, beside = Greedy(ours, 0, PROMPT), Greedy(ours, 1, PROMPT)
    alone.prefill()
    for _ in range(8):
        alone.decode()
    beside.prefill()
    for _ in range(8):
        beside.decode()
    assert alone.tokens == beside.tokens
    np.testing.assert_array_equal(np.stack(alone.rows), np.stack(beside.rows))


def test_bf16_for_a_cpu_without_it_is_refused_at_its_place(checkpoint: Path, tmp_path: Path) -> None:
    overrides = ["frontend.quantize.activation=bf16", NO_BF16_CPU]
    with pytest.raises(ConfigError) as caught:
        compile_checkpoint(checkpoint, tmp_path, dtype="int8", overrides=overrides)
    assert caught.value.faults == [
        "--set frontend.quantize.activation=bf16: frontend.quantize.activation: the activation bf16 needs a CPU with "
        "AVX512-BF16, which the target has not; say int8_g128 or int16"
    ]
    assert not (tmp_path / "model").exists()


def test_a_pattern_without_a_match_is_refused_before_the_trace(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(configuration(checkpoint, tmp_path, dtype="int8").text)
    with pytest.raises(SystemExit) as left:
        main(["compile", str(path), "--set", "frontend.quantize.wide=[down_proj]"])
    assert left.value.code == 2
    written = capsys.readouterr().err
    assert (
        "frontend.quantize.wide[0]: no int8 weight has a name like 'down_proj'; there are model.embed_tokens, "
        "model.layers.*.self_attn.q_proj, " in written
    )
    assert "trace" not in written
