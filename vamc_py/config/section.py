"""What every section of the YAML shares: strict, frozen, no unknown keys, and for each key the targets that use it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, JsonValue, model_validator
from pydantic.fields import FieldInfo

TARGETS = ("vacc", "llvm", "cuda")


class Section(BaseModel):
    """A mapping of the YAML. Lists arrive as tuples (see ``tree.py``), so strict types hold for them as well."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_section_is_absent(cls, data: object) -> object:
        """``compile:`` with nothing below it is null in YAML; an optional section may be written so."""
        if not isinstance(data, dict):
            return data
        empty = {name for name, field in subsections(cls) if data.get(name, ...) is None and not field.is_required()}
        return {name: value for name, value in data.items() if name not in empty}


def on(*targets: str, form: str | None = None) -> dict[str, JsonValue]:
    """Metadata of a key: the targets that use it (none at all: only accepted), and how its type reads in the reference.

    A key without this metadata is used on every target.
    """
    return {"targets": list(targets), **({"form": form} if form else {})}


def targets_of(field: FieldInfo) -> tuple[str, ...]:
    """The targets on which a key has a meaning."""
    extra = field.json_schema_extra
    if not isinstance(extra, dict) or "targets" not in extra:
        return TARGETS
    targets = extra["targets"]
    return tuple(str(target) for target in targets) if isinstance(targets, list) else TARGETS


def section_of(annotation: Any) -> type[Section] | None:
    """The Section that an annotation holds: itself, optional, or as the elements of a tuple; None for other values."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, tuple, Annotated):
        return next((found for part in get_args(annotation) if (found := section_of(part))), None)
    return None


def literals(annotation: Any) -> list[str]:
    """The values of a Literal, also of an optional one; empty for other annotations."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [value for part in get_args(annotation) for value in literals(part)]
    return []


def subsections(section: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
    """The keys of a section that are sections themselves."""
    return ((name, field) for name, field in section.model_fields.items() if section_of(field.annotation))


def all_keys(section: type[Section], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every key below a section with its path, a section before what it holds."""
    for name, field in section.model_fields.items():
        yield (*prefix, name), field
        inner = section_of(field.annotation)
        if inner is not None:
            yield from all_keys(inner, (*prefix, name))
