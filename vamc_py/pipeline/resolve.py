"""From a configuration to the passes that run: the default list, changed as the YAML's ``passes`` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vamc_py.config import LoadedConfig
from vamc_py.config.faults import did_you_mean
from vamc_py.config.passes import PassChange
from vamc_py.errors import ConfigError, UserError
from vamc_py.pipeline.base import STAGES, Pass
from vamc_py.pipeline.default import default_passes
from vamc_py.pipeline.pass_options import make_pass, option_faults, option_values
from vamc_py.pipeline.pipeline_check import LAST, PipelineFault, pipeline_faults
from vamc_py.pipeline.registry import OWN_ORIGIN, Registered, find_pass, load_pass_file
from vamc_py.pipeline.runner import Planned, labels


def resolve_pipeline(loaded: LoadedConfig) -> tuple[Planned, ...]:
    """The pipeline of a configuration, checked. ConfigError, with the place of every fault, for one that cannot run."""
    try:
        default = default_passes(loaded.config)
    except UserError as error:
        raise ConfigError([loaded.fault("backend.type", str(error))]) from None
    names = labels([one.name for one in default])
    editing = _Editing([_Run(label, one, OWN_ORIGIN) for label, one in zip(names, default, strict=True)])
    faults = []
    for index, change in enumerate(loaded.config.passes):
        path = f"passes[{index}]"
        try:
            faults += [loaded.fault(f"{path}.{key}", message) for key, message in editing.apply(index, change)]
        except _ChangeError as error:
            faults.append(loaded.fault(f"{path}.{error.key}", error.message))
    runs = editing.runs
    found = () if faults else pipeline_faults([run.one for run in runs], loaded.config.target, whole=True)
    faults += [loaded.fault(editing.path_of(fault), fault.message) for fault in found]
    if faults:
        raise ConfigError(faults)
    final = labels([run.one.name for run in runs])
    return tuple(
        Planned(run.one, label, run.origin, None if run.change is None else loaded.place(f"passes[{run.change}]"))
        for run, label in zip(runs, final, strict=True)
    )


@dataclass(eq=False)
class _Run:
    """A pass of the list while it is changed."""

    label: str  # by which the changes name it; those of the default list keep theirs
    one: Pass
    origin: str
    change: int | None = None  # the last entry of ``passes`` that spoke of it


class _ChangeError(Exception):
    """What is wrong with an entry, and at which of its keys."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key, self.message = key, message


class _Editing:
    def __init__(self, runs: list[_Run]) -> None:
        self.runs = runs
        self.gone: dict[str, int] = {}  # name of a pass that was switched off -> the entry that did it
        self.cleared = False
        self._counts = Counter(run.one.name for run in runs)
        self._files: dict[str, Registered] = {}

    def apply(self, index: int, change: PassChange) -> Iterator[tuple[str, str]]:
        """Makes one change; yields (key, what is wrong) of its options. _ChangeError for everything else."""
        if change.clear:
            self.runs, self.cleared = [], True
            return
        run = None if self.cleared else self._existing(change)
        if change.off:
            self._switch_off(index, change, run)
        elif run is not None and not change.again:
            yield from self._change(index, change, run)
        else:
            yield from self._add(index, change, run)

    def _change(self, index: int, change: PassChange, run: _Run) -> Iterator[tuple[str, str]]:
        if change.options is None and change.after is None and change.before is None:
            raise _ChangeError(
                _subject(change), f"{run.label} runs already; say options, after, before or off, or again: true"
            )
        options = {**option_values(run.one), **(change.options or {})}
        faults = list(_option_faults(type(run.one), options))
        yield from faults
        if not faults:
            run.one, run.change = _made(type(run.one), options), index
            if change.after is not None or change.before is not None:
                self._move(change, run)

    def _add(self, index: int, change: PassChange, run: _Run | None) -> Iterator[tuple[str, str]]:
        """``run`` is what runs already of the pass."""
        if run is None and change.again:
            raise _ChangeError("again", f"{change.name or change.file} does not run yet; remove again")
        registered = self._registered(change) if run is None else Registered(type(run.one), run.origin)
        faults = list(_option_faults(registered.kind, change.options or {}))
        yield from faults
        if not faults:
            self._insert(change, self._new(index, _made(registered.kind, change.options or {}), registered.origin))

    def path_of(self, fault: PipelineFault) -> str:
        """The key of the entry that led to a fault of the whole list."""
        concerned = [self.runs[fault.index]] if fault.index is not None else []
        concerned += [run for run in self.runs if run.one.name in fault.others]
        entries = [run.change for run in concerned if run.change is not None]
        entries += [self.gone[name] for name in fault.others if name in self.gone]
        return f"passes[{entries[0]}]" if entries else "passes"

    def _existing(self, change: PassChange) -> _Run | None:
        """The run that an entry speaks of; None where the pass is not in the list."""
        if change.name is not None:
            return self._find("name", change.name, any_run=bool(change.again))
        registered = self._registered(change)
        same = [run for run in self.runs if run.one.name == registered.kind.name]
        if same and type(same[0].one) is not registered.kind:
            raise _ChangeError(
                "file",
                f"its pass has the name of {same[0].one.name} ({same[0].origin}), which runs already; switch that off "
                "first, or choose another name",
            )
        if len(same) > 1 and not change.again:
            raise _ChangeError("file", f"runs {len(same)} times; name one of {', '.join(run.label for run in same)}")
        return same[0] if same else None

    def _find(self, key: str, text: str, *, any_run: bool = False) -> _Run | None:
        by_label = [run for run in self.runs if run.label == text]
        if by_label:
            return by_label[0]
        name, numbered, _ = text.partition("#")
        by_name = [run for run in self.runs if run.one.name == name]
        if by_name and (numbered or (len(by_name) > 1 and not any_run)):
            which = ", ".join(run.label for run in by_name)
            none = f"no {text} runs here" if numbered else f"{name} runs {len(by_name)} times"
            raise _ChangeError(key, f"{none}; name one of {which}")
        return by_name[0] if by_name else None

    def _neighbour(self, key: str, text: str) -> _Run:
        run = self._find(key, text)
        if run is None and text in self.gone:
            raise _ChangeError(key, f"{text} was switched off above; name one that runs")
        if run is None:
            known = did_you_mean(text, [run.label for run in self.runs])
            raise _ChangeError(
                key, f"no {text} runs here{known or '; `vamc-py passes --pipeline CONFIG` shows what does'}"
            )
        return run

    def _registered(self, change: PassChange) -> Registered:
        key = _subject(change)
        try:
            if change.file is None:
                return find_pass(change.name or "")
            if change.file not in self._files:
                self._files[change.file] = load_pass_file(change.file)
            return self._files[change.file]
        except UserError as error:
            raise _ChangeError(key, str(error)) from error

    def _switch_off(self, index: int, change: PassChange, run: _Run | None) -> None:
        if run is None:
            known = did_you_mean(change.name or "", [run.label for run in self.runs])
            raise _ChangeError(
                "name", f"{change.name} does not run, so it cannot be switched off{known or '; remove the entry'}"
            )
        self.runs.remove(run)
        self.gone[run.one.name] = index

    def _new(self, index: int, one: Pass, origin: str) -> _Run:
        count = self._counts[one.name] = self._counts[one.name] + 1
        runs_already = any(run.one.name == one.name for run in self.runs)
        return _Run(f"{one.name}#{count}" if runs_already else one.name, one, origin, index)

    def _insert(self, change: PassChange, run: _Run) -> None:
        if change.after is not None or change.before is not None:
            at = self._place(change)
        else:
            at = len(self.runs) if self.cleared else self._end_of_stage(run.one)
        self.runs.insert(at, run)

    def _move(self, change: PassChange, run: _Run) -> None:
        key = "after" if change.after is not None else "before"
        if self._neighbour(key, change.after or change.before or "") is run:
            raise _ChangeError(key, f"{run.label} cannot stand beside itself")
        self.runs.remove(run)
        self.runs.insert(self._place(change), run)

    def _place(self, change: PassChange) -> int:
        if change.after is not None:
            return self.runs.index(self._neighbour("after", change.after)) + 1
        return self.runs.index(self._neighbour("before", change.before or ""))

    def _end_of_stage(self, one: Pass) -> int:
        for at, run in enumerate(self.runs):
            later = not run.one.anywhere and STAGES.index(run.one.stage) > STAGES.index(one.stage)
            if later or (run.one.name == LAST and one.name != LAST):
                return at
        return len(self.runs)


def _subject(change: PassChange) -> str:
    return "file" if change.file is not None else "name"


def _option_faults(kind: type[Pass], options: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    return ((f"options.{name}", message) for name, message in option_faults(kind, options))


def _made(kind: type[Pass], options: Mapping[str, object]) -> Pass:
    try:
        return make_pass(kind, options)
    except UserError as error:
        raise _ChangeError("options", str(error)) from None
