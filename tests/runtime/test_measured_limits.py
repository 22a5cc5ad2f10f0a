"""What a model asks of a machine at least, counted by hand, and the loops that measure what the machine gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.artifacts import CONTEXT, VOCAB, write_artifact

from vamc_py.artifact.manifest import Manifest, ModelFacts
from vamc_py.errors import ArtifactError
from vamc_py.runtime import limits
from vamc_py.runtime.executor import Executor
from vamc_py.runtime.limits import (
    MatrixLimit,
    ReadLimit,
    decode_work,
    linear_weights,
    matrix_kind,
    matrix_kinds,
    prefill_work,
)

MODEL = ModelFacts(
    architecture="qwen3", layers=2, hidden_size=8, intermediate_size=16, heads=4, kv_heads=2, head_dim=4,
    vocab_size=VOCAB, tied_embedding=False, max_positions=CONTEXT,
)  # fmt: skip
PARAMETER_BYTES = {"embedding": VOCAB * VOCAB * 2, "scale": VOCAB * 2, "bias": VOCAB}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts") / "toy"


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return write_artifact(folder, model=MODEL)


def test_linear_weights() -> None:
    q, k, v, o = 8 * 16, 8 * 8, 8 * 8, 16 * 8
    gate, up, down = 8 * 16, 8 * 16, 16 * 8
    assert linear_weights(MODEL) == 2 * (q + k + v + o + gate + up + down)


def test_prefill_operations(manifest: Manifest) -> None:
    last_layer = 16 * 8 + 3 * 8 * 16  # o, gate, up and down: for the last token alone
    linears = 2 * (3 * linear_weights(MODEL) - 2 * last_layer)
    lm_head = 2 * 8 * VOCAB
    keys_and_values = 2 + 2
    attention = 2 * 4 * 4 * keys_and_values * (1 + 2 + 3)  # layers, heads, head_dim, positions seen by each token
    assert prefill_work(manifest, 3).operations == linears + lm_head + attention


def test_decode_bytes(manifest: Manifest) -> None:
    one_row = PARAMETER_BYTES["embedding"] / VOCAB
    parameters = one_row + PARAMETER_BYTES["scale"] + PARAMETER_BYTES["bias"]
    position = 2 * 2  # key and value, bytes of float16: the toy has caches of one layer, of one head with one feature
    assert decode_work(manifest, 10, 2).read == 2 * parameters + (11 + 12) * position


def test_tied_embedding_is_read_whole(manifest: Manifest) -> None:
    tied = manifest.model_copy(update={"model": MODEL.model_copy(update={"tied_embedding": True})})
    extra = decode_work(tied, 1, 1).read - decode_work(manifest, 1, 1).read
    assert extra == pytest.approx(PARAMETER_BYTES["embedding"] * (VOCAB - 1) / VOCAB)


@pytest.mark.parametrize(("dtype", "kind"), [("int8", "int8"), ("fp16", "fp32"), ("bf16", "fp32"), ("fp32", "fp32")])
def test_matrix_kind(manifest: Manifest, dtype: str, kind: str) -> None:
    target = manifest.target.model_copy(update={"dtype": dtype})
    assert matrix_kind(manifest.model_copy(update={"target": target}), 512) == kind


@pytest.mark.parametrize(
    ("activation", "tokens", "prefill", "kind"),
    [
        (None, 512, 512, "int8"),
        ("int16", 512, 512, "int8"),
        ("int8_g64", 512, 512, "int8"),
        ("bf16", 512, 512, "bf16"),
        ("bf16", 25, 512, "bf16"),
        ("bf16", 24, 512, "int8"),
        ("bf16", 512, 16, "int8"),  # in steps of 16
    ],
)
def test_matrix_kind_of_an_activation(
    manifest: Manifest, activation: str | None, tokens: int, prefill: int, kind: str
) -> None:
    changes = {
        "target": manifest.target.model_copy(update={"dtype": "int8"}),
        "limits": manifest.limits.model_copy(update={"prefill": prefill}),
        "activation": activation,
        "wide_rows": 24,
    }
    assert matrix_kind(manifest.model_copy(update=changes), tokens) == kind


def test_matrix_kinds_are_those_of_the_instructions() -> None:
    assert matrix_kinds(("avx2", "avx512f", "avx512vnni")) == ("int8", "fp32")
    assert matrix_kinds(("avx512f", "avx512bf16")) == ("int8", "fp32", "bf16")


class Clock:
    """Executes the loops in made-up time: ``speed`` units a second, as each call says how many units it is."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.now = 0.0

    def call(self, name: str, *arrays: np.ndarray) -> None:
        if name == "limit_read":
            self.now += arrays[0].size / self.speed
        else:
            rounds, out = arrays
            out[0] = 7  # thousands of operations a round
            self.now += int(rounds[0]) * 7000 / self.speed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(5e9)
    monkeypatch.setattr(limits.time, "perf_counter", lambda: clock.now)
    return clock


def test_read_limit_is_bytes_a_second(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_READ_BYTES", 1 << 26)
    assert ReadLimit(clock).measure() == pytest.approx(5e9)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["int8", "fp32", "bf16"])
def test_matrix_limit_is_operations_a_second(clock: Clock, kind: str) -> None:
    limit = MatrixLimit(clock, kind)  # type: ignore[arg-type]
    assert limit.measure() == pytest.approx(5e9)
    start = clock.now
    limit.measure()
    assert 0.01 < clock.now - start < 0.1  # long enough to time, short enough to repeat


def test_matrix_loop_that_does_nothing(clock: Clock) -> None:
    clock.speed = 1e15
    with pytest.raises(ArtifactError, match="limit_matrix_int8: 2097152 rounds take only"):
        MatrixLimit(clock, "int8")  # type: ignore[arg-type]


def test_loops_of_a_real_module(folder: Path, manifest: Manifest) -> None:
    executor = Executor.load(folder)
    assert 1e7 < ReadLimit(executor).measure() < 1e13
    assert 1e6 < MatrixLimit(executor, "int8").measure() < 1e15
