"""A Relax function of one dataflow block as bindings that a pass can look up, replace and rebuild.

TVM's pattern language (``relax.dpl``) finds shapes of operators; what a pass needs besides — who uses a value, what
defines it, the same function with other parameters — is here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tvm import relax


class Graph:
    """The bindings of ``function`` in order, with definitions and users.

    ``replace`` gives a variable a new value; ``rebuild`` emits a new function from what the outputs still need, with
    types inferred anew. A replacement may use any variable bound before the one it replaces.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self.parameters: list[Any] = list(function.params)
        self.values: dict[Any, Any] = {}
        self.users: dict[Any, list[Any]] = defaultdict(list)
        for var, value in bindings(function):
            self.values[var] = value
            for used in variables(value):
                self.users[used].append(var)
        self.result: Any = function.body.body

    def parameter(self, name: str) -> Any:
        """The function's parameter of that name; KeyError when there is none."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise KeyError(name)

    def value(self, expression: Any) -> Any:
        """What defines a variable, through plain renamings; other expressions are returned as they are."""
        while isinstance(expression, relax.Var) and expression in self.values:
            expression = self.values[expression]
        return expression

    def origin(self, expression: Any) -> Any:
        """The variable behind plain renamings."""
        while isinstance(expression, relax.Var) and isinstance(self.values.get(expression), relax.Var):
            expression = self.values[expression]
        return expression

    def call(self, expression: Any, operator: str) -> Any | None:
        """The call that defines ``expression`` if it is one of ``operator`` (``relax.…``), else None."""
        value = self.value(expression)
        return value if operator_name(value) == operator else None

    def calls(self, operator: str) -> list[tuple[Any, Any]]:
        """All (variable, call) of an operator, in order."""
        return [(var, value) for var, value in self.values.items() if operator_name(value) == operator]

    def outputs(self) -> list[Any]:
        """The results: the fields of the returned tuple, or the one value."""
        value = self.value(self.result)
        fields = list(value.fields) if isinstance(value, relax.Tuple) else [self.result]
        return [self.origin(field) for field in fields]

    def is_result(self, var: Any) -> bool:
        """Whether the function returns this very variable (a user that ``users`` counts too, or the body)."""
        return var in self.outputs()

    def replace(self, var: Any, value: Any) -> None:
        """Give ``var`` another value from now on."""
        self.values[var] = value

    def bind(self, value: Any, name: str = "lv") -> Any:
        """A new variable for ``value``, to be used in replacements; its type is inferred here."""
        normalized = relax.BlockBuilder().normalize(value)
        var = relax.Var(name, normalized.ty)
        self.values[var] = value
        for used in variables(value):
            self.users[used].append(var)
        return var

    def only_user(self, var: Any) -> Any | None:
        """The one variable that uses ``var``, None when there are more or the function returns it."""
        users = self.users[var]
        return users[0] if len(users) == 1 and not self.is_result(var) else None

    def either(self, expression: Any, operator: str) -> list[tuple[Any, Any]]:
        """Both orders of the operands of a commutative call of ``operator``; empty when it is none."""
        call = self.call(expression, operator)
        return [] if call is None else [(call.args[0], call.args[1]), (call.args[1], call.args[0])]

    def rebuild(
        self,
        *,
        parameters: Sequence[Any] | None = None,
        substitute: Mapping[Any, Any] | None = None,
        outputs: Sequence[Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Any:
        """A new function: live bindings only, types inferred anew.

        ``parameters`` replaces the parameter list; ``substitute`` maps old variables to expressions over new ones;
        ``outputs`` the results (one value is returned as it is, several as a tuple).
        """
        parameters = self.parameters if parameters is None else list(parameters)
        results = self.outputs() if outputs is None else list(outputs)
        order = self._live_order(results, dict(substitute or {}))
        builder = relax.BlockBuilder()
        new: dict[Any, Any] = {p: p for p in parameters}
        with builder.function("main", list(parameters), attrs=dict(attributes or self.function.attrs or {})):
            with builder.dataflow():
                new.update(substitute or {})
                for var in order:
                    value = _with_variables(self.values[var], new)
                    # A variable that only renames another needs no binding.
                    new[var] = value if isinstance(value, relax.Var) else builder.emit(value, name_hint=var.name)
                resolved = [_with_variables(result, new) for result in results]
                output = builder.emit_output(resolved[0] if len(resolved) == 1 else relax.Tuple(resolved))
            builder.emit_func_output(output)
        return builder.get()["main"]

    def _live_order(self, results: Iterable[Any], substituted: dict[Any, Any]) -> list[Any]:
        """Variables that the results need, definitions first."""
        order: list[Any] = []
        done: set[Any] = set(self.parameters) | set(substituted)
        stack: list[tuple[Any, bool]] = [(v, False) for r in reversed(list(results)) for v in reversed(variables(r))]
        while stack:
            var, expanded = stack.pop()
            if var in done:
                continue
            if expanded or var not in self.values:
                done.add(var)
                if var in self.values:
                    order.append(var)
                continue
            stack.append((var, True))
            stack.extend((used, False) for used in reversed(variables(self.values[var])) if used not in done)
        return order


def bindings(function: Any) -> Iterator[tuple[Any, Any]]:
    """(variable, value) of every binding, in order."""
    for block in function.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


def operator_name(value: Any) -> str:
    """``relax.…`` of a call to an operator, else an empty string."""
    return str(value.op.name) if isinstance(value, relax.Call) and hasattr(value.op, "name") else ""


def variables(expression: Any) -> list[Any]:
    """The Relax variables in an expression, in order."""
    if isinstance(expression, relax.Var):
        return [expression]
    if isinstance(expression, relax.Call):
        return [var for argument in expression.args for var in variables(argument)]
    if isinstance(expression, relax.Tuple):
        return [var for field in expression.fields for var in variables(field)]
    if isinstance(expression, relax.TupleGetItem):
        return variables(expression.tuple_value)
    return []


def _with_variables(expression: Any, new: Mapping[Any, Any]) -> Any:
    """The expression over the new variables; types are left to be inferred."""
    if isinstance(expression, relax.Var):
        return new.get(expression, expression)
    if isinstance(expression, relax.Call):
        arguments = [_with_variables(argument, new) for argument in expression.args]
        return relax.Call(expression.op, arguments, expression.attrs, expression.ty_args)
    if isinstance(expression, relax.Tuple):
        return relax.Tuple([_with_variables(field, new) for field in expression.fields])
    if isinstance(expression, relax.TupleGetItem):
        return relax.TupleGetItem(_with_variables(expression.tuple_value, new), expression.index)
    return expression
