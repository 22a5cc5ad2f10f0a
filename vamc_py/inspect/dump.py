"""The program after the import and after every pass, in a folder: the format, and reading it.

``pipeline.json`` is the index. Each stage that changed the program has a ``.json.gz``, TVM's own exact JSON of the
module, and a ``.plan.json.gz`` where the parameter plan changed; other stages name the files of an earlier one.
An artifact has such a folder too, ``ir/``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal

import tvm
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from tvm_ffi.serialization import from_json_graph_str

import vamc_py.dialect  # noqa: F401  (TVM reads calls of the dialect's operators only once they are registered)
from vamc_py.config.faults import did_you_mean
from vamc_py.errors import UserError
from vamc_py.inspect.plan_json import plan_from_json
from vamc_py.inspect.report_model import ConfigValue
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.program import Program
from vamc_py.target.description import TargetDescription
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.plan import ParameterPlan

FORMAT_VERSION = 1
INDEX_FILE = "pipeline.json"
TIMES_FILE = "times.json"
KERNELS_DIR = "kernels"
ARTIFACT_DIR = "ir"  # where an artifact has its dump
IMPORT = "import"  # label of the stage before the first pass

_MODULES_KEPT = 2  # modules that a Dump keeps in memory: a stage and the one before it

_FileName = Annotated[str, Field(pattern=r"^[^/\\]+$")]  # a file of this folder and no other


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StageRecord(_Record):
    """The import, or one pass."""

    index: int  # 0 is the import
    label: str  # unique: "import", "merge-linear", "simplify#2"
    name: str  # of the pass
    stage: Literal["import", "raise", "rewrite", "lower"]
    origin: str  # the package or file that brought the pass; "" for the import
    place: str | None  # where the YAML asks for it; None: the default list has it
    options: dict[str, JsonValue]
    summary: str  # one sentence
    changed: bool
    operators: dict[str, int]  # calls by operator: "matmul", "vamc.linear", "kernel linear"
    notes: tuple[str, ...]  # that this stage added
    kept_notes: int  # how many of the notes before it kept, from the first on: all of them, unless a pass dropped some
    module: _FileName  # the file with the module after this stage
    plan: _FileName  # likewise its parameter plan


class DumpIndex(_Record):
    """pipeline.json: the same for the same input, whenever and wherever it is made."""

    format_version: int = FORMAT_VERSION
    name: str  # of the artifact
    target: dict[str, JsonValue]  # the fields of TargetDescription
    prefill: int  # most tokens in one step
    context: int  # most positions of a sequence
    formats: dict[str, WeightFormat] = {}  # of weights that came quantized
    config: tuple[ConfigValue, ...]
    built_with: dict[str, str]  # package -> version
    stages: tuple[StageRecord, ...]


class Dump:
    """A dump that was opened; stages are read when they are asked for."""

    def __init__(self, folder: Path, index: DumpIndex, times: dict[str, float]) -> None:
        self.folder = folder
        self.index = index
        self.times = times  # seconds by label; besides "trace", "build", "weights"; empty where nobody measured
        self._modules: dict[str, Any] = {}

    def program(self, stage: StageRecord) -> Program:
        """The program after a stage, exactly. UserError for a damaged file."""
        return Program(self.module(stage), self.plan(stage), self.notes(stage))

    def module(self, stage: StageRecord) -> Any:
        """The tvm.IRModule after a stage; not to be changed, since the next call may return the same one."""
        if stage.module not in self._modules:
            while len(self._modules) >= _MODULES_KEPT:
                del self._modules[next(iter(self._modules))]
            self._modules[stage.module] = self._load_module(stage.module)
        return self._modules[stage.module]

    def plan(self, stage: StageRecord) -> ParameterPlan:
        """The parameter plan after a stage. UserError also where a pass's package is not installed."""
        path = self.folder / stage.plan
        try:
            return plan_from_json(_json_of(read_gzip(path), path))
        except UserError as error:
            raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from None

    def notes(self, stage: StageRecord) -> tuple[str, ...]:
        """All notes of the program after a stage."""
        notes: tuple[str, ...] = ()
        for record in self.index.stages[: stage.index + 1]:
            notes = (*notes[: record.kept_notes], *record.notes)
        return notes

    def find(self, text: str) -> StageRecord:
        """The stage of this index ("12"), label, unique name, or "last". UserError names what there is."""
        stages = self.index.stages
        if not stages:
            raise UserError(f"{self.folder}: the compile stopped before the import was done; there is no stage to show")
        if text == "last":
            return stages[-1]
        if text.isdecimal() and int(text) < len(stages):
            return stages[int(text)]
        found = [s for s in stages if s.label == text] or [s for s in stages if s.name == text]
        if len(found) == 1:
            return found[0]
        raise UserError(f"{self.folder}: {_not_found(text, found, stages)}")

    def context(self) -> Context:
        """What the passes were told about the compilation."""
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in self.index.target.items()}
        try:
            target = TargetDescription(**fields)  # type: ignore[arg-type]
        except TypeError as error:
            raise UserError(f"{self.folder / INDEX_FILE}: target is no target of this vamc-py ({error})") from None
        return Context(target, self.index.prefill, self.index.context, self.index.formats)

    def _load_module(self, name: str) -> Any:
        path = self.folder / name
        text = read_gzip(path)
        _json_of(text, path)  # TVM's own parser is given JSON only
        version = self.index.built_with.get("apache-tvm", "an unknown TVM")
        # load_json translates what older TVMs wrote, in Python: most of its time, for nothing with the same version.
        load = from_json_graph_str if version == tvm.__version__ else tvm.ir.load_json
        try:
            return load(text)
        except Exception as error:  # whatever TVM raises for a graph of nodes that it does not know
            raise UserError(
                f"{path}: TVM {tvm.__version__} cannot read this module, which was written with {version} "
                f"({_first_line(error)}); {_AGAIN}"
            ) from error


_AGAIN = "compile again with --dump-ir to make it anew"


def open_dump(path: Path) -> Dump:
    """The dump in a folder, or an artifact's. UserError, with what to do, for anything else."""
    folder = path if (path / INDEX_FILE).is_file() else path / ARTIFACT_DIR
    file = folder / INDEX_FILE
    if not file.is_file():
        raise UserError(f"{path}: {_no_dump(path)}")
    data = _json_of(_read(file), file)
    version = data.get("format_version") if isinstance(data, dict) else None
    if version is None:
        raise UserError(f"{file}: not the index of a dump of vamc-py; name the folder that --dump-ir wrote")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{file}: has the format version {version}, this vamc-py reads {FORMAT_VERSION}; "
            "use the vamc-py that wrote it, or compile again"
        )
    try:
        index = DumpIndex.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{file}: {place}: {first['msg']}; {_AGAIN}") from None
    return Dump(folder, index, _times(folder / TIMES_FILE))


def read_gzip(path: Path) -> str:
    """The text of a .gz file. UserError for one that is missing, cut short or damaged."""
    try:
        return gzip.decompress(path.read_bytes()).decode()
    except OSError as error:  # gzip.BadGzipFile is one as well
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {_AGAIN}") from None
    except (EOFError, zlib.error, UnicodeDecodeError):
        raise UserError(f"{path}: damaged or cut short; {_AGAIN}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: damaged: not UTF-8 text; {_AGAIN}") from None


def _json_of(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path}: damaged: not JSON; {_AGAIN}") from None


def _times(path: Path) -> dict[str, float]:
    """Seconds by label; empty without the file, which artifacts do not have."""
    if not path.is_file():
        return {}
    data = _json_of(_read(path), path)
    if not isinstance(data, dict) or not all(isinstance(seconds, int | float) for seconds in data.values()):
        raise UserError(f"{path}: damaged: not seconds by label; remove it, the dump can be read without")
    return {str(label): float(seconds) for label, seconds in data.items()}


def _no_dump(path: Path) -> str:
    if not path.exists():
        return "no such folder; name what --dump-ir wrote, or an artifact"
    if not path.is_dir():
        return "a file; name the folder that --dump-ir wrote, or an artifact"
    if (path / "manifest.json").is_file():
        return "an artifact without its IR; compile it again, this vamc-py keeps the IR in it"
    return "neither a dump nor an artifact; name a folder that --dump-ir wrote, or an artifact"


def _not_found(text: str, found: list[StageRecord], stages: tuple[StageRecord, ...]) -> str:
    if found:
        return f"{text} ran {len(found)} times; say which: {', '.join(stage.label for stage in found)}"
    labels = [stage.label for stage in stages]
    meant = did_you_mean(text, labels)
    listed = ", ".join(f"{stage.index} {stage.label}" for stage in stages)
    return f"no stage {text}{meant}; there are: {listed}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
