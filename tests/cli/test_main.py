"""The frame of the command line: exit codes, error texts, and what starting it costs."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import typer

import vamc_py
from vamc_py import cli
from vamc_py.errors import ArtifactError, ConfigError, UserError

# What no command may load by merely being parsed.
HEAVY = ("torch", "transformers", "tvm", "tvm_ffi", "safetensors", "gguf", "huggingface_hub", "tokenizers", "numpy")


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "vamc_py.cli", *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(program(*arguments), capture_output=True, text=True, timeout=60)


@pytest.fixture
def run_failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int | str | None]:
    """Runs a command that raises what it is given, as the only command; the value is the exit code."""

    def run_it(error: BaseException) -> int | str | None:
        module = ModuleType("failing")

        def register(app: typer.Typer) -> None:
            @app.command()
            def fail() -> None:
                raise error

        module.register = register  # type: ignore[attr-defined]
        monkeypatch.setattr(cli, "COMMANDS", (module,))
        with pytest.raises(SystemExit) as left:
            cli.main(["fail"])
        return left.value.code

    return run_it


def test_version_is_the_packages() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout == f"vamc-py {vamc_py.__version__}\n"


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in cli.COMMANDS:
        name = command.__name__.rpartition(".")[2].removesuffix("_").replace("_", "-")
        assert f"\n  {name} " in done.stdout


def test_every_command_module_is_registered() -> None:
    modules = {name for _, name, _ in pkgutil.iter_modules(cli.__path__, f"{cli.__name__}.")}
    assert {command.__name__ for command in cli.COMMANDS} == modules - {f"{cli.__name__}.__main__"}


def test_unknown_command_exits_2_in_plain_text() -> None:
    done = run("melt")
    assert done.returncode == 2
    assert "No such command 'melt'" in done.stderr
    assert done.stderr.isascii()


@pytest.mark.parametrize("kind", [UserError, ArtifactError])
def test_user_error_is_one_plain_line(run_failing, capsys: pytest.CaptureFixture[str], kind: type[UserError]) -> None:
    assert run_failing(kind("mod.so is truncated: compile again")) == 2
    assert capsys.readouterr().err == "vamc-py: error: mod.so is truncated: compile again\n"


def test_config_error_names_every_fault(run_failing, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_failing(ConfigError(["a.yaml:1:1: name: missing", "a.yaml:4:9: backend.type: unknown"])) == 2
    assert capsys.readouterr().err.splitlines() == [
        "vamc-py: error: a.yaml:1:1: name: missing",
        "vamc-py: error: a.yaml:4:9: backend.type: unknown",
    ]


def test_interrupt_exits_130(run_failing) -> None:
    assert run_failing(KeyboardInterrupt()) == 130


def test_other_exceptions_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """They reach the interpreter, which prints the traceback and exits with 1."""
    module = ModuleType("failing")

    def register(app: typer.Typer) -> None:
        @app.command()
        def fail() -> None:
            raise ZeroDivisionError("a fault of ours")

    module.register = register  # type: ignore[attr-defined]
    monkeypatch.setattr(cli, "COMMANDS", (module,))
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        cli.main(["fail"])


def test_closed_pipe_is_met_in_silence() -> None:
    with subprocess.Popen(program("--help"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # long before the interpreter has started
        complaint = process.stderr.read()
        assert process.wait(60) == 1
    assert complaint == ""


def test_parsing_loads_nothing_heavy() -> None:
    code = (
        f"import sys; from vamc_py.cli import build_app; build_app(); print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
