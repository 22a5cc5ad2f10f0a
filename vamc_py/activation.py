"""In which arithmetic the int8 weights of linear layers meet the activations: the names, and what goes with them."""

from __future__ import annotations

from typing import Literal

Activation = Literal["int16", "bf16", "int8_g32", "int8_g64", "int8_g128", "int8_token"]
Prologue = Literal["none", "rms_norm", "swiglu"]

NO_BF16 = "the activation bf16 needs a CPU with AVX512-BF16, which the target has not; say int8_g128 or int16"

TOKEN = "token"
_GROUPED = "int8_"
_MANY_ROWS = {"int16": 0, "bf16": 24}
_MANY_ROWS_INT8 = 8


def columns_per_scale(activation: Activation, columns: int) -> int | None:
    """How many columns of a row of ``columns`` share a scale of its int8 values; None where they are not int8.

    The last group may be shorter.
    """
    if not activation.startswith(_GROUPED):
        return None
    group = activation.removeprefix(_GROUPED)
    return columns if group == TOKEN else min(columns, int(group.removeprefix("g")))


def default_wide(activation: Activation | None) -> tuple[str, ...]:
    """The weights that keep ``int16`` anyhow: with int8 activations lm_head, which a prompt goes through once.

    It has a quarter of the loss that these activations cost, and no time in a prompt.
    """
    return ("lm_head",) if activation is not None and activation.startswith(_GROUPED) else ()


def default_wide_rows(activation: Activation) -> int:
    """The most rows for which ``int16`` is used anyhow: so few are bound by memory, where its two digits cost nothing.

    With bf16 it is more, since two int8 digits take no longer than one bfloat16 product.
    """
    return _MANY_ROWS.get(activation, _MANY_ROWS_INT8)
