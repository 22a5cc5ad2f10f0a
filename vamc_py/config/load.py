"""A YAML file and its ``--set`` overrides as a checked configuration, or all that is wrong with them at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from vamc_py.config import faults, notices, old_names, rules
from vamc_py.config.config import Config
from vamc_py.config.overrides import override
from vamc_py.config.place import Fault, Place, dotted, in_order
from vamc_py.config.tree import MOST_CHARACTERS, Tree, read_tree
from vamc_py.errors import ConfigError


@dataclass(frozen=True)
class LoadedConfig:
    """A valid configuration and where each of its values came from."""

    config: Config
    notices: tuple[str, ...]  # each one sentence for the user; nothing is wrong
    path: Path  # the file, as the user named it
    text: str  # YAML that loads to the same Config without overrides; equal configurations give equal bytes
    origins: Mapping[str, str]  # "frontend.checkpoint" → "model.yaml:4:15" or "--set frontend.checkpoint=..."

    def place(self, key: str) -> str:
        """Where a key was written; where what holds it was, when the file leaves the key out."""
        while key and key not in self.origins:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self.origins[key] if key else f"{self.path}:1:1"

    def fault(self, key: str, message: str) -> str:
        """``place: key: message``, for a ConfigError about a value that only the work itself could find wrong."""
        return f"{self.place(key)}: {key}: {message}"


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read a configuration file.

    :param overrides: ``key=value`` each, as ``--set`` takes them; a later one wins.
    :raises ConfigError: with every fault of the file and the overrides, each at its place.
    """
    return load_text(_read(path), path, overrides)


def load_text(text: str, path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """As ``load_config``, from text; ``path`` only names it in messages."""
    tree = read_tree(text, lambda line, column: Place(line, column, os.fspath(path)))
    if not isinstance(tree.data, dict):
        if not tree.refused:
            tree.fault((), _no_mapping(tree))
        raise ConfigError(in_order(tree.faults))
    renamed = old_names.rename(tree)
    wrong: list[str] = []
    for assignment in overrides:
        try:
            override(tree, assignment)
        except ConfigError as error:
            wrong.extend(error.faults)
    config = _validate(tree)
    rules.check_rules(tree)
    if tree.faults or wrong or config is None:
        raise ConfigError(in_order(_distinct(tree.faults)) + wrong)
    notes = (notices.published_notice(config), notices.rounding_notice(config), notices.unused_notice(config))
    return LoadedConfig(
        config=config,
        notices=(*renamed, *(note for note in notes if note)),
        path=path,
        text=effective_text(config),
        origins=MappingProxyType({dotted(key): str(place) for key, place in tree.places.items() if key}),
    )


def effective_text(config: Config) -> str:
    """The keys that were written, as YAML in the order of the models; loads to an equal Config."""
    data = config.model_dump(mode="json", exclude_unset=True)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


class _Dumper(yaml.SafeDumper):
    """Mappings in blocks, lists on one line, invisible characters escaped (PyYAML would fold some of them)."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, _Dumper.represent_str)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(4 * MOST_CHARACTERS + 1)
    except OSError as error:
        raise ConfigError([f"{path}: {_os_fault(error)}"]) from None
    except ValueError as error:  # a null byte in the path
        raise ConfigError([f"{str(path)!r}: {error}"]) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, start = before.count(b"\n") + 1, before.rfind(b"\n") + 1
        column = len(before[start:].decode("utf-8", "replace")) + 1
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8 text"
        raise ConfigError([str(Fault(Place(line, column, os.fspath(path)), (), message))]) from None


def _os_fault(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path (a relative one starts at the current directory)"
    if isinstance(error, IsADirectoryError):
        return "a directory; name the YAML file in it"
    return f"cannot be read: {error.strerror or error}"


def _no_mapping(tree: Tree) -> str:
    expected = "a configuration begins with keys such as name:, frontend:, backend:"
    return f"the file is empty; {expected}" if tree.data is None else f"{faults.describe(tree.data)}; {expected}"


def _validate(tree: Tree) -> Config | None:
    """The Config, or None with the faults noted. What reading already refused is not reported as missing as well."""
    try:
        return Config.model_validate(tree.data)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path = faults.path_of(detail)
            if tree.refused_below(path) or faults.is_echo(detail):
                continue
            note = tree.key_fault if detail["type"] == "extra_forbidden" else tree.fault
            note(path, faults.message_of(detail))
        return None


def _distinct(found: list[Fault]) -> list[Fault]:
    return list(dict.fromkeys(found))
