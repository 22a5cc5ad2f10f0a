"""The CPU's features by LLVM's names, from what Linux says in /proc/cpuinfo."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vamc_py.errors import ArtifactError

CPUINFO = Path("/proc/cpuinfo")

# Most names differ by punctuation only (avx512vnni, avx512_vnni; sse4.2, sse4_2). These differ more.
_KERNEL_NAME = {
    "64bit": "lm",
    "bmi": "bmi1",
    "crc32": "sse42",
    "lzcnt": "abm",
    "pclmul": "pclmulqdq",
    "prfchw": "3dnowprefetch",
    "rdrnd": "rdrand",
    "sahf": "lahflm",
    "sha": "shani",
    "sse3": "pni",
}


def _plain(name: str) -> str:
    return name.translate(str.maketrans("", "", "-_."))


def _field(key: str, path: Path) -> str:
    """The value of the first line ``key : value``; empty when there is none."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read this machine's CPU features ({error.strerror}); "
                            "the runtime needs Linux on x86-64") from error  # fmt: skip
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def cpu_name(path: Path = CPUINFO) -> str:
    """The CPU's name as its maker gives it."""
    return _field("model name", path) or "unknown"


def missing_features(wanted: Iterable[str], path: Path = CPUINFO) -> list[str]:
    """Those of ``wanted`` (LLVM names, such as ``avx512vnni``) that this machine's CPU lacks, in the given order.

    Raises ArtifactError where the features cannot be read.
    """
    present = {_plain(flag) for flag in _field("flags", path).split()}
    return [name for name in wanted if _KERNEL_NAME.get(_plain(name), _plain(name)) not in present]
