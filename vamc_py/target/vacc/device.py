"""The figures of a die of vacc: read from a card's file, changed where the configuration says so, with their sources.

vacc is a model of our own. What a public document or log says of a card is ``published``; everything else is
``assumed``, also what is only inferred, and each figure has one sentence that says where it is from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vamc_py.errors import ArtifactError, UserError

STATEMENT = (
    "An estimate by vamc-py's own model of the device: no instruction set, memory bandwidth or timing of Vastai's "
    "cards is public."
)
"""Stands in every artifact, trace and output that has figures of the model."""
DEFAULT = "VA16"
"""The card that ``backend.target: native`` means."""

Status = Literal["published", "assumed"]
_FOLDER = Path(__file__).parent
_CARDS = ("VA1", "VA1L", "VA10", "VA16", "tiny")


class Origin(BaseModel):
    """Where a figure is from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Status
    source: str = Field(min_length=1)
    """One sentence."""


class Fact(NamedTuple):
    """A figure with where it is from."""

    key: str
    value: int | float
    status: Status
    source: str


def _figure(meaning: str) -> Any:
    return Field(gt=0, allow_inf_nan=False, description=meaning)


class Device(BaseModel):
    """A card, and what one of its dies can do. SI units; figures are of one die unless they say otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    description: str
    dies: int = _figure("Dies of the card.")
    cores: int = _figure("Cores of a die.")
    clock_hz: float = _figure("Clock of the cores, in Hz.")
    matrix_tile: Literal[16] = Field(description="Rows, columns and depth of the matrix units' tile.")
    int8_ops: float = _figure("int8 operations a second; a multiply-add counts two.")
    fp16_flops: float = _figure("float16 operations a second, summed in float32; a multiply-add counts two.")
    operand_bytes: int = _figure("Bytes of operands that a core's matrix unit reads from SSRAM in a cycle.")
    drain_elements: int = _figure("Sums that a core's matrix unit hands over to SSRAM in a cycle.")
    vector_lanes: int = _figure("float32 elements that a core's vector unit works on in a cycle.")
    launch_s: float = _figure("Seconds from the start of a kernel to that of its cores' work.")
    ssram_bytes: int = _figure("Bytes of on-chip memory (SSRAM).")
    ddr_bytes: int = _figure("Bytes of memory (DDR).")
    ddr_bytes_s: float = _figure("Bytes a second to and from DDR, both ways together.")
    burst_bytes: int = _figure("Bytes that DDR moves at least for each row of a transfer, and their multiple.")
    idma_bytes_s: float = _figure("Bytes a second of the engine that brings activations to SSRAM.")
    odma_bytes_s: float = _figure("Bytes a second of the engine that brings results to DDR.")
    wddma_bytes_s: float = _figure("Bytes a second of the engine that brings weights to SSRAM.")
    cdma_bytes_s: float = _figure("Bytes a second of the engine that copies and gathers.")
    dma_latency_s: float = _figure("Seconds from the start of a transfer to its first byte.")
    link_bytes_s: float = _figure("Bytes a second between two dies of a card, each way.")
    link_latency_s: float = _figure("Seconds from a die to another one of the card.")
    far_link_bytes_s: float = _figure("Bytes a second between dies of two cards, each way.")
    far_link_latency_s: float = _figure("Seconds from a die to one of another card.")
    origins: dict[str, Origin]
    """By figure."""

    @property
    def dma_bytes_s(self) -> dict[str, float]:
        """The rates of the DMA engines, by name."""
        return {name: getattr(self, f"{name}_bytes_s") for name in ("idma", "odma", "wddma", "cdma")}

    @staticmethod
    def names() -> tuple[str, ...]:
        """The cards that have a file; ``tiny`` is made up, for tests."""
        return _CARDS

    @classmethod
    def named(cls, name: str, overrides: Mapping[str, int | float] | None = None) -> Device:
        """The device of a card, its name in any case, with other values for some figures.

        UserError for an unknown card or figure, and for a value that a figure cannot have.
        """
        device = _card(canonical(name))
        return device._changed(overrides) if overrides else device

    def facts(self) -> tuple[Fact, ...]:
        """Every figure with its status and source, in the order of the fields."""
        return tuple(
            Fact(key, getattr(self, key), self.origins[key].status, self.origins[key].source) for key in figures()
        )

    def published(self, key: str) -> bool:
        """Whether a figure is published, and not assumed or changed."""
        return self.origins[key].status == "published"

    def json_text(self) -> str:
        """The device as ``device.json`` of an artifact: the form of the cards' files."""
        facts = {fact.key: {"value": fact.value, "status": fact.status, "source": fact.source} for fact in self.facts()}
        head = {"name": self.name, "description": self.description, "statement": STATEMENT}
        return json.dumps({**head, **facts}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """What ``json_text`` gave. ArtifactError where the file is absent, or is no such text."""
        try:
            return cls._of_document(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ArtifactError(f"{path}: there is no such file; an artifact of vacc has its device there") from None
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ArtifactError(f"{path}: no device of this version: {where}: {first['msg']}; compile again") from None
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ArtifactError(f"{path}: no device of this version ({error}); compile again") from None

    @classmethod
    def _of_document(cls, document: dict[str, Any]) -> Self:
        head = {key: document[key] for key in ("name", "description") if key in document}
        rest = {key: entry for key, entry in document.items() if key not in ("name", "description", "statement")}
        origins = {key: {part: entry[part] for part in ("status", "source")} for key, entry in rest.items()}
        return cls.model_validate({**head, **{key: entry["value"] for key, entry in rest.items()}, "origins": origins})

    def _changed(self, overrides: Mapping[str, int | float]) -> Device:
        values: dict[str, Any] = dict(self)
        origins = dict(self.origins)
        for key, value in overrides.items():
            _check_figure(key, value)
            values[key] = value
            was = f"the file of {self.name} has {getattr(self, key):g} ({origins[key].status})"
            origins[key] = Origin(status="assumed", source=f"Changed by backend.device; {was}.")
        return Device.model_validate({**values, "origins": origins})


def figures() -> tuple[str, ...]:
    """The names of the figures, in the order of the fields."""
    return tuple(name for name in Device.model_fields if name not in ("name", "description", "origins"))


def meaning(key: str) -> str:
    """What a figure is, in one sentence."""
    return str(Device.model_fields[key].description)


def whole(key: str) -> bool:
    """Whether a figure is a whole number."""
    return Device.model_fields[key].annotation is not float


def canonical(name: str) -> str:
    """A card's name as its file has it. UserError for an unknown one."""
    for card in _CARDS:
        if card.lower() == name.lower():
            return card
    near = get_close_matches(name.lower(), [card.lower() for card in _CARDS], n=1, cutoff=0.6)
    hint = f"; did you mean {canonical(near[0])}?" if near else ""
    raise UserError(f"{name!r} is no card of vacc that this version knows; known are {', '.join(_CARDS)}{hint}")


def _check_figure(key: str, value: int | float) -> None:
    """UserError unless this figure may be changed to that value."""
    if key not in figures():
        near = get_close_matches(key, figures(), n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(figures())}"
        raise UserError(f"{key!r} is no figure of a vacc device{hint}")
    if key == "matrix_tile":
        raise UserError("matrix_tile is 16: the kernels and the layout of weights are written for it")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0 or (whole(key) and not isinstance(value, int)):
        kind = "a whole number" if whole(key) else "a number"
        raise UserError(f"{key} must be {kind} above 0, not {value!r}")


@cache
def _card(name: str) -> Device:
    text = (_FOLDER / f"{name.lower()}.yaml").read_text(encoding="utf-8")
    return Device._of_document(yaml.safe_load(text))
