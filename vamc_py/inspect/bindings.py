"""A Relax function as statements that can be read on one line each, and compared without regard to names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import ir, relax, tirx

_SHORT_TYPES = (("bfloat", "bf"), ("float", "f"), ("uint", "u"), ("int", "i"))
_OPEN_END = 2**63 - 1  # how torch writes a slice without an end
_INTEGER = re.compile(r"T\.int\d+\((-?\d+)\)")  # how TVM writes the numbers in a symbolic size
_WORD = re.compile(r"[A-Za-z_]\w*")

# Of parameters that are tuples, the names of the fields.
Members = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Statement:
    """A binding, or one result of the function: ``pieces`` are the text around the ``values`` that it reads.

    ``values`` are indices into ``View.names``. ``pieces`` is one longer, and together with ``type`` it says everything
    about the binding but names: two statements with equal ``key`` that read the same values are the same.
    """

    name: str
    operator: str  # "vamc.linear", "kernel linear_int8_3072x1024", "tuple", "item", "constant", "result"
    pieces: tuple[str, ...]
    values: tuple[int, ...]
    type: str  # "f32[n, 1024]"

    @property
    def key(self) -> tuple[tuple[str, ...], str]:
        """What must be equal for two statements to do the same to what they read."""
        return self.pieces, self.type


class View:
    """The parameters, bindings and results of ``function``, in order.

    The values are numbered: first the parameters, then the statements. A binding that only renames another is left
    out, and the fields of a returned tuple are results of their own. ``symbols`` and ``kernels`` rename symbolic
    dimensions and kernels, so that functions that differ in such names alone give equal statements. A parameter that
    ``members`` names is shown as if the function took the fields of that tuple singly.
    """

    def __init__(
        self,
        function: Any,
        *,
        symbols: Mapping[str, str] | None = None,
        kernels: Mapping[str, str] | None = None,
        members: Members | None = None,
    ) -> None:
        self.function = function
        self.members = dict(members or {})
        self._symbols, self._kernels = dict(symbols or {}), dict(kernels or {})
        self._numbers: dict[Any, int] = {}
        self.names: list[str] = []
        self.statements: list[Statement] = []
        self.parameters: list[tuple[str, str]] = []  # (name, type)
        self._fields: dict[Any, int] = {}  # by parameter that is taken field by field: the number of the first one
        for parameter in function.params:
            self._add_parameter(parameter)
        self._read_body()
        self.users: list[list[int]] = [[] for _ in self.names]  # by value: the values that read it
        for number, statement in self.numbered():
            for value in dict.fromkeys(statement.values):
                self.users[value].append(number)

    def numbered(self) -> Iterable[tuple[int, Statement]]:
        """Every statement with its number."""
        return enumerate(self.statements, len(self.parameters))

    def statement(self, value: int) -> Statement:
        """The statement that makes a value; IndexError for a parameter."""
        if value < len(self.parameters):
            raise IndexError(f"{self.names[value]} is a parameter")
        return self.statements[value - len(self.parameters)]

    def number(self, var: Any) -> int | None:
        """The number of a variable's value; None for the tuple of all results, which is no statement."""
        return self._numbers.get(var)

    def line(self, statement: Statement) -> str:
        """``lv12: f32[n, 1024] = vamc.linear(lv3, model.layers.0.mlp.up_proj.weight, bias=False, residual=False)``."""
        return f"{statement.name}: {statement.type} = {self.fill(statement, [self.names[v] for v in statement.values])}"

    @staticmethod
    def fill(statement: Statement, names: Sequence[str]) -> str:
        """The right side of the statement with these names for the values that it reads."""
        first, *rest = statement.pieces
        return first + "".join(name + piece for name, piece in zip(names, rest, strict=True))

    def type_text(self, kind: Any) -> str:
        """``f32[n, 1024]``; a tuple as ``(f32[n, 128], f32[n, 128])``."""
        return self._renamed(type_text(kind))

    def _read_body(self) -> None:
        body = self.function.body
        blocks = body.blocks if isinstance(body, relax.SeqExpr) else []
        bindings = [binding for block in blocks for binding in block.bindings]
        last = body.body if isinstance(body, relax.SeqExpr) else body
        fields = _returned_fields(bindings, last)
        for binding in bindings:
            value = getattr(binding, "value", None)
            known = None if isinstance(binding, relax.MatchCast) else self._known(value)
            if known is not None:
                self._numbers[binding.var] = known
            elif fields is None or not binding.var.same_as(last):
                self._add(str(binding.var.name), self._binding_tokens(binding), binding.var.ty, binding.var)
        results = [last] if fields is None else fields
        for index, result in enumerate(results):
            name = "result" if fields is None else f"result {index}"
            self._add(name, ("result", self._expression(result)), result.ty)

    def _add_parameter(self, parameter: Any) -> None:
        name = str(parameter.name)
        fields = [(name, parameter.ty)]
        if name in self.members:
            self._fields[parameter] = len(self.names)
            fields = list(zip(self.members[name], parameter.ty.fields, strict=True))
        else:
            self._numbers[parameter] = len(self.names)
        for field, kind in fields:
            self.names.append(field)
            self.parameters.append((field, self.type_text(kind)))

    def _known(self, expression: Any) -> int | None:
        """The number of a variable, or of a field of a parameter that is taken field by field."""
        if isinstance(expression, relax.TupleGetItem) and expression.tuple_value in self._fields:
            return self._fields[expression.tuple_value] + int(expression.index)
        return self._numbers.get(expression) if isinstance(expression, relax.Var) else None

    def _binding_tokens(self, binding: Any) -> tuple[str, list[str | int]]:
        value = binding.value
        if not isinstance(binding, relax.MatchCast):
            return _operator(value, self._kernel), self._expression(value)
        return "match_cast", ["match_cast(", *self._expression(value), ")"]

    def _add(self, name: str, read: tuple[str, list[str | int]], kind: Any, var: Any = None) -> None:
        operator, tokens = read
        pieces, values = [""], []
        for token in tokens:
            if isinstance(token, int):
                values.append(token)
                pieces.append("")
            else:
                pieces[-1] += token
        if var is not None:
            self._numbers[var] = len(self.names)
        self.names.append(name)
        self.statements.append(Statement(name, operator, tuple(pieces), tuple(values), self.type_text(kind)))

    def _expression(self, expression: Any) -> list[str | int]:
        """The text of an expression, with the numbers of the values that it reads."""
        number = self._known(expression)
        if number is not None:
            return [number]
        if isinstance(expression, relax.Var):
            return [self._renamed(str(expression.name))]
        if isinstance(expression, relax.Call):
            return self._call(expression)
        if isinstance(expression, relax.Tuple):
            closing = ",)" if len(expression.fields) == 1 else ")"
            return ["(", *self._listed(expression.fields), closing]
        if isinstance(expression, relax.TupleGetItem):
            return [*self._expression(expression.tuple_value), f"[{int(expression.index)}]"]
        if isinstance(expression, ir.GenericConst):
            return [constant_text(expression)]
        if isinstance(expression, relax.ShapeExpr):
            return [self._renamed(dimensions_text(expression.values))]
        if isinstance(expression, ir.GlobalVar):
            return [self._kernel(str(expression.name_hint))]
        return [self._renamed(_number(expression))]

    def _call(self, call: Any) -> list[str | int]:
        arguments = list(call.args)
        operator = _operator(call, self._kernel)
        if operator.startswith("kernel "):
            arguments = [*arguments[1].fields, *arguments[2:]]
        options = [f"{key}={value}" for key, value in _attributes(call.attrs)]
        if call.ty_args and not operator.startswith("kernel "):  # a kernel's are the type of its result
            options.append(f"types=({', '.join(self.type_text(kind) for kind in call.ty_args)})")
        tokens: list[str | int] = [operator] if operator else self._expression(call.op)
        tokens += ["(", *self._listed(arguments)]
        if options:
            tokens.append((", " if arguments else "") + ", ".join(options))
        return [*tokens, ")"]

    def _listed(self, expressions: Iterable[Any]) -> list[str | int]:
        tokens: list[str | int] = []
        for expression in expressions:
            tokens += [", "] if tokens else []
            tokens += self._expression(expression)
        return tokens

    def _kernel(self, name: str) -> str:
        return self._kernels.get(name, name)

    def _renamed(self, text: str) -> str:
        if not self._symbols:
            return text
        return _WORD.sub(lambda word: self._symbols.get(word[0], word[0]), text)


def _returned_fields(bindings: Sequence[Any], last: Any) -> list[Any] | None:
    """The fields of the tuple that the function returns, if nothing else reads that tuple; else None."""
    value = last
    if isinstance(last, relax.Var):
        if not bindings or not bindings[-1].var.same_as(last):
            return None
        value = bindings[-1].value
    return list(value.fields) if isinstance(value, relax.Tuple) else None


def _operator(value: Any, kernel: Any) -> str:
    """What a value is made by; an empty string for the call of a local function."""
    if not isinstance(value, relax.Call):
        return {relax.Tuple: "tuple", relax.TupleGetItem: "item", ir.GenericConst: "constant"}.get(type(value), "value")
    if isinstance(value.op, ir.GlobalVar):
        return f"function {kernel(str(value.op.name_hint))}"
    name = str(getattr(value.op, "name", "") or getattr(value.op, "global_symbol", ""))
    if name in ("relax.call_tir", "relax.call_tir_inplace") and isinstance(value.args[0], ir.GlobalVar):
        return f"kernel {kernel(str(value.args[0].name_hint))}"
    if isinstance(value.op, ir.Op):
        return name.removeprefix("relax.")
    return f"packed {name}" if isinstance(value.op, relax.ExternFunc) else ""


def _attributes(attributes: Any) -> Iterable[tuple[str, str]]:
    """The attributes of a call that are set, with their values as text."""
    if attributes is None:
        return
    if isinstance(attributes, ir.DictAttrs):
        items = [(str(key), attributes[key]) for key in sorted(attributes.keys())]
    else:
        items = [
            (field.name, getattr(attributes, field.name)) for field in type(attributes).__tvm_ffi_type_info__.fields
        ]
    for key, value in items:
        if value is not None:
            yield key, _number(value)


def _number(value: Any) -> str:
    """A number, a text or a list of them, so that no two different values look the same."""
    if isinstance(value, tirx.IntImm):
        value = int(value.value)
    elif isinstance(value, tirx.FloatImm):
        value = float(value.value)
    if isinstance(value, bool | str) or value is None:
        return str(value)
    if isinstance(value, int):
        return "end" if value == _OPEN_END else str(value)
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, Sequence):
        return f"[{', '.join(_number(part) for part in value)}]"
    return _INTEGER.sub(r"\1", str(value))


def _float_text(value: float) -> str:
    """The shortest text that means this very number: as float32 where it is one (1e-06), else as float64."""
    single = np.float32(value) if abs(value) < 3e38 else None
    return str(single) if single is not None and float(single) == value else repr(value)


def constant_text(constant: Any) -> str:
    """A constant: ``f32(1e-06)`` when it is one number, else its type and the start of its hash."""
    values = np.asarray(constant.value.numpy())
    kind = short_dtype(str(constant.ty.dtype))
    if values.ndim == 0:
        return f"{kind}({_number(values.item())})"
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:8]
    shown = f" of {_number(values.reshape(-1)[0].item())}" if values.size == 1 else ""
    return f"constant {kind}{dimensions_text(values.shape)}{shown} #{digest}"


def type_text(kind: Any) -> str:
    """``f32[n, 1024]``; a tuple as ``(f32[n, 128], f32[n, 128])``; what is no tensor as TVM writes it."""
    if isinstance(kind, relax.TensorType):
        dtype = short_dtype(str(kind.dtype or "any"))
        if kind.shape is None:
            return f"{dtype}[{'?' if int(kind.ndim) < 0 else ', '.join('?' * int(kind.ndim))}]"
        if isinstance(kind.shape, relax.ShapeExpr):
            return dtype + dimensions_text(kind.shape.values)
        return f"{dtype}[{kind.shape}]"
    if isinstance(kind, relax.TupleType):
        return f"({', '.join(type_text(field) for field in kind.fields)})"
    return str(kind)


def dimensions_text(dimensions: Iterable[Any]) -> str:
    """``[n, 1024]``."""
    return f"[{', '.join(_number(dimension) for dimension in dimensions)}]"


def short_dtype(dtype: str) -> str:
    """``f32`` for ``float32``, ``u8`` for ``uint8``; other names as they are."""
    for long, short in _SHORT_TYPES:
        if dtype.startswith(long) and dtype.removeprefix(long)[:1].isdigit():
            return short + dtype.removeprefix(long)
    return dtype
