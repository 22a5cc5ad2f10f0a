"""Which kernels (PrimFuncs) of two modules are the same, whatever they are called, and how the others differ."""

from __future__ import annotations

from collections import defaultdict
from difflib import SequenceMatcher
from typing import Any, Literal

from tvm_ffi import structural_equal, structural_hash

from vamc_py.inspect.bindings import dimensions_text, short_dtype
from vamc_py.inspect.kernel_source import kernel_names, tir_text
from vamc_py.inspect.report_model import DiffHunk, DiffLine, FunctionChange
from vamc_py.pipeline.program import OPERATOR_ATTRIBUTE

_CONTEXT = 2  # unchanged lines shown before and behind changed ones


class KernelDiff:
    """The kernels of two modules. ``renamed`` has the name after by the name before of those that are the same."""

    def __init__(self, before: Any, after: Any) -> None:
        self._modules = (before, after)
        self._before, self._after = _kernels(before), _kernels(after)
        self.renamed = {name: name for name in self._before if self._equal(name, name)}
        self._pair_renamed()

    @property
    def names(self) -> dict[str, str]:
        """For the kernels before a name that is that of the same kernel after, and of no other kernel after."""
        taken = set(self.renamed.values())
        others = {name: f"{name} before" for name in self._before if name not in self.renamed and name in taken}
        return {old: new for old, new in (self.renamed | others).items() if old != new}

    def changes(self) -> list[FunctionChange]:
        """The kernels that changed, that are gone, and that are new, each by name."""
        same = set(self.renamed.values())
        old = {name: kernel for name, kernel in self._before.items() if name not in self.renamed}
        new = {name: kernel for name, kernel in self._after.items() if name not in same}
        changes = [
            FunctionChange(name=name, status="changed", hunks=self._text_hunks(name)) for name in old if name in new
        ]
        changes += [_whole(name, kernel, "removed") for name, kernel in old.items() if name not in new]
        return changes + [_whole(name, kernel, "added") for name, kernel in new.items() if name not in old]

    def _text_hunks(self, name: str) -> tuple[DiffHunk, ...]:
        texts = [tir_text(module, name).splitlines() for module in self._modules]
        hunks = text_hunks(*texts)
        # What TVMScript does not print, such as an annotation of a node, may be all that differs.
        return hunks or (DiffHunk(title="kernel, in what TVMScript does not show", repeats="", lines=()),)

    def _equal(self, x: str, y: str) -> bool:
        return y in self._after and bool(structural_equal(self._before[x], self._after[y]))

    def _pair_renamed(self) -> None:
        taken = set(self.renamed.values())
        by_hash: dict[int, list[str]] = defaultdict(list)
        for name, kernel in self._after.items():
            if name not in taken:
                by_hash[structural_hash(kernel)].append(name)
        for name, kernel in self._before.items():
            if name in self.renamed or not by_hash:
                continue
            alike = by_hash[structural_hash(kernel)]
            found = next((other for other in alike if self._equal(name, other)), None)
            if found is not None:
                self.renamed[name] = found
                alike.remove(found)


def kernel_summary(name: str, kernel: Any) -> str:
    """``kernel rms_norm_1024(x: f32[n, 1024], w: f32[1024], y: f32[n, 1024]) for rms_norm``."""
    parameters = ", ".join(f"{parameter.name}: {_type(parameter.ty)}" for parameter in kernel.params)
    operator = (kernel.attrs or {}).get(OPERATOR_ATTRIBUTE)
    return f"kernel {name}({parameters})" + (f" for {operator}" if operator else "")


def _type(kind: Any) -> str:
    if hasattr(kind, "shape"):
        return short_dtype(str(kind.dtype)) + dimensions_text(kind.shape)
    return short_dtype(str(kind.dtype)) if hasattr(kind, "dtype") else str(kind)


def _kernels(module: Any) -> dict[str, Any]:
    """The kernels by name, in the order of names, without their names inside."""
    return {name: module[name].without_attr("global_symbol") for name in kernel_names(module)}


def _whole(name: str, kernel: Any, status: Literal["added", "removed"]) -> FunctionChange:
    line = DiffLine(kind=status, text=kernel_summary(name, kernel))
    return FunctionChange(name=name, status=status, hunks=(DiffHunk(title="kernel", repeats="", lines=(line,)),))


def text_hunks(old: list[str], new: list[str]) -> tuple[DiffHunk, ...]:
    """The lines of two texts that differ."""
    hunks = []
    for group in SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(_CONTEXT):
        lines: list[DiffLine] = []
        for tag, a, b, c, d in group:
            if tag == "equal":
                lines += [DiffLine(kind="same", text=text) for text in new[c:d]]
            else:
                lines += [DiffLine(kind="removed", text=text) for text in old[a:b]]
                lines += [DiffLine(kind="added", text=text) for text in new[c:d]]
        hunks.append(DiffHunk(title=f"kernel, line {group[0][3] + 1}", repeats="", lines=tuple(lines)))
    return tuple(hunks)
