"""Tables, selected rows and exchanges between dies as commands, against the references of one machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.vacc_steps import (
    PREFILL,
    Array,
    Reference,
    Step,
    references,
    use_least_decisions,
    worst_of,
)

from vamc_py import dialect
from vamc_py.errors import UserError
from vamc_py.runstream.program import Collective, Gather

FLOAT16 = 2e-3
VOCABULARY, FEATURES, WIDTH = 70, 48, 96
"""No multiple of a tile: the last die's part is padded. Columns of the feed-forward part."""
TOKENS = np.random.default_rng(3).integers(0, VOCABULARY, PREFILL).tolist()


def random(*shape: int, dtype: str = "float32") -> Array:
    rng = np.random.default_rng(sum(shape))
    if dtype == "int8":
        return rng.integers(-127, 128, shape).astype(np.int8)
    return rng.standard_normal(shape).astype(dtype)


def scales(rows: int) -> Array:
    return np.random.default_rng(rows).uniform(0.5, 2, rows).astype(np.float32) / 99


def table(dtype: str, **more: Array) -> dict[str, Array]:
    own = {"table": random(VOCABULARY, FEATURES, dtype=dtype), **more}
    return own | ({"scale": scales(VOCABULARY)} if dtype == "int8" else {})


def embedded(v: SimpleNamespace) -> Any:
    return v.bind(dialect.embedding(v.tokens, v.table, *([v.scale] if hasattr(v, "scale") else [])))


def of_table(dtype: str) -> Step:
    """The embedding alone, its rows the results."""
    return Step.of(embedded, table(dtype))


def tied(dtype: str) -> Step:
    """A table that makes the logits, too."""

    def emit(v: SimpleNamespace) -> Any:
        x = dialect.select_rows(embedded(v), v.rows)
        own = [v.scale] if dtype == "int8" else []
        return dialect.linear(v.bind(x), v.table, *own, v.norm, prologue="rms_norm", epsilon=1e-6)

    return Step.of(emit, table(dtype, norm=np.linspace(0.5, 2, FEATURES, dtype=np.float32)))


def feed_forward(dtype: str) -> Step:
    """Embedding, a gated layer and the one behind it with a residual, then logits; tables of their own."""
    weights = table(
        "float16",
        gate_up=random(2 * WIDTH, FEATURES, dtype=dtype),
        down=random(FEATURES, WIDTH, dtype=dtype),
        head=random(VOCABULARY, FEATURES, dtype="float16"),
        bias=random(FEATURES),
    )
    if dtype == "int8":
        weights |= {"gate_up_scale": scales(2 * WIDTH) / 5, "down_scale": scales(FEATURES)}
    else:
        weights["gate_up"] /= 16
        weights["down"] /= 16

    def emit(v: SimpleNamespace) -> Any:
        def own(name: str) -> list[Any]:
            return [getattr(v, name)] + ([getattr(v, f"{name}_scale")] if dtype == "int8" else [])

        x = embedded(v)
        both = v.bind(dialect.linear(x, *own("gate_up")))
        hidden = v.bind(dialect.linear(both, *own("down"), v.bias, x, bias=True, residual=True, prologue="swiglu"))
        return dialect.linear(v.bind(dialect.select_rows(hidden, v.rows)), v.head)

    return Step.of(emit, weights)


STEPS = {
    **{f"table of {dtype}": of_table(dtype) for dtype in ("float32", "float16", "int8")},
    **{f"tied {dtype}": tied(dtype) for dtype in ("float16", "int8")},
    **{f"feed forward in {dtype}": feed_forward(dtype) for dtype in ("float16", "int8")},
}


@pytest.fixture(scope="module")
def reference() -> dict[str, Reference]:
    return dict(zip(STEPS, references(list(STEPS.values())), strict=True))


@pytest.mark.parametrize("least", [False, True], ids=["", "through DDR"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("name", STEPS)
def test_on_so_many_dies(
    name: str, ranks: int, least: bool, reference: dict[str, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if least:
        use_least_decisions(monkeypatch)
    emitted = STEPS[name].emitted(tmp_path, ranks=ranks)
    got, expected = emitted.prefill(TOKENS), reference[name](TOKENS, 0)
    decoded = emitted.decode(TOKENS[7], 50)
    if name.startswith("table"):  # a sum of one row and zeros
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(decoded, expected[7])
        return
    worst_of(got, expected, FLOAT16)
    worst_of(decoded[None], expected[7:8], FLOAT16)


def test_a_token_is_looked_up_on_the_die_that_has_it() -> None:
    dies = STEPS["tied float16"].written(ranks=3)
    [gathers, exchanges] = [
        [[one for one in die.stages["prefill"].program.commands if isinstance(one, kind)] for die in dies]
        for kind in (Gather, Collective)
    ]
    assert [(one.first, one.entries) for [one] in gathers] == [(0, 32), (32, 32), (64, 32)]
    assert [[one.kind for one in own] for own in exchanges] == [["all_reduce", "all_gather"]] * 3
    [wide, logits] = exchanges[0]
    assert (wide.dtype, wide.source.bytes) == ("float32", PREFILL * FEATURES * 4)
    assert (logits.source.bytes, logits.target.bytes) == (32 * 4, 96 * 4)


def test_a_tied_table_lies_in_panels_and_once() -> None:
    [die] = STEPS["tied int8"].written()
    parameters = {one.name: one.shape for one in die.memory.tensors if one.role == "parameter"}
    assert parameters == {"table": (5, FEATURES, 16), "norm": (FEATURES,), "scale": (80,)}


def test_a_table_in_two_forms_is_refused() -> None:
    """Four bits a value have panels of their own, which an embedding does not read."""

    def emit(v: SimpleNamespace) -> Any:
        x = dialect.select_rows(embedded(v), v.rows)
        return dialect.linear(v.bind(x), v.table, v.scale, bits=4)

    weights = {**table("int8"), "scale": scales(VOCABULARY)}
    weights["table"] //= 16
    with pytest.raises(UserError, match=r"^table is used in two ways that the vacc target has no common layout for"):
        Step.of(emit, weights).written()


def test_an_operator_without_a_schedule_is_refused() -> None:
    step = Step.of(
        lambda v: dialect.rms_norm(embedded(v), v.norm, epsilon=1e-6), table("float16", norm=random(FEATURES))
    )
    with pytest.raises(UserError, match=r"no schedule for vamc\.rms_norm .*--until select-rows-early"):
        step.written()
