"""How the next token is chosen and when a text ends, with the defaults of a checkpoint's generation_config.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypedDict

from vamc_py.errors import ArtifactError, UserError

# Options that mean nothing to a greedy choice: who gives one wants to sample.
_SAMPLING_ONLY = frozenset({"temperature", "top_k", "top_p", "min_p", "seed"})


class SamplingOptions(TypedDict, total=False):
    """Settings by name, as keyword arguments; ``None`` leaves the default."""

    greedy: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    max_new_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """Settings of one generation. A value out of its range is a UserError that names the setting.

    The order in which they act is that of Hugging Face: repetition penalty, frequency and presence penalty,
    temperature, top-k, top-p, min-p.
    """

    greedy: bool = False  # the most likely token after the penalties, the lowest id on ties
    temperature: float = 1.0  # 0 is greedy too
    top_k: int = 0  # 0: off; tokens that tie with the k-th are kept
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # least probability, relative to the most likely token
    presence_penalty: float = 0.0  # on tokens of the output
    frequency_penalty: float = 0.0  # on tokens of the output, times their count
    repetition_penalty: float = 1.0  # on tokens of prompt and output: positive logits are divided, negative multiplied
    seed: int | None = None  # None: another text each time
    stop: tuple[str, ...] = ()  # strings that end the text; they are not part of it
    max_new_tokens: int | None = None  # None: up to the end of the context

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, math.inf)
        _check_whole("top_k", self.top_k, 0)
        _check_number("top_p", self.top_p, 0.0, 1.0, low_excluded=True)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.0, math.inf, low_excluded=True)
        _check_whole("seed", self.seed, 0, optional=True)
        _check_whole("max_new_tokens", self.max_new_tokens, 1, optional=True)
        if not isinstance(self.greedy, bool):
            raise UserError(f"greedy is {self.greedy!r}: it must be true or false")
        if not isinstance(self.stop, tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise UserError(f"stop is {self.stop!r}: it must be strings that are not empty")

    @property
    def chooses_greedily(self) -> bool:
        """Whether the token is the most likely one, so that no random number is drawn."""
        return self.greedy or self.temperature == 0

    def override(self, options: SamplingOptions) -> SamplingSettings:
        """These settings with the given ones instead.

        A temperature, top_k, top_p, min_p or seed turns a greedy default into sampling, unless ``greedy`` is given.
        """
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        unknown = given.keys() - SamplingOptions.__annotations__.keys()
        if unknown:
            raise UserError(f"unknown sampling settings: {', '.join(sorted(unknown))}")
        if "stop" in given:
            given["stop"] = (given["stop"],) if isinstance(given["stop"], str) else tuple(given["stop"])
        if "greedy" not in given and _SAMPLING_ONLY & given.keys():
            given["greedy"] = False
        return replace(self, **given)


@dataclass(frozen=True)
class GenerationConfig:
    """What generation_config.json says: default settings and the ids of the tokens that end a text."""

    settings: SamplingSettings
    stop_ids: frozenset[int]

    @classmethod
    def read(cls, path: Path) -> GenerationConfig:
        """Read the file; one that is missing, no JSON object or out of range is an ArtifactError.

        Keys that are absent or null leave the setting off; as with Hugging Face, no ``do_sample`` means greedy.
        Keys of other ways of searching (beams, n-gram bans) are not used.
        """
        raw = read_json_object(path)
        names = {name: name for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
        names |= {"max_new_tokens": "max_new_tokens", "stop_strings": "stop"}
        given = {ours: raw[theirs] for theirs, ours in names.items() if raw.get(theirs) is not None}
        try:
            if "stop" in given:
                given["stop"] = _strings(given["stop"])
            settings = SamplingSettings(greedy=raw.get("do_sample") is not True, **given)
            return cls(settings, _stop_ids(raw.get("eos_token_id")))
        except UserError as error:
            raise ArtifactError(f"{path}: {error}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of an artifact; a missing file or other content is an ArtifactError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: compile the artifact again") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds no JSON object")
    return value


def _strings(value: object) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _stop_ids(value: object) -> frozenset[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for token in ids:
        _check_whole("eos_token_id", token, 0)
    return frozenset(ids)


def _check_number(name: str, value: object, low: float, high: float, *, low_excluded: bool = False) -> None:
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if math.isfinite(number) and low <= number <= high and not (low_excluded and number == low):
        return
    least = f"above {low:g}" if low_excluded else f"at least {low:g}"
    most = f" and at most {high:g}" if math.isfinite(high) else ""
    raise UserError(f"{name} is {value!r}: it must be a number {least}{most}")


def _check_whole(name: str, value: object, low: int, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < low:
        raise UserError(f"{name} is {value!r}: it must be a whole number, at least {low}")
