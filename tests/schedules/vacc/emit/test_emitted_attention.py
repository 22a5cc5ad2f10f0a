"""Attention as commands against the operator's reference: prompts, decoding behind them, groups of heads, norms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.vacc_steps import CONTEXT, PREFILL, Array, Reference, Step, references, use_least_decisions, worst_of
from tvm import relax

from vamc_py import dialect
from vamc_py.errors import UserError

FLOAT16 = 2e-3
"""Of the largest value of a row: queries, keys, weights of values and values are rounded to float16."""


def attention(heads: int, kv_heads: int, dim: int, *, norms: bool = False, out_proj: bool = False) -> Step:
    """Attention over an embedding that stands for the projection; `out_proj`: and a layer behind it."""
    rng = np.random.default_rng(heads * dim)
    width = (heads + 2 * kv_heads) * dim
    weights: dict[str, Array] = {"table": rng.standard_normal((CONTEXT, width)).astype(np.float32)}
    if norms:
        weights |= {name: rng.uniform(0.5, 2, dim).astype(np.float32) for name in ("q_norm", "k_norm")}
    if out_proj:
        weights["out"] = (rng.standard_normal((heads * dim, heads * dim)) / 9).astype(np.float16)
    frequencies = (10000.0 ** (-np.arange(dim // 2) / (dim // 2))).astype(np.float32)

    def emit(v: SimpleNamespace) -> Any:
        qkv = v.bind(dialect.embedding(v.tokens, v.table))
        angles = v.bind(dialect.rotary_angles(v.positions, relax.const(frequencies), scaling=1.0))
        own = [v.q_norm, v.k_norm] if norms else []
        result = dialect.qkv_attention(
            qkv, *own, v.bind(angles[0]), v.bind(angles[1]), v.positions, v.slots, v.pages, v.k0, v.v0,
            heads=heads, kv_heads=kv_heads, head_dim=dim, scale=dim**-0.5, epsilon=1e-6,
        )  # fmt: skip
        return dialect.linear(v.bind(result), v.out) if out_proj else result

    return Step.of(emit, weights, caches=[(kv_heads, dim)])


CASES: dict[str, Callable[[], Step]] = {
    "each head with keys of its own": lambda: attention(3, 3, 16),
    "groups of heads with norms": lambda: attention(6, 2, 32, norms=True),
    "a group that no tile divides, before a layer": lambda: attention(7, 1, 48, norms=True, out_proj=True),
}


@pytest.fixture(scope="module")
def reference() -> dict[str, Reference]:
    return dict(zip(CASES, references([make() for make in CASES.values()]), strict=True))


def check(step: Step, reference: Reference, folder: Path, **device: int) -> None:
    """A prompt of the whole prefill, then tokens up to the end of the context; a shorter one, some tokens more."""
    emitted = step.emitted(folder, **device)
    for count, more in ((PREFILL, CONTEXT - PREFILL), (PREFILL - 11, 4)):
        text = np.random.default_rng(count).permutation(CONTEXT).tolist()[: count + more]
        reference.forget()
        prompt = [*text[:count], *[0] * (PREFILL - count)]  # what lies behind the text is overwritten or masked
        worst_of(emitted.prefill(prompt)[:count], reference(text[:count], 0), FLOAT16)
        got = np.stack([emitted.decode(text[position], position) for position in range(count, len(text))])
        worst_of(got, reference(text[count:], count), FLOAT16)


@pytest.mark.parametrize("name", CASES)
def test_attention(name: str, reference: dict[str, Reference], tmp_path: Path) -> None:
    check(CASES[name](), reference[name], tmp_path)


@pytest.mark.parametrize("name", list(CASES)[1:])
def test_blocks_of_tokens_through_ddr(
    name: str, reference: dict[str, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = CASES[name]()
    use_least_decisions(monkeypatch)
    check(step, reference[name], tmp_path, cores=3)
    [die] = step.written()
    program = die.stages["prefill"].program
    softmaxes = [command for command in program.commands if getattr(command, "kernel", "").startswith("softmax")]
    assert len(softmaxes) == 2 * step.caches[0][0]  # blocks of 16 tokens, KV heads


def test_masked_positions_are_not_looked_at(tmp_path: Path) -> None:
    """What an earlier text left in the caches behind the present one changes no bit."""
    step = attention(4, 2, 32)
    used, fresh = step.emitted(tmp_path / "used"), step.emitted(tmp_path / "fresh")
    used.prefill(list(range(PREFILL)))
    for position in range(PREFILL, CONTEXT):
        used.decode(position, position)
    prompt = list(range(9, 9 + PREFILL))
    np.testing.assert_array_equal(used.prefill(prompt), fresh.prefill(prompt))
    np.testing.assert_array_equal(used.decode(5, 20), fresh.decode(5, 20))


def test_a_head_that_is_no_multiple_of_the_tile_is_refused() -> None:
    with pytest.raises(UserError, match="heads of 24 columns: the vacc target takes multiples of 16"):
        attention(2, 1, 24).written()
