"""Addresses in DDR: weights as they are packed, tables of angles, caches, inputs, output; none overlap."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.vacc_steps import variable

from vamc_py.artifact.manifest import PARAMETER_ALIGNMENT
from vamc_py.runstream.layout import layout_faults
from vamc_py.runstream.program import Program
from vamc_py.schedules.vacc.memory import plan_ddr
from vamc_py.schedules.vacc.parameters import Packed


def cache(name: str, kv_heads: int, dim: int) -> Any:
    last = (dim, 16) if name[0] == "k" else (16, dim)
    return variable(name, 1, kv_heads, 4, *last, dtype="float16")


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=3)
weights = st.lists(st.tuples(st.sampled_from(["float16", "int8", "uint8", "float32"]), shapes), max_size=6)


@given(weights, st.integers(1, 3), st.integers(0, 3), st.integers(1, 500))
def test_tensors_lie_one_behind_the_other(
    many: list[tuple[str, list[int]]], kv_heads: int, layers: int, vocabulary: int
) -> None:
    packed = {f"w{i}": Packed(f"w{i}", dtype, tuple(shape), "plain") for i, (dtype, shape) in enumerate(many)}
    caches = [cache(f"{name}{layer}", kv_heads, 32) for layer in range(layers) for name in "kv"]
    plan = plan_ddr(packed, {"angles": 32}, caches, tokens=32, context=64, vocabulary=vocabulary)
    roles = [tensor.role for tensor in plan.tensors]
    assert roles == ["parameter"] * (len(many) + 2) + ["cache"] * len(caches) + ["input", "output"]
    for one, tensor in zip(packed.values(), plan.tensors, strict=False):
        assert (one.name, one.dtype, one.shape, one.bytes) == (tensor.name, tensor.dtype, tensor.shape, tensor.size)
    for before, after in zip(plan.tensors, plan.tensors[1:], strict=False):
        assert after.offset == -(-(before.offset + before.size) // PARAMETER_ALIGNMENT) * PARAMETER_ALIGNMENT
    program = Program(
        device="made", stage="prefill", tokens=32, context=64, rank=0, ranks=1, registers={}, ddr_bytes=plan.end,
        ssram_bytes=0, tensors=tuple(plan.tensors), kernels={}, commands=(),
    )  # fmt: skip
    assert list(layout_faults(program, ssram_bytes=0, ddr_bytes=plan.end)) == []


def test_caches_have_the_forms_that_kernels_read() -> None:
    plan = plan_ddr({}, {}, [cache("k0", 3, 32), cache("v0", 3, 32)], tokens=16, context=64, vocabulary=7)
    assert [(one.name, one.shape) for one in plan.tensors if one.role == "cache"] == [
        ("k0", (3, 64 // 16, 32, 16)),
        ("v0", (3, 64, 32)),
    ]
    assert (plan.tokens.bytes, plan.logits.bytes) == (64, 28)
    assert plan.caches["k0"].bytes == plan.caches["v0"].bytes == 3 * 64 * 32 * 2
