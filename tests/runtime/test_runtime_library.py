"""What loading TVM's runtime brings into the process, and what it does not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.artifacts import write_artifact

from vamc_py.errors import UserError
from vamc_py.runtime import library


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "toy"
    write_artifact(folder)
    return folder


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


STEP = """
import sys
from pathlib import Path
from vamc_py.runtime.executor import Executor
print(Executor.load(Path(sys.argv[1])).feed([1, 2, 3], slot=0, start=0).shape)
"""


def test_stepping_imports_neither_compiler_nor_torch(artifact: Path) -> None:
    assert importlib.util.find_spec("torch") is not None  # else this test could not fail
    done = run(
        STEP + "print(sorted({name.partition('.')[0] for name in sys.modules} & set(sys.argv[2:])))",
        str(artifact), "tvm", "torch", "transformers", "onnx", "safetensors", "gguf",
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("(40,)\n[]\n", "")


@pytest.mark.parametrize("first", ["import tvm", "import torch", "import tvm, torch", "import tvm_ffi"])
def test_stepping_after_other_imports(artifact: Path, first: str) -> None:
    done = run(first + STEP, str(artifact))
    assert done.stdout == "(40,)\n", done.stderr


def test_compiler_and_torch_still_import_afterwards(artifact: Path) -> None:
    done = run(
        STEP + "import torch, tvm; print(tvm.runtime.from_dlpack(torch.arange(3.0)).numpy().tolist())", str(artifact)
    )
    assert done.stdout == "(40,)\n[0.0, 1.0, 2.0]\n", done.stderr


def test_relative_path(artifact: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEP, artifact.name], cwd=artifact.parent, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "(40,)\n", done.stderr


def test_missing_tvm_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="TVM's runtime library is not installed: pip install"):
        library._runtime_library()


def test_only_tvms_noise_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    with library._without_noise():
        os.write(2, b"[12:00:00] executable.cc:340: Warning: Scope Loaded:global\nsomething that matters\n")
    assert capfd.readouterr().err == "something that matters\n"


def test_stderr_is_put_back_after_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with library._without_noise():
            os.write(2, b"before\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"
