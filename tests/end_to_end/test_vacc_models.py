"""Random models for the card ``tiny`` on simulated dies, beside the same ones on this processor; what is refused."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import configuration
from support.killed import compile_until, left
from support.vacc_models import (
    CONTEXT,
    PREFILL,
    Models,
    digests,
    logits_along,
    on_tiny,
    text,
    worst,
)

from vamc_py.compiler import compile_config
from vamc_py.errors import UserError

CASES = [
    ("qwen3", "fp16", (1, 4, 8), 5e-3),  # 2 KV heads: 4 and 8 dies have copies
    ("qwen2", "int8", (1, 3), 5e-3),
    ("qwen3", "int8_g32", (2,), 5e-2),
]
"""Checkpoint, numbers, dies, and how far the logits may be off: float16, or a value that falls to the next integer."""
EXCHANGED = 3e-3
"""Dies exchange float16."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("vacc_models"))


@pytest.mark.parametrize(("name", "numbers", "dies", "most"), CASES)
def test_logits_are_those_of_the_processor(
    models: Models, name: str, numbers: str, dies: tuple[int, ...], most: float
) -> None:
    """Prompts of the whole prefill and of a part, then tokens up to the end of the context."""
    for prompt, count in ((PREFILL, CONTEXT), (5, 12)):
        tokens = text(count, seed=prompt)
        expected = logits_along(models.llvm(name, numbers), tokens, prompt)
        got = {tp: logits_along(models.vacc(name, numbers, tp), tokens, prompt) for tp in dies}
        for tp in dies:
            assert worst(got[tp], expected) < most
            assert worst(got[tp], got[dies[0]]) < EXCHANGED


@pytest.mark.parametrize(("name", "numbers", "tp"), [("qwen3", "fp16", 8), ("qwen2", "int8", 3)])
def test_greedy_tokens_are_those_of_the_processor(models: Models, name: str, numbers: str, tp: int) -> None:
    """To within ties: where another token wins, it is as good as the processor's within the error."""
    ours, theirs = models.vacc(name, numbers, tp), models.llvm(name, numbers)
    tokens = text(9, seed=2)
    logits = [executor.feed(tokens, slot=0, start=0) for executor in (ours, theirs)]
    while len(tokens) < CONTEXT:
        got, expected = logits
        assert expected.max() - expected[got.argmax()] <= 5e-3 * np.abs(expected).max()
        tokens.append(int(expected.argmax()))
        logits = [executor.feed(tokens[-1:], slot=0, start=len(tokens) - 1) for executor in (ours, theirs)]


def test_two_compiles_give_the_same_bytes(models: Models) -> None:
    first = models.artifact("qwen2", "int8", 3)
    before = digests(first)
    again = models.compile(models.configuration("qwen2", first.parent, "int8", tp=3))
    assert again == first
    assert digests(again) == before
    names = {name.partition("/")[0] for name in before if "_rank" in name}
    assert names == {f"{stage}_rank{rank}" for stage in ("prefill_16", "decode_48") for rank in range(3)}


@pytest.mark.parametrize(
    ("tp", "overrides", "message"),
    [
        (3, (), "tp: 3 dies cannot share 8 query heads with 2 KV heads evenly; choose another model_kwargs.tp, or pad"),
        (16, ["frontend.model_kwargs.align_qkv=true"], "tp: 16 dies cannot share the 128 columns of the feed-forward"),
        (2, ["frontend.quantize.type=w4a16"], "the 128 columns of o_proj: groups of 128 have one scale, and each die"),
        (1, ["frontend.shape.input_ids=[[24],[48]]"], "24 is not a multiple of 16; 16 and 32 are"),
        (1, ["frontend.shape.input_ids=[[16],[1024]]"], "the context of 1024 is longer than the 512 positions"),
        (1, ["backend.device.ssram_bytes=20000"], "prefill of 16 tokens does not fit the memory of tiny in any tiling"),
        (1, ["backend.device.ddr_bytes=60000"], r"a die's weights and caches take \d+ bytes, tiny has 60000 of DDR"),
    ],
)
def test_what_does_not_fit_is_refused(
    models: Models, tmp_path: Path, tp: int, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        models.compile(models.configuration("qwen3", tmp_path, "int8", *overrides, tp=tp))
    assert list(tmp_path.iterdir()) == []


def test_widths_of_whole_tiles_are_wanted(tmp_path: Path) -> None:
    """All faults at once, before anything is traced."""
    write_checkpoint(tmp_path / "odd", architecture="qwen3", hidden=72, intermediate=100, head_dim=24)
    with pytest.raises(UserError) as fault:
        compile_config(configuration(tmp_path / "odd", tmp_path, dtype="fp16", overrides=on_tiny(1)))
    for name, size in (("hidden_size", 72), ("intermediate_size", 100), ("head_dim", 24)):
        assert f"{name} is {size}: the vacc target takes widths that are multiples of 16" in str(fault.value)


def test_an_interrupted_compile_leaves_nothing(models: Models, tmp_path: Path) -> None:
    loaded = models.configuration("qwen3", tmp_path, "fp16", tp=2)
    options = [part for one in on_tiny(2) for part in ("--set", one)]
    assert compile_until(loaded, "runstreams", signal.SIGINT, *options) == 130
    assert left(tmp_path) == []
