"""Writes a dump while the passes run, in the format of ``dump.py``: each stage as it comes, so that a crash leaves
what came before.

The bytes depend on the input alone: no time, no folder of this machine, gzip without its time stamp.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tvm
from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from tvm import relax
from tvm_ffi import structural_equal

import vamc_py
from vamc_py.artifact.write import built_with
from vamc_py.config import Config, LoadedConfig
from vamc_py.config.place import dotted
from vamc_py.config.section import all_keys
from vamc_py.errors import UserError
from vamc_py.inspect.dump import IMPORT, INDEX_FILE, KERNELS_DIR, TIMES_FILE, DumpIndex, StageRecord
from vamc_py.inspect.kernel_source import kernel_names, tir_text
from vamc_py.inspect.plan_json import plan_to_json
from vamc_py.inspect.report_model import ConfigValue
from vamc_py.inspect.script import small_script
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.graph import operator_name
from vamc_py.pipeline.pass_options import option_values, summary
from vamc_py.pipeline.program import OPERATOR_ATTRIBUTE, Program
from vamc_py.pipeline.runner import Observer, PassRun

_COMPRESSION = 3  # a ninth of the JSON in 20 ms per MB; higher levels gain little
_PARTIAL = ".partial"
_OWN_FILE = re.compile(r"\d{3,}_.*\.(json\.gz|py)|pipeline\.json|times\.json")
# TVM keeps where a kernel's source stands, with the folder in which vamc-py is installed.
_SOURCE_NAME = re.compile(r'("type":\s*"ir\.SourceName",\s*"data":\s*)("(?:[^"\\]|\\.)*")')


def prepare_dump_folder(path: Path) -> None:
    """An empty folder for a dump: made if missing, an older dump in it removed.

    UserError for a folder with anything else in it, for an artifact's own dump, and for what cannot be written.
    """
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: a file; name a folder for the dump")
        path.mkdir(parents=True, exist_ok=True)
        if (path.parent / "manifest.json").is_file():
            raise UserError(f"{path}: belongs to an artifact; name another folder for the dump")
        own = _own_files(path)
        if not (path / INDEX_FILE).is_file():
            # A compile that was killed before it wrote the index has left no whole file.
            own = [file for file in own if file.name.endswith(_PARTIAL)]
            if len(own) < len(list(path.iterdir())):
                raise UserError(f"{path}: has files in it that are no dump; name an empty or a new folder")
        if not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"{path}: no dump can be written there (no permission); name another folder")
        for file in own:  # the index last: a folder with the index can be removed again
            file.unlink()
        if (path / KERNELS_DIR).is_dir() and not any((path / KERNELS_DIR).iterdir()):
            (path / KERNELS_DIR).rmdir()
    except OSError as error:
        raise UserError(f"{path}: no dump can be written there ({error.strerror}); name another folder") from None


class DumpWriter(Observer):
    """Writes the program after the import and after every pass into ``folder``, which is there and empty.

    ``text`` adds the ``.py`` files for people, ``only_function`` limits those to one function.
    Without ``loaded`` the index has no configuration.
    """

    def __init__(
        self, folder: Path, loaded: LoadedConfig | None, *, text: bool, only_function: str | None = None
    ) -> None:
        self.folder = folder
        self._loaded = loaded
        self._text = text
        self._only_function = only_function
        self._kernels: dict[str, Any] = {}  # as they were last written
        self._seconds: dict[str, float] = {}  # of each pass, by label
        self._pass_files: dict[str, str] = {}  # module -> "my_pass.py:MyPass", of passes that are in no package

    def begin(self, program: Program, context: Context) -> None:
        """The index, and the program as it was imported."""
        loaded = self._loaded
        self._index = DumpIndex(
            name=loaded.config.name if loaded else "",
            target=to_jsonable_python(dataclasses.asdict(context.target)),
            prefill=context.prefill,
            context=context.context,
            formats=dict(context.formats),
            config=config_values(loaded) if loaded else (),
            built_with=built_with(),
            stages=(),
        )
        self._write_index()  # from now on the folder is a dump, which the next run may replace
        record = StageRecord(
            index=0,
            label=IMPORT,
            name=IMPORT,
            stage="import",
            origin="",
            place=None,
            options={},
            summary="The model as torch.export traced it, in Relax.",
            changed=True,
            operators=operator_counts(program.module),
            notes=program.notes,
            kept_notes=0,
            module=f"000_{IMPORT}.json.gz",
            plan=f"000_{IMPORT}.plan.json.gz",
        )
        self._add(record, None, program)

    def after(self, run: PassRun) -> None:
        """The program after a pass, where the pass changed it."""
        one, before, last = run.planned.one, run.before, self._index.stages[-1]
        stem = _stem(run.index, run.planned.label)
        same_plan = list(before.plan.recipes.items()) == list(run.after.plan.recipes.items())
        same_module = _same_module(before.module, run.after.module)
        kept = _common(before.notes, run.after.notes)
        record = StageRecord(
            index=run.index,
            label=run.planned.label,
            name=one.name,
            stage=one.stage,
            origin=self._named(run.planned.origin),
            place=None if run.planned.place is None else self._named(run.planned.place),
            options=option_values(one),
            summary=summary(type(one)),
            changed=run.changed,
            operators=operator_counts(run.after.module),
            notes=run.after.notes[kept:],
            kept_notes=kept,
            module=last.module if same_module else f"{stem}.json.gz",
            plan=last.plan if same_plan else f"{stem}.plan.json.gz",
        )
        self._seconds[run.planned.label] = run.seconds
        if run.planned.origin.rpartition(":")[0].endswith(".py"):
            self._pass_files[type(one).__module__] = run.planned.origin
        self._add(record, last, run.after)

    def write_times(self, times: Mapping[str, float]) -> None:
        """Seconds of the passes and of these other stages, beside the index, since they differ from run to run."""
        rounded = {label: round(seconds, 6) for label, seconds in {**self._seconds, **times}.items()}
        self._write(TIMES_FILE, json.dumps(rounded, indent=1, ensure_ascii=False).encode() + b"\n")

    def _add(self, record: StageRecord, last: StageRecord | None, program: Program) -> None:
        if last is None or record.plan != last.plan:
            self._write(
                record.plan, _gzipped(json.dumps(plan_to_json(program.plan, self._pass_files), ensure_ascii=False))
            )
        if last is None or record.module != last.module:
            self._write(record.module, _gzipped(_without_folders(tvm.ir.save_json(program.module))))
        if self._text:
            self._write_texts(record, program)
        self._index = self._index.model_copy(update={"stages": (*self._index.stages, record)})
        self._write_index()

    def _write_texts(self, record: StageRecord, program: Program) -> None:
        title = f"# {record.index} {record.label}: {record.summary}\n"
        stem = _stem(record.index, record.label)
        if record.index and not record.changed:
            before = self._index.stages[-1]
            text = f"# It changed nothing: the program is still that after {before.index} {before.label}.\n"
        else:
            text = small_script(program, self._only_function)
        self._write(f"{stem}.py", (title + text).encode())
        for name in kernel_names(program.module) if self._only_function is None else ():
            kernel = program.module[name]
            if name not in self._kernels or not kernel.same_as(self._kernels[name]):
                self._kernels[name] = kernel
                self._write(f"{KERNELS_DIR}/{_file_name(name)}.py", tir_text(program.module, name).encode())

    def _write_index(self) -> None:
        self._write(INDEX_FILE, self._index.model_dump_json(indent=1).encode() + b"\n")

    def _write(self, name: str, data: bytes) -> None:
        """Whole or not at all: under another name first."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.name}{_PARTIAL}")
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _named(self, text: str) -> str:
        return _without_config_folder(text, self._loaded) if self._loaded else text


def operator_counts(module: Any) -> dict[str, int]:
    """Calls in all Relax functions: "matmul", "vamc.linear", "kernel linear" for kernels that serve linear."""
    counts: Counter[str] = Counter()
    for _, function in module.functions_items():
        if isinstance(function, relax.Function):
            counts.update(_called(call, module) for call in _calls(function.body))
    return dict(sorted(counts.items()))


def _calls(expression: Any) -> Iterator[Any]:
    """The calls that an expression's bindings hold, those in branches and inner functions included."""
    if isinstance(expression, relax.Call):
        yield expression
    elif isinstance(expression, relax.SeqExpr):
        for block in expression.blocks:
            for binding in block.bindings:
                yield from _calls(binding.value)
        yield from _calls(expression.body)
    elif isinstance(expression, relax.If):
        yield from _calls(expression.true_branch)
        yield from _calls(expression.false_branch)
    elif isinstance(expression, relax.Function):
        yield from _calls(expression.body)


def _called(call: Any, module: Any) -> str:
    operator = operator_name(call).removeprefix("relax.")
    if operator in ("call_tir", "call_tir_inplace"):
        symbol = call.args[0].name_hint
        attributes = module[symbol].attrs or {}
        return f"kernel {attributes.get(OPERATOR_ATTRIBUTE, symbol)}"
    if operator:
        return operator
    return f"call of {getattr(call.op, 'name_hint', getattr(call.op, 'global_symbol', 'a function'))}"


def config_values(loaded: LoadedConfig) -> tuple[ConfigValue, ...]:
    """Every key of the configuration that has a value, in the order of the reference, with where it came from."""
    listed: set[tuple[str, ...]] = set()  # lists of sections: a value as a whole
    found = []
    for path, _ in all_keys(Config):
        value: Any = loaded.config
        for key in path:
            value = getattr(value, key, None)
        if value is None or isinstance(value, BaseModel) or any(path[: len(above)] == above for above in listed):
            continue
        if isinstance(value, tuple) and any(isinstance(part, BaseModel) for part in value):
            listed.add(path)
        found.append(
            ConfigValue(
                key=dotted(path),
                value=to_jsonable_python(value, exclude_none=True),
                origin=_origin(dotted(path), loaded),
            )
        )
    return tuple(found)


def _origin(key: str, loaded: LoadedConfig) -> str:
    """Where a value was written, with each ``--set`` that changed a part of it."""
    parts = [place for name, place in loaded.origins.items() if name.startswith((f"{key}[", f"{key}."))]
    changes = [place for place in parts if place.startswith("--set ")]
    own = loaded.origins.get(key, "" if changes else "default")
    return ", ".join(dict.fromkeys(_without_config_folder(place, loaded) for place in (own, *changes) if place))


def _without_config_folder(text: str, loaded: LoadedConfig) -> str:
    """``model.yaml:4:15`` for a place in the configuration, in whichever folder that lies."""
    whole = f"{os.fspath(loaded.path)}:"
    return f"{loaded.path.name}:{text.removeprefix(whole)}" if text.startswith(whole) else text


def _without_folders(text: str) -> str:
    """TVM's JSON with the names of its source files from ``vamc_py/`` on, or without folder for other packages'."""
    package = Path(vamc_py.__file__).parent

    def shorten(match: re.Match[str]) -> str:
        path = Path(json.loads(match[2]))
        own = path.is_relative_to(package)
        return match[1] + json.dumps(path.relative_to(package.parent).as_posix() if own else path.name)

    return _SOURCE_NAME.sub(shorten, text)


def _gzipped(text: str) -> bytes:
    return gzip.compress(text.encode(), _COMPRESSION, mtime=0)


def _stem(index: int, label: str) -> str:
    return f"{index:03d}_{_file_name(label)}"


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]", "_", text.replace("#", "-"))


def _same_module(before: Any, after: Any) -> bool:
    """Whether one file serves both. Names of parameters count, as the plan goes by them; those of bindings do not."""
    return structural_equal(before, after) and _parameter_names(before) == _parameter_names(after)


def _parameter_names(module: Any) -> dict[str, list[str]]:
    functions = ((gv.name_hint, f) for gv, f in module.functions_items() if isinstance(f, relax.Function))
    return {name: [parameter.name for parameter in function.params] for name, function in functions}


def _common(before: tuple[str, ...], after: tuple[str, ...]) -> int:
    """How many notes both begin with."""
    pairs = enumerate(zip(before, after, strict=False))
    return next((i for i, (old, new) in pairs if old != new), min(len(before), len(after)))


def _own_files(folder: Path) -> list[Path]:
    """The files of a dump, the index last; what else is in its folder is somebody's."""
    kernels = folder / KERNELS_DIR
    own = [path for path in folder.iterdir() if path.is_file() and _OWN_FILE.fullmatch(_whole_name(path))]
    own += [path for path in kernels.iterdir() if path.suffix == ".py"] if kernels.is_dir() else []
    return sorted(own, key=lambda path: path.name == INDEX_FILE)


def _whole_name(path: Path) -> str:
    """The name without what a file carries while it is written."""
    return path.name.removeprefix(".").removesuffix(_PARTIAL) if path.name.endswith(_PARTIAL) else path.name
