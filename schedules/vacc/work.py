"""How often each core uses which intrinsic: counted in a kernel's TIR, by what stands in it and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tvm import ir, tirx

from vamc_py.runstream.program import Work
from vamc_py.schedules.vacc.intrinsics import ATTRIBUTE

Uses: TypeAlias = Counter[tuple[str, tuple[int, ...]]]
Values: TypeAlias = Mapping[Any, int]
"""Of the variables: loops and bindings around a statement."""


def count_work(function: Any) -> tuple[tuple[Work, ...], ...]:
    """The uses of intrinsics of each core, in the order of the cores: those of a size together, none with a size of 0.

    `function` is a PrimFunc whose body is a loop over cores. Loops and conditions may depend on the core, on loops
    around them and on bindings. ValueError where they depend on anything else, such as an argument, and for a store
    or call outside of all intrinsics: nobody would pay for it.
    """
    loop = function.body
    if not isinstance(loop, tirx.For):
        raise ValueError(f"the body of a kernel is a loop over cores, not {type(loop).__name__}")
    first, cores = _evaluate(loop.min, {}), _evaluate(loop.extent, {})
    return tuple(_work(_count(loop.body, {loop.loop_var: first + core})) for core in range(cores))


def _work(uses: Uses) -> tuple[Work, ...]:
    return tuple(
        Work(intrinsic=name, sizes=sizes, count=count)  # type: ignore[arg-type]  # pydantic checks the name
        for (name, sizes), count in uses.items()
        if min(sizes) > 0
    )


def _count(statement: Any, values: Values) -> Uses:
    """The uses in a statement; the variables of bindings in it are forgotten behind it."""
    return _count_all([statement], values)


def _count_all(statements: Any, values: Values) -> Uses:
    uses: Uses = Counter()
    for statement in statements:
        if isinstance(statement, tirx.Bind):
            values = {**values, statement.var: _evaluate(statement.value, values)}
        elif isinstance(statement, tirx.SeqStmt):
            uses.update(_count_all(statement.seq, values))
        elif isinstance(statement, tirx.For):
            uses.update(_count_loop(statement, values))
        elif isinstance(statement, tirx.AttrStmt) and statement.attr_key == ATTRIBUTE:
            uses[_use(statement.value, values)] += 1
        elif isinstance(statement, tirx.IfThenElse):
            branch = statement.then_case if _evaluate(statement.condition, values) else statement.else_case
            uses.update(_count(branch, values) if branch is not None else Counter())
        elif not isinstance(statement, tirx.AllocBuffer):
            raise ValueError(f"outside of all intrinsics there is {type(statement).__name__}: {statement}")
    return uses


def _use(call: Any, values: Values) -> tuple[str, tuple[int, ...]]:
    name, *sizes = call.args
    return str(name.value), tuple(_evaluate(size, values) for size in sizes)


def _count_loop(loop: Any, values: Values) -> Uses:
    first, extent = _evaluate(loop.min, values), _evaluate(loop.extent, values)
    if extent <= 0:
        return Counter()
    if not _depends(loop.body, loop.loop_var):
        uses = _count(loop.body, values)
        return Counter({use: count * extent for use, count in uses.items()})
    uses = Counter()
    for value in range(first, first + extent):
        uses.update(_count(loop.body, {**values, loop.loop_var: value}))
    return uses


def _depends(body: Any, variable: Any) -> bool:
    """Whether what is counted in the body may depend on the variable: the bodies of intrinsics do not matter."""
    statements = [body]
    while statements:
        statement = statements.pop()
        if isinstance(statement, tirx.SeqStmt):
            statements.extend(statement.seq)
            continue
        if isinstance(statement, tirx.For):
            read = [statement.min, statement.extent]
            statements.append(statement.body)
        elif isinstance(statement, tirx.IfThenElse):
            read = [statement.condition]
            statements.extend(case for case in (statement.then_case, statement.else_case) if case is not None)
        else:  # a binding, an intrinsic, or what will be refused
            read = [statement.value] if isinstance(statement, tirx.Bind | tirx.AttrStmt) else []
        if any(_reads(expression, variable) for expression in read):
            return True
    return False


def _reads(expression: Any, variable: Any) -> bool:
    """Whether arithmetic of integers, or the sizes of an intrinsic, have the variable in them."""
    if isinstance(expression, ir.Var):
        return bool(expression.same_as(variable))
    if isinstance(expression, ir.Call):
        return any(_reads(argument, variable) for argument in expression.args)
    if type(expression).__name__ in _BINARY:
        return _reads(expression.a, variable) or _reads(expression.b, variable)
    return False


_BINARY: dict[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "FloorDiv": lambda a, b: a // b,
    "FloorMod": lambda a, b: a % b,
    "Min": min,
    "Max": max,
    "LT": lambda a, b: int(a < b),
    "LE": lambda a, b: int(a <= b),
    "GT": lambda a, b: int(a > b),
    "GE": lambda a, b: int(a >= b),
    "EQ": lambda a, b: int(a == b),
    "NE": lambda a, b: int(a != b),
    "And": lambda a, b: int(a and b),
    "Or": lambda a, b: int(a or b),
}


def _evaluate(expression: Any, values: Values) -> int:
    """The value of an expression of integers."""
    if isinstance(expression, tirx.IntImm):
        return int(expression.value)
    if isinstance(expression, ir.Var):
        if expression not in values:
            raise ValueError(f"the work of a kernel depends on {expression.name}, which only a run knows")
        return values[expression]
    operation = _BINARY.get(type(expression).__name__)
    if operation is None:
        raise ValueError(f"the work of a kernel depends on {expression}, which is no arithmetic of integers")
    return operation(_evaluate(expression.a, values), _evaluate(expression.b, values))
