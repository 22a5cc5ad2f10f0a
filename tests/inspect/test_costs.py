"""Costs of kernel calls against counts of what plain loops touch and compute."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax, tirx

from vamc_py.dialect.attention import cached_attention_reference
from vamc_py.inspect.calls import Argument, Call
from vamc_py.inspect.costs import StepSize, arithmetic, cost
from vamc_py.inspect.loops import dimension, loop_operations
from vamc_py.pipeline.program import (
    ACTIVATION_ATTRIBUTE,
    PRODUCTS_ATTRIBUTE,
    PROLOGUE_ATTRIBUTE,
    WIDE_ROWS_ATTRIBUTE,
)

N, M = tirx.Var("n", "int64"), tirx.Var("m", "int64")
SMALL = st.integers(1, 5)


@dataclass
class Count:
    """Counts what loops do: elements touched, each once, and operations."""

    operations: int = 0
    touched: dict[str, set[Any]] = field(default_factory=dict)

    def touch(self, tensor: str, *index: int) -> None:
        self.touched.setdefault(tensor, set()).add(index)

    def bytes(self, **items: int) -> int:
        """``items``: bytes of an element by tensor."""
        assert set(items) == set(self.touched)
        return sum(items[name] * len(indices) for name, indices in self.touched.items())


def tensor(*shape: Any, dtype: str = "float32") -> Any:
    return relax.TensorType(list(shape), dtype)


def call(operator: str, arguments: list[Any], *results: Any, function: Any = None) -> Call:
    given = tuple(Argument("input", f"argument{index}", kind) for index, kind in enumerate(arguments))
    return Call(None, "call", operator, operator, True, function, given, results)


def kernel(*said: str | int) -> Any:
    """A PrimFunc that does nothing, with these attributes: name, value, name, value, …"""
    function = tirx.PrimFunc([], tirx.Evaluate(0))
    for name, value in zip(said[::2], said[1::2], strict=True):
        function = function.with_attr(name, value)
    return function


def step(tokens: int, start: int = 0, rows: int = 1) -> StepSize:
    return StepSize(tokens=tokens, rows=rows, start=start, context=64)


@pytest.mark.parametrize("prologue", ["none", "rms_norm", "swiglu"])
@given(n=SMALL, outputs=st.integers(1, 70), inputs=st.integers(1, 9))
def test_linear(prologue: str, n: int, outputs: int, inputs: int) -> None:
    count = Count()
    halves = 2 if prologue == "swiglu" else 1
    for i, o, k in itertools.product(range(n), range(outputs), range(inputs)):
        for half in range(halves):
            count.touch("x", i, half, k)
        count.touch("y", i, o)
        count.touch("scale", o)
        count.operations += 2
    panels, quads = -(-outputs // 64), -(-inputs // 4)
    for index in itertools.product(range(panels), range(quads), range(4), range(16), range(4)):
        count.touch("weight", *index)
    weight = tensor(panels, quads, 4, 16, 4, dtype="uint8")
    norm = [tensor(inputs)] if prologue == "rms_norm" else []
    arguments = [tensor(N, halves * inputs), weight, tensor(outputs), *norm]
    made = call("linear", arguments, tensor(N, outputs), function=kernel(PROLOGUE_ATTRIBUTE, prologue))
    got = cost(made, step(n))
    assert got.operations == count.operations
    assert got.bytes == count.bytes(x=4, weight=1, scale=4, y=4) + 4 * inputs * len(norm)


@pytest.mark.parametrize(
    ("weight", "said", "tokens", "expected"),
    [
        ("float16", {}, 512, "fp32"),
        ("uint8", {}, 512, "int8"),
        ("uint8", {ACTIVATION_ATTRIBUTE: "int8_g64", WIDE_ROWS_ATTRIBUTE: 8}, 512, "int8"),
        ("uint8", {ACTIVATION_ATTRIBUTE: "bf16", WIDE_ROWS_ATTRIBUTE: 24}, 25, "bf16"),
        ("uint8", {ACTIVATION_ATTRIBUTE: "bf16", WIDE_ROWS_ATTRIBUTE: 24}, 24, "int8"),
    ],
)
def test_arithmetic_of_a_linear_layer(weight: str, said: dict[str, str | int], tokens: int, expected: str) -> None:
    packed = tensor(1, 8, 4, 16, 4, dtype=weight)
    made = call("linear", [tensor(N, 32), packed], tensor(N, 64), function=kernel(*itertools.chain(*said.items())))
    assert arithmetic(made, step(tokens)) == expected


def test_arithmetic_of_other_calls() -> None:
    function = kernel(PRODUCTS_ATTRIBUTE, "bfloat16", WIDE_ROWS_ATTRIBUTE, 8)
    assert arithmetic(call("qkv_attention", [], tensor(N, 64), function=function), step(9)) == "bf16"
    assert arithmetic(call("qkv_attention", [], tensor(N, 64), function=function), step(8)) == "fp32"
    assert arithmetic(call("cached_attention", [], tensor(N, 64)), step(5)) == "fp32"
    assert arithmetic(call("rms_norm", [tensor(N, 64)], tensor(N, 64)), step(5)) == "fp32"


def test_linear_without_rows_reads_nothing() -> None:
    made = call("linear", [tensor(M, 8), tensor(1, 8, 64)], tensor(M, 64))
    assert cost(made, step(3, rows=0)) == cost(made, step(0, rows=0))
    assert (cost(made, step(3, rows=0)).bytes, cost(made, step(3, rows=0)).operations) == (0, 0)


@pytest.mark.parametrize(("dtype", "item"), [("uint8", 1), ("float16", 2), ("uint16", 2)])
@given(n=SMALL, width=st.integers(1, 9))
def test_embedding_reads_the_rows_it_needs(dtype: str, item: int, n: int, width: int) -> None:
    count = Count()
    ids = range(7, 7 + n)  # all different
    for i, token in enumerate(ids):
        count.touch("ids", i)
        for column in range(width):
            count.touch("table", token, column)
            count.touch("y", i, column)
            count.operations += 1 if dtype == "uint8" else 0
        if dtype == "uint8":
            count.touch("scale", token)
    scale = [tensor(100)] if dtype == "uint8" else []
    made = call("embedding", [tensor(N, dtype="int32"), tensor(2, width, 64, dtype=dtype), *scale], tensor(N, width))
    got = cost(made, step(n))
    assert got.operations == count.operations
    assert got.bytes == count.bytes(ids=4, table=item, y=4, **({"scale": 4} if scale else {}))


@pytest.mark.parametrize("fused", [True, False])
@given(n=SMALL, start=st.integers(0, 6), kv_heads=st.integers(1, 2), group=st.integers(1, 3), dim=st.sampled_from([16]))
def test_attention(fused: bool, n: int, start: int, kv_heads: int, group: int, dim: int) -> None:
    heads, count = kv_heads * group, Count()
    new = Count()
    for i, position in enumerate(range(start, start + n)):
        for h, d in itertools.product(range(kv_heads), range(dim)):
            new.touch("cache", position, h, d)
        for h, t, d in itertools.product(range(heads), range(position + 1), range(dim)):
            count.touch("cache", t, h // group, d)
            count.touch("y", i, h, d)
            count.operations += 4  # times a key and times a value, both added
    cache = 2 * 2 * (len(new.touched["cache"]) + len(count.touched["cache"]))  # keys and values, float16
    others = 4 * (n * 2 + 1)  # positions, slots, the one page
    others += 4 * n * (heads + 2 * kv_heads) * dim + 4 * len(count.touched["y"])
    blocks, pages = tirx.Var("blocks", "int64"), tirx.Var("num_pages", "int64")
    caches = [
        tensor(pages, kv_heads, blocks, dim, 16, dtype="float16"),
        tensor(pages, kv_heads, blocks, 16, dim, dtype="float16"),
    ]
    integers = [tensor(N, dtype="int32"), tensor(N, dtype="int32"), tensor(1, 1, dtype="int32")]
    if fused:
        angles = [tensor(N, dim), tensor(N, dim)]
        made = call(
            "qkv_attention",
            [tensor(N, (heads + 2 * kv_heads) * dim), *angles, *integers, *caches],
            tensor(N, heads * dim),
        )
        others += 2 * 4 * n * dim
    else:
        projections = [tensor(N, heads, dim), tensor(N, kv_heads, dim), tensor(N, kv_heads, dim)]
        made = call("cached_attention", [*projections, *integers, *caches], tensor(N, heads, dim))
    got = cost(made, step(n, start))
    assert got.operations == count.operations
    assert got.bytes == others + cache


@given(SMALL, st.integers(0, 3), st.integers(1, 9))
def test_select_rows_reads_the_rows_it_needs(n: int, m: int, width: int) -> None:
    made = call("select_rows", [tensor(N, width), tensor(M, dtype="int32")], tensor(M, width))
    got = cost(made, step(n, rows=m))
    assert (got.bytes, got.operations) == (4 * m + 2 * 4 * m * width, 0)


def test_elementwise() -> None:
    norm = cost(call("rms_norm", [tensor(N, 8), tensor(8)], tensor(N, 8)), step(3))
    assert (norm.bytes, norm.operations) == (4 * (24 + 8 + 24), 4 * 24)
    merged = cost(call("swiglu", [tensor(N, 16)], tensor(N, 8)), step(3))
    assert (merged.bytes, merged.operations) == (4 * (48 + 24), 5 * 24)


def test_what_a_call_reads_twice_counts_once() -> None:
    twice = Argument("node", "x", tensor(N, 8))
    square = Call(None, "y", "multiply", "multiply", False, None, (twice, twice), (tensor(N, 8),))
    assert cost(square, step(2)).bytes == 2 * 4 * 2 * 8


def test_an_operator_that_nobody_knows_costs_its_tensors() -> None:
    unknown = cost(call("somebodys", [tensor(N, 8, dtype="float16"), tensor(3, dtype="int64")], tensor(N, 2)), step(5))
    assert (unknown.bytes, unknown.operations) == (2 * 40 + 8 * 3 + 4 * 10, 10)


def test_dimensions_are_computed() -> None:
    assert dimension((N * 4 + 15) // 16, {"n": 10}) == 3
    with pytest.raises(KeyError):
        dimension(M + 1, {"n": 10})


def legalized(operator: Callable[..., Any], *shapes: tuple[Any, ...]) -> Any:
    """The loops that TVM writes for an operator on float32 tensors."""
    builder = relax.BlockBuilder()
    arguments = [relax.Var(f"x{index}", tensor(*shape)) for index, shape in enumerate(shapes)]
    with builder.function("main", arguments):
        builder.emit_func_output(builder.emit(operator(*arguments)))
    module = relax.transform.LegalizeOps()(builder.get())
    [function] = [one for _, one in module.functions_items() if isinstance(one, tirx.PrimFunc)]
    return function


@given(SMALL, st.integers(1, 9), st.integers(1, 9))
def test_loops_of_a_product(n: int, outputs: int, inputs: int) -> None:
    function = legalized(relax.op.matmul, (N, inputs), (inputs, outputs))
    count = sum(2 for _ in itertools.product(range(n), range(outputs), range(inputs)))
    assert loop_operations(function, [(n, inputs), (inputs, outputs), (n, outputs)]) == count
    made = call("matmul", [tensor(N, inputs), tensor(inputs, outputs)], tensor(N, outputs), function=function)
    got = cost(made, step(n))
    assert (got.operations, got.bytes) == (count, 4 * (n * inputs + inputs * outputs + n * outputs))


def test_loops_of_other_operators() -> None:
    softmax = legalized(relax.op.nn.softmax, (N, 5))
    assert loop_operations(softmax, [(3, 5), (3, 5)]) == 5 * 15  # maximum, difference, exp, sum, quotient
    joined = legalized(lambda x, y: relax.op.concat([x, y], axis=1), (N, 5), (N, 2))
    assert loop_operations(joined, [(3, 5), (3, 2), (3, 7)]) == 0
    cast = legalized(lambda x: relax.op.astype(x, "float16"), (N, 5))
    assert loop_operations(cast, [(3, 5), (3, 5)]) == 0


def test_loops_whose_length_depends_on_data() -> None:
    reference = cached_attention_reference(2, 1, 16, "float16", 0.25)
    shapes = [(3, 2, 16), (3, 1, 16), (3, 1, 16), (3,), (3,), (1, 1), (1, 1, 4, 16, 16), (1, 1, 4, 16, 16), (3, 2, 16)]
    assert loop_operations(reference, shapes) is None


@pytest.mark.parametrize(("tokens", "expected"), [(24, "fp32"), (25, "bf16")])
def test_float8_weights_are_floats(tokens: int, expected: str) -> None:
    said = kernel(ACTIVATION_ATTRIBUTE, "bf16", WIDE_ROWS_ATTRIBUTE, 24)
    made = call("linear", [tensor(N, 32), tensor(1, 32, 64, dtype="uint8")], tensor(N, 64), function=said)
    assert arithmetic(made, step(tokens)) == expected
