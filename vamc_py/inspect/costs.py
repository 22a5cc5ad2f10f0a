"""What a call of a kernel moves and computes at least, from its operator and the types of its arguments and results.

Bytes are those that must cross the kernel's boundary once: arguments read, results written. Operations are
floating-point or integer multiplications and additions, a product that is added counts as two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tvm import relax

from vamc_py.dialect.attention import CACHE_BLOCK
from vamc_py.inspect.calls import Call
from vamc_py.inspect.loops import dimension, loop_operations
from vamc_py.pipeline.program import (
    ACTIVATION_ATTRIBUTE,
    PRODUCTS_ATTRIBUTE,
    PROLOGUE_ATTRIBUTE,
    WIDE_ROWS_ATTRIBUTE,
)
from vamc_py.weights.plan import numpy_dtype

Arithmetic = Literal["int8", "bf16", "fp32"]
_ATTENTIONS = ("qkv_attention", "cached_attention")


@dataclass(frozen=True)
class StepSize:
    """One step of one sequence in slot 0: ``tokens`` from position ``start`` on, the logits of ``rows`` of them."""

    tokens: int
    rows: int
    start: int
    context: int  # positions that the slot's caches have room for

    @property
    def symbols(self) -> dict[str, int]:
        """The symbolic dimensions of ``step`` by name, for one slot that is one page."""
        blocks = -(-self.context // CACHE_BLOCK)
        return {"n": self.tokens, "m": self.rows, "s": 1, "p": 1, "num_pages": 1, "blocks": blocks}

    @property
    def seen(self) -> int:
        """Positions that all tokens together attend to: a token sees those up to its own."""
        return self.tokens * self.start + self.tokens * (self.tokens + 1) // 2

    @property
    def longest(self) -> int:
        """Positions that the last token attends to."""
        return self.start + self.tokens if self.tokens else 0


@dataclass(frozen=True)
class Cost:
    """Of one call."""

    bytes: int  # read and written
    operations: int


def cost(call: Call, size: StepSize) -> Cost:
    """What a call costs at this size; see the rules below for the operators.

    Operators without a rule, TVM's own among them: bytes of all arguments and results; the operations that their loops
    do, or, where that depends on data, one for each element of the results.
    """
    return _RULES.get(call.operator, _by_loops)(call, size)


def tensor_bytes(kind: Any, size: StepSize) -> int:
    """Bytes of a tensor of this type."""
    return math.prod(tensor_shape(kind, size)) * numpy_dtype(str(kind.dtype)).itemsize


def tensor_shape(kind: Any, size: StepSize) -> tuple[int, ...]:
    """The shape of a tensor type; a KeyError for a symbolic dimension that ``step`` does not have."""
    return tuple(dimension(d, size.symbols) for d in kind.shape)


def _tensors(call: Call) -> list[Any]:
    """Types of the tensors that a call is given, each tensor once."""
    arguments = {(one.kind, one.name, one.part): one.type for one in call.arguments}
    return [kind for kind in arguments.values() if isinstance(kind, relax.TensorType)]


def _all_bytes(call: Call, size: StepSize) -> int:
    return sum(tensor_bytes(kind, size) for kind in (*_tensors(call), *call.results))


def _elements(call: Call, size: StepSize) -> int:
    return sum(math.prod(tensor_shape(kind, size)) for kind in call.results)


def arithmetic(call: Call, size: StepSize) -> Arithmetic:
    """In which numbers a linear layer or an attention multiplies at this size; fp32 for all other calls.

    Integer weights take float activations as two int8 digits, or as the kernel's activation says for many rows; float8
    ones become float32, or bfloat16 for many rows.
    """
    few = int(_attribute(call, WIDE_ROWS_ATTRIBUTE, 0))
    if call.operator in _ATTENTIONS:
        rounded = _attribute(call, PRODUCTS_ATTRIBUTE, "float32") == "bfloat16"
        return "bf16" if rounded and size.tokens > few else "fp32"
    if call.operator != "linear" or str(call.arguments[1].type.dtype) not in ("int8", "uint8"):
        return "fp32"
    many = tensor_shape(call.arguments[0].type, size)[0] > few
    if many and _attribute(call, ACTIVATION_ATTRIBUTE, "int16") == "bf16":
        return "bf16"
    weight = call.arguments[1].type
    packed_float8 = str(weight.dtype) == "uint8" and len(tensor_shape(weight, size)) == 3  # panels of columns
    return "fp32" if packed_float8 else "int8"


def _attribute(call: Call, name: str, default: str | int) -> Any:
    attributes = (call.function.attrs if call.function is not None else None) or {}
    return attributes.get(name, default)


def _linear(call: Call, size: StepSize) -> Cost:
    """y[n, N] = x[n, K] @ w[N, K].T: 2 * n * N * K operations, scale, bias, residual and what a prologue makes of x (of
    two halves in one row, with SwiGLU) not counted. The weight is read once, in its packed form; nothing is when there
    are no rows."""
    rows, inputs = tensor_shape(call.arguments[0].type, size)
    inputs //= 2 if _attribute(call, PROLOGUE_ATTRIBUTE, "none") == "swiglu" else 1
    outputs = tensor_shape(call.results[0], size)[1]
    return Cost(_all_bytes(call, size) if rows else 0, 2 * rows * outputs * inputs)


def _embedding(call: Call, size: StepSize) -> Cost:
    """Of the table, and of its scales, the rows of n ids are read; one multiplication an element where there are
    scales."""
    ids, table, *scale = (argument.type for argument in call.arguments)
    rows, width = tensor_shape(call.results[0], size)
    table_row = width * numpy_dtype(str(table.dtype)).itemsize
    scale_bytes = sum(numpy_dtype(str(kind.dtype)).itemsize for kind in scale)
    moved = tensor_bytes(ids, size) + tensor_bytes(call.results[0], size) + rows * (table_row + scale_bytes)
    return Cost(moved, rows * width * len(scale))


def _select_rows(call: Call, size: StepSize) -> Cost:
    """m rows are read and written; no operations."""
    rows = tensor_bytes(call.arguments[1].type, size)
    return Cost(rows + 2 * tensor_bytes(call.results[0], size), 0)


def _attention(call: Call, size: StepSize) -> Cost:
    """A product of length d with each key that a token sees and one with each value, for each of H heads:
    4 * H * d * (positions seen by all tokens); norms, rotation and softmax are not counted. Of the caches the new
    tokens' keys and values are written, and those of the longest context read once."""
    *others, keys, values = (argument.type for argument in call.arguments)
    out = call.results[0]
    _, kv_heads, _, head_dim, _ = tensor_shape(keys, size)
    width = math.prod(tensor_shape(out, size)[1:])  # heads * head_dim
    position = kv_heads * head_dim * sum(numpy_dtype(str(kind.dtype)).itemsize for kind in (keys, values))
    moved = sum(tensor_bytes(kind, size) for kind in (*others, out)) + position * (size.tokens + size.longest)
    return Cost(moved, 4 * width * size.seen)


def _elementwise(operations: int) -> Callable[[Call, StepSize], Cost]:
    """All arguments and results once, and so many operations an element of the results."""

    def rule(call: Call, size: StepSize) -> Cost:
        return Cost(_all_bytes(call, size), operations * _elements(call, size))

    return rule


def _by_loops(call: Call, size: StepSize) -> Cost:
    shapes: Sequence[Sequence[int]] = [
        tensor_shape(kind, size)
        for kind in (*(argument.type for argument in call.arguments), *call.results)
        if isinstance(kind, relax.TensorType)
    ]
    counted = loop_operations(call.function, shapes) if call.function is not None else None
    return Cost(_all_bytes(call, size), _elements(call, size) if counted is None else counted)


_RULES: dict[str, Callable[[Call, StepSize], Cost]] = {
    "linear": _linear,
    "embedding": _embedding,
    "select_rows": _select_rows,
    "qkv_attention": _attention,
    "cached_attention": _attention,
    "cached_attention_reference": _attention,
    "rms_norm": _elementwise(4),  # square, sum, times the factor, times the weight; the factor itself is one a row
    "swiglu": _elementwise(5),  # negation, exp, sum, quotient, product
    "rotary": _elementwise(3),  # two products and their sum
    "rotary_angles": _elementwise(1),  # cosine or sine; the angles are products of half as many elements, made once
    "add": _elementwise(1),
}
