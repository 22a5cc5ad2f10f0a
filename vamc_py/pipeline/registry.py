"""Which passes there are: those of ``vamc_py.passes``, those of installed packages, and classes in files.

A package offers its passes by entry points of the group ``vamc_py.passes``, each named as its pass.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from vamc_py import __version__, passes
from vamc_py.config.faults import did_you_mean
from vamc_py.errors import UserError
from vamc_py.pipeline.base import STAGES, Pass
from vamc_py.pipeline.pass_options import check_options, documentation, make_pass, option_values, options_of, summary

__all__ = [
    "GROUP",
    "OWN_ORIGIN",
    "Registered",
    "built_in_passes",
    "check_pass_class",
    "documentation",
    "find_pass",
    "load_pass_file",
    "make_pass",
    "option_values",
    "options_of",
    "registered_passes",
    "summary",
]

GROUP = "vamc_py.passes"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Registered:
    """A pass that can be asked for."""

    kind: type[Pass]
    origin: str  # "vamc-py 0.1.0", another package and its version, or "path.py:Class" as it was written

    @property
    def built_in(self) -> bool:
        """Whether it is one of vamc-py's own."""
        return self.origin == OWN_ORIGIN


OWN_ORIGIN = f"vamc-py {__version__}"


def registered_passes() -> dict[str, Registered]:
    """All passes by name: vamc-py's own, then those of other packages.

    UserError where an installed package offers a pass that cannot be used, or one of a name that another has.
    """
    found = built_in_passes()
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        one = _from_entry_point(entry)
        other = found.get(one.kind.name)
        if other is not None:
            raise UserError(
                f"two passes have the name {one.kind.name}: one of {other.origin} and one of {one.origin}; "
                f"uninstall {one.origin.rpartition(' ')[0]}, or have its pass renamed"
            )
        found[one.kind.name] = one
    return found


def built_in_passes() -> dict[str, Registered]:
    """The passes of ``vamc_py.passes`` by name."""
    found: dict[str, Registered] = {}
    for info in pkgutil.iter_modules(passes.__path__):
        module = importlib.import_module(f"{passes.__name__}.{info.name}")
        for kind in vars(module).values():
            if _is_pass(kind) and kind.__module__ == module.__name__ and not inspect.isabstract(kind):
                check_pass_class(kind, f"{module.__name__}.{kind.__name__}")
                found[kind.name] = Registered(kind, OWN_ORIGIN)
    return found


def find_pass(text: str) -> Registered:
    """The pass of a name, or of a class in a file, ``path.py:Class``. UserError where there is none."""
    if ".py:" in text:
        return load_pass_file(text)
    known = registered_passes()
    if text not in known:
        raise UserError(f"no pass has the name {text}{did_you_mean(text, known) or '; `vamc-py passes` lists them'}")
    return known[text]


def load_pass_file(reference: str) -> Registered:
    """The class of ``path.py:Class``; this runs the file. A relative path starts at the current directory.

    UserError where there is no such file or class, where the file cannot be imported, or where the class is no pass.
    """
    path, _, name = reference.rpartition(":")
    module = _module_of(Path(path))
    if not hasattr(module, name):
        classes = [
            key for key, value in vars(module).items() if _is_pass(value) and value.__module__ == module.__name__
        ]
        known = did_you_mean(name, classes) or (f"; it has {', '.join(classes)}" if classes else "; it has no pass")
        raise UserError(f"{path}: there is no class {name}{known}")
    return Registered(check_pass_class(getattr(module, name), reference), reference)


def check_pass_class(kind: object, where: str) -> type[Pass]:
    """The class itself when it can run in a pipeline; else UserError, which begins with ``where``."""
    if not _is_pass(kind):
        raise UserError(f"{where}: no class derived from vamc_py.pipeline.base.Pass")
    kind = cast(type[Pass], kind)
    if inspect.isabstract(kind):
        raise UserError(f"{where}: it has no method apply(self, program, context)")
    if not (
        is_dataclass(kind) and "__dataclass_params__" in vars(kind) and cast(Any, kind).__dataclass_params__.frozen
    ):
        raise UserError(f"{where}: no frozen dataclass; write @dataclass(frozen=True) above the class")
    for attribute, fits, wanted in _ATTRIBUTES:
        if not fits(getattr(kind, attribute, None)):
            raise UserError(
                f"{where}: its {attribute} must be {wanted}, such as {attribute}: ClassVar{_SUCH_AS[attribute]}"
            )
    check_options(kind, where)
    return kind


def _is_words(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(word, str) for word in value)


_SUCH_AS = {
    "name": '[str] = "fuse-bias"',
    "stage": '[Stage] = "rewrite"',
    "requires": '[tuple[str, ...]] = ("raise-linear",)',
    "after": '[tuple[str, ...]] = ("merge-linear",)',
    "targets": '[tuple[str, ...]] = ("llvm",)',
    "anywhere": "[bool] = False",
    "tolerance": "[float] = 1e-4",
    "example": '[str] = "…"',
}
_ATTRIBUTES: tuple[tuple[str, Any, str], ...] = (
    (
        "name",
        lambda v: isinstance(v, str) and _NAME.fullmatch(v),
        "words of small letters and digits joined by hyphens",
    ),
    ("stage", lambda v: v in STAGES, f"one of {', '.join(STAGES)}"),
    ("requires", _is_words, "a tuple of names of passes"),
    ("after", _is_words, "a tuple of names of passes"),
    ("targets", lambda v: _is_words(v) and v, "a tuple of targets"),
    ("anywhere", lambda v: isinstance(v, bool), "True or False"),
    ("tolerance", lambda v: isinstance(v, float) and v > 0, "a number above 0"),
    ("example", lambda v: isinstance(v, str), "text"),
)


def _is_pass(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Pass) and value is not Pass


def _from_entry_point(entry: importlib.metadata.EntryPoint) -> Registered:
    origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
    where = f"the package {origin}, entry point {entry.name} = {entry.value}"
    try:
        loaded = entry.load()
    except Exception as error:  # whatever a foreign module raises
        raise UserError(
            f"{where}: cannot be imported: {_reason(error)}; mend or uninstall {origin.partition(' ')[0]}"
        ) from error
    kind = check_pass_class(loaded, where)
    if kind.name != entry.name:
        raise UserError(f"{where}: the pass has the name {kind.name}; the entry point must have the same")
    return Registered(kind, origin)


def _module_of(path: Path) -> ModuleType:
    """The file as a module under a private name, known to ``sys.modules`` as dataclasses need it."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a relative path starts at the current directory")
    name = f"vamc_py_pass_file_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the file does
        del sys.modules[name]
        raise UserError(f"{path}{_line(error, path)}: cannot be imported: {_reason(error)}") from error
    return module


def _line(error: BaseException, path: Path) -> str:
    """``:line`` of the file at which it failed; empty where it is not known."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f":{frames[-1]}" if frames else ""


def _reason(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}" if text else type(error).__name__
