"""The options of a pass: the fields of its dataclass, checked strictly, as they come from a YAML or a command line."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from vamc_py.config.faults import describe, did_you_mean
from vamc_py.errors import UserError
from vamc_py.pipeline.base import Pass


@dataclass(frozen=True)
class Option:
    """A field of a pass."""

    name: str
    type: str  # in words: "true or false", "float16 or bfloat16"; else as the annotation is written
    default: JsonValue


def options_of(kind: type[Pass]) -> tuple[Option, ...]:
    """The options of a pass, in the order of its fields."""
    annotations = _annotations(kind)
    return tuple(Option(f.name, _words(annotations[f.name]), _default(f)) for f in fields(kind))  # type: ignore[arg-type]


def option_values(one: Pass) -> dict[str, JsonValue]:
    """The values of a pass's options as plain data, which ``make_pass`` takes again."""
    return {f.name: to_jsonable_python(getattr(one, f.name)) for f in fields(one)}  # type: ignore[arg-type]


def make_pass(kind: type[Pass], options: Mapping[str, object]) -> Pass:
    """The pass with these options, plain data as a YAML has it; those not named keep their default.

    UserError naming every option that the pass does not have or that has another type.
    """
    faults = [message for _, message in option_faults(kind, options)]
    if faults:
        raise UserError("\n".join(faults))
    annotations = _annotations(kind)
    try:
        return kind(**{name: _parsed(annotations[name], value) for name, value in options.items()})
    except ValueError as error:  # of the class itself: options that do not go together
        raise UserError(f"the pass {kind.name}: {error}") from None


def option_faults(kind: type[Pass], options: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """(option, what is wrong with it and what to do) of every option that ``make_pass`` would refuse."""
    annotations = _annotations(kind)
    for name, value in options.items():
        if name not in annotations:
            known = did_you_mean(name, annotations) or (f"; it has {', '.join(annotations)}" if annotations else "")
            yield name, f"the pass {kind.name} has no option {name}{known or '; it has none'}"
            continue
        try:
            _parsed(annotations[name], value)
        except ValidationError as error:
            wanted, detail = _words(annotations[name]), error.errors(include_url=False)[0]
            inside = f" ({detail['msg']})" if detail["loc"] else ""
            yield name, f"the option {name} of {kind.name} must be {wanted}, not {describe(value)}{inside}"
        except (TypeError, ValueError):
            yield name, f"the option {name} of {kind.name} must be plain data, as a YAML has it"


def check_options(kind: type[Pass], where: str) -> None:
    """UserError, which begins with ``where``, for a class whose fields cannot be options."""
    own = [f.name for f in fields(kind) if f.name in typing.get_type_hints(Pass)]  # type: ignore[arg-type]
    if own:
        raise UserError(f"{where}: {own[0]} would be an option; write it as {own[0]}: ClassVar[…]")
    try:
        annotations = _annotations(kind)
    except Exception as error:  # whatever the file's annotations raise
        raise UserError(f"{where}: the types of its fields cannot be read: {error}") from None
    for f in fields(kind):  # type: ignore[arg-type]
        if f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{where}: the option {f.name} has no default; give it one, so that the pass runs by name")
        try:
            TypeAdapter(annotations[f.name])
        except Exception:
            raise UserError(
                f"{where}: the option {f.name} has the type {_words(annotations[f.name])}, which no YAML can say; use "
                "bool, int, float, str, Literal, or tuples and dicts of them"
            ) from None
        try:
            _parsed(annotations[f.name], _default(f))
        except (TypeError, ValueError):
            raise UserError(
                f"{where}: the default of the option {f.name} is not {_words(annotations[f.name])}"
            ) from None


def documentation(kind: type[Pass]) -> str:
    """The docstring of the class itself; empty where it has none."""
    text = inspect.cleandoc(vars(kind).get("__doc__") or "")
    return "" if text.startswith(f"{kind.__name__}(") else text.replace("``", "`")  # dataclass writes a signature


def summary(kind: type[Pass]) -> str:
    """The first sentence of the documentation, on one line."""
    paragraph = " ".join(documentation(kind).partition("\n\n")[0].split())
    match = re.match(r".*?[.](?=\s|$)", paragraph)
    return match[0] if match else paragraph


def _annotations(kind: type[Pass]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in fields(kind)}  # type: ignore[arg-type]


def _parsed(annotation: Any, value: object) -> Any:
    # By way of JSON, whose lists may become tuples, while everything else stays strict.
    return TypeAdapter(annotation).validate_json(json.dumps(value, allow_nan=False), strict=True)


def _default(field: Field[Any]) -> JsonValue:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return typing.cast(JsonValue, to_jsonable_python(value))


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}


def _choices(annotation: Any) -> list[str]:
    """What a Literal or a union lets one choose from, each in words."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [choice for part in get_args(annotation) for choice in _choices(part)]
    return [_words(annotation)]


def _words(annotation: Any) -> str:
    if get_origin(annotation) in (Literal, Union, types.UnionType):
        *most, last = _choices(annotation)
        return f"{', '.join(most)} or {last}" if most else last
    if annotation in _WORDS:
        return _WORDS[annotation]
    if get_origin(annotation) in (tuple, list):
        return f"a list of {' and '.join(_words(part) for part in get_args(annotation) if part is not Ellipsis)}"
    return inspect.formatannotation(annotation)
