"""A program as TVMScript that a person can read: every binding with its shape, the rest shortened.

Weights and caches that the layers repeat are one line each, constants are named by their shape and first values, and
kernels by their signature. It is valid Python, but TVM cannot parse it back; the exact program is in the JSON.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tvm
from tvm import relax, tirx

from vamc_py.inspect.kernel_source import kernel_names, tir_text
from vamc_py.inspect.layers import tuple_fields
from vamc_py.pipeline.graph import bindings
from vamc_py.pipeline.program import OPERATOR_ATTRIBUTE, Program, layout

_NUMBER = re.compile(r"(?<=[._\[])\d+(?=[._\]]|$)")  # the layer in model.layers.3.mlp.up_proj.weight, k_cache_3
_CONSTANT = re.compile(r'metadata\["ir\.GenericConst"\]\[(\d+)\]')
_FROM_TUPLE = re.compile(r"\s*\w+:.* = (\w+)\[(\d+)\]")
_INTEGER = re.compile(r"T\.int\d+\((\d+)\)")
_REPEATED = re.compile(r"(R\.Tensor\(\([^()]*\)[^()]*\))(?:, \1){3,}")
_VALUES_SHOWN = 3


def small_script(program: Program, only_function: str | None = None) -> str:
    """The text of all Relax functions and the signatures of the kernels; or one function, which may be a kernel.

    A function that the program does not have gives a comment that says so: ``step`` is ``main`` in the first stages.
    """
    module = program.module
    graphs = {gv.name_hint: f for gv, f in module.functions_items() if isinstance(f, relax.Function)}
    kernels = kernel_names(module)
    if only_function is not None:
        if only_function in kernels:
            return tir_text(module, only_function)
        if only_function not in graphs:
            return f"# There is no function {only_function} here. The program has {', '.join([*graphs, *kernels])}.\n"
        graphs = {only_function: graphs[only_function]}
    lines = [*_summary(graphs, kernels), *_notes(program)]
    lines += [] if only_function else _kernels(module, kernels, graphs.values())
    for name, function in sorted(graphs.items()):
        lines += ["", *_Text(name, function, program).lines()]
    return "\n".join(lines) + "\n"


def type_text(kind: Any) -> str:
    """``float32[n, 1024]``; a tuple in brackets; other types as TVM prints them."""
    if isinstance(kind, relax.TensorType) and kind.shape is not None:
        return f"{kind.dtype}[{', '.join(_dimension(d) for d in kind.shape)}]"
    if isinstance(kind, relax.TupleType):
        return f"({', '.join(type_text(field) for field in kind.fields)})"
    return str(kind)


def _dimension(value: Any) -> str:
    """A size without the constructors of its integers: TVM writes ``T.int64(64)``."""
    return _INTEGER.sub(r"\1", str(value))


def grouped(entries: Sequence[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """(name, type) of many as (pattern, type, how many): names that differ in their first number alone are one.

    ``model.layers.{0..27}.mlp.down_proj.weight``; the groups stand in the order of their first names.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, kind in entries:
        groups.setdefault((_NUMBER.sub("{}", name, count=1), kind), []).append(name)
    return [(_pattern(names), kind, len(names)) for (_, kind), names in groups.items()]


def _pattern(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    numbers = [int(found[0]) for name in names if (found := _NUMBER.search(name))]
    return _NUMBER.sub(f"{{{_numbers(numbers)}}}", names[0], count=1)


def _numbers(numbers: list[int]) -> str:
    """``0..27``, ``0, 2..54`` for every second one, else all of them."""
    steps = {after - before for before, after in itertools.pairwise(numbers)}
    if len(numbers) < 3 or len(steps) > 1 or steps <= {0}:
        return ", ".join(str(number) for number in numbers)
    return f"{numbers[0]}..{numbers[-1]}" if steps == {1} else f"{numbers[0]}, {numbers[1]}..{numbers[-1]}"


def _summary(graphs: Mapping[str, Any], kernels: Sequence[str]) -> Iterator[str]:
    shown = [f"{name} with {_counted(_bindings(graph), 'binding')}" for name, graph in sorted(graphs.items())]
    yield f"# {', '.join(shown) or 'no function'}; {_counted(len(kernels), 'kernel')}."
    yield "# Shortened TVMScript, for people and not for TVM's parser."


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def _bindings(function: Any) -> int:
    return sum(1 for _ in bindings(function))


def _notes(program: Program) -> Iterator[str]:
    if program.notes:
        yield "# Notes:"
        yield from (f"#   {note}" for note in program.notes)


def _kernels(module: Any, names: Sequence[str], graphs: Any) -> Iterator[str]:
    if not names:
        return
    calls = Counter(name for graph in graphs for name in _called_kernels(graph))
    yield "# Kernels, with the operator that each serves and its calls:"
    for name in names:
        kernel = module[name]
        attributes = kernel.attrs or {}
        serves = f"{attributes[OPERATOR_ATTRIBUTE]}, " if OPERATOR_ATTRIBUTE in attributes else ""
        yield f"#   {name}({_signature(kernel)})  [{serves}{calls[name]}]"


def _called_kernels(graph: Any) -> Iterator[str]:
    for _, value in bindings(graph):
        if isinstance(value, relax.Call):
            yield from (a.name_hint for a in (value.op, *value.args) if isinstance(a, tvm.ir.GlobalVar))


def _signature(kernel: Any) -> str:
    """Parameters with their types; dimensions that are different variables of one name are told apart."""
    names: dict[Any, str] = {}
    taken: Counter[str] = Counter()

    def dimension(value: Any) -> str:
        if not isinstance(value, tirx.Var):
            return _dimension(value)
        if value not in names:
            stem = value.name or "v"
            names[value] = f"{stem}_{taken[stem]}" if taken[stem] else stem
            taken[stem] += 1
        return names[value]

    def one(parameter: Any) -> str:
        kind = parameter.ty
        if not hasattr(kind, "shape"):
            return f"{parameter.name}: {kind}"
        return f"{parameter.name}: {kind.dtype}[{', '.join(dimension(d) for d in kind.shape)}]"

    return ", ".join(one(parameter) for parameter in kernel.params)


class _Text:
    """One Relax function."""

    def __init__(self, name: str, function: Any, program: Program) -> None:
        self.name = name
        self.function = function
        self.members = _tuple_members(function, program)

    def lines(self) -> Iterator[str]:
        constants, text = _without_metadata(str(self.function.script(show_meta=True)))
        lines = text[text.index("@R.function") :].splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("def "))
        sizes = re.findall(r"^(\w+) = TypeVar\(", text, re.MULTILINE)
        if sizes:
            yield f"# Sizes known at run time: {', '.join(sizes)}"
        yield from (f"# constant_{i}: {_constant_text(constant)}" for i, constant in enumerate(constants))
        yield from lines[:start]
        yield f"def {self.name}("
        yield from (f"    {line}" for line in self._parameters())
        yield ")" + _result(lines[start])
        yield from self._body(lines[start + 1 :])

    def _parameters(self) -> Iterator[str]:
        """Inputs one a line, what layers repeat in groups; the members of tuples below the tuple."""
        inputs, caches, weights = layout(self.function)
        for part, title in ((inputs, "inputs"), (caches, "caches"), (weights, "weights")):
            plain = [(p.name, type_text(p.ty)) for p in part if p.name not in self.members]
            if plain and part is not inputs:
                dots = "; in the body . is _" if any("." in name for name, _ in plain) else ""
                yield f"# {len(plain)} {title}{dots}:"
            for name, kind, count in grouped(plain):
                in_signature = part is inputs and count == 1
                yield f"{name}: {kind}," if in_signature else f"#   {name}: {kind}"
            for parameter in part:
                if parameter.name in self.members:
                    yield from self._tuple(parameter)

    def _tuple(self, parameter: Any) -> Iterator[str]:
        fields = parameter.ty.fields
        yield f"{parameter.name}: R.Tuple,  # {len(fields)} members:"
        entries = zip(self.members[parameter.name], fields, strict=True)
        yield from (f"#   {name}: {kind}" for name, kind, _ in grouped([(n, type_text(f)) for n, f in entries]))

    def _body(self, lines: Sequence[str]) -> Iterator[str]:
        """The bindings, with a mark where the next layer's weights come into use and names for members of tuples."""
        layers = self._layers()
        reached = -1
        for line in lines:
            line = _shortened(_CONSTANT.sub(r"constant_\1", line))
            member = self._member(line)
            words = [*re.findall(r"\w+", line), member]
            layer = max((layers[word] for word in words if word in layers), default=-1)
            if layer > reached:
                reached = layer
                yield f"{line[: len(line) - len(line.lstrip())]}# layer {layer}"
            yield f"{line}  # {member}" if member else line

    def _member(self, line: str) -> str:
        """Name of the member of a tuple that the binding takes; "" where that says no more than the binding."""
        found = _FROM_TUPLE.fullmatch(line)
        if not found or found[1] not in self.members:
            return ""
        name = self.members[found[1]][int(found[2])]
        return "" if name == f"{found[1]}[{found[2]}]" else name

    def _layers(self) -> dict[str, int]:
        """The layer of each weight, by its name as the body has it."""
        names = [weight.name for weight in layout(self.function)[2]]
        names += [name for members in self.members.values() for name in members if "[" not in name]
        found = {name: _NUMBER.search(name) for name in names}
        layers = {name: int(match[0]) for name, match in found.items() if match}
        return layers | {re.sub(r"\W", "_", name): layer for name, layer in layers.items()}


def _tuple_members(function: Any, program: Program) -> dict[str, list[str]]:
    """Names of what the tuples hold that bundle-parameters makes: of the weights, the last one, those of the plan."""
    members = tuple_fields(function)
    if members:
        last = next(reversed(members))
        if len(members[last]) == len(program.plan.recipes):
            members[last] = list(program.plan)
    return members


def _without_metadata(text: str) -> tuple[list[Any], str]:
    """The constants that TVM prints as ``metadata["ir.GenericConst"][0]``, and the script without them."""
    opening, closing = "metadata = tvm.ir.load_json(", ")\n"
    if not text.startswith(opening):
        return [], text
    end = text.index(f'"""{closing}') + 3
    metadata = tvm.ir.load_json(ast.literal_eval(text[len(opening) : end]))
    return list(metadata.get("ir.GenericConst", [])), text[end + len(closing) :]


def _constant_text(constant: Any) -> str:
    """Type and first values: ``float32[64]: 1, 0.806, 0.649, …``."""
    values = constant.value.numpy().reshape(-1)
    shown = ", ".join(f"{float(value):.4g}" for value in values[:_VALUES_SHOWN])
    return f"{type_text(constant.ty)}: {shown}{', …' if len(values) > _VALUES_SHOWN else ''}"


def _result(signature: str) -> str:
    """`` -> R.Tensor(...):`` of a function's line, or the colon alone."""
    position = signature.rfind(") -> ")
    return _shortened(signature[position + 1 :]) if position >= 0 else ":"


def _shortened(line: str) -> str:
    """Types of a tuple that are the same many times as ``*[R.Tensor(...)] * 56``."""
    return _REPEATED.sub(lambda found: f"*[{found[1]}] * {found[0].count('R.Tensor(')}", line)
