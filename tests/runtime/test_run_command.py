"""``vamc-py run`` on a model that is made up: what goes to which stream, and with which exit code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from support.fake_executor import FakeExecutor
from support.tiny_tokenizer import END, TEMPLATE, tiny_backend, tiny_tokenizer
from typer.testing import CliRunner

from vamc_py.cli import run as command
from vamc_py.errors import UserError
from vamc_py.runtime import model as model_module
from vamc_py.runtime.chat import ChatTemplate
from vamc_py.runtime.model import Model
from vamc_py.runtime.settings import GenerationConfig, SamplingSettings
from vamc_py.runtime.terminal import RunRequest, Terminal, run

VOCAB = tiny_backend().get_vocab_size()


class Counting(FakeExecutor):
    """Greedily answers every prompt with the same words."""

    def __init__(self, words: str = f"Paris.{END}", context: int = 200) -> None:
        super().__init__(VOCAB, context)
        self._words = tiny_tokenizer().encode_rendered(words)
        self._prompt_end = 0

    def feed(self, tokens: Sequence[int], *, slot: int, start: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        logits = super().feed(tokens, slot=slot, start=start)
        end = start + len(tokens)
        if len(tokens) > 1:  # only a prompt comes in several tokens
            self._prompt_end = end
        logits[self._words[(end - self._prompt_end) % len(self._words)]] = 40
        return logits


def model_of(executor: FakeExecutor | None = None, **config: Any) -> Model:
    tokenizer = tiny_tokenizer(**config)
    template = ChatTemplate(TEMPLATE, tokenizer.special_tokens)
    return Model(
        executor or Counting(), tokenizer, template, GenerationConfig(SamplingSettings(greedy=True), frozenset())
    )


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_to_text(request: RunRequest, *, typed: str = "", screen: bool = False, model: Model | None = None) -> Any:
    kind = Screen if screen else io.StringIO
    terminal = Terminal(io.StringIO(typed), kind(), kind())
    run(model or model_of(), request, terminal)
    return terminal.output.getvalue(), terminal.errors.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The command, talking to a made-up model."""
    monkeypatch.setattr(model_module, "load", lambda folder, **options: model_of())
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return app


def test_text_alone_goes_to_stdout(application: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: dict[str, Any] = {}

    def load(folder: Path, **options: Any) -> Model:
        loaded.update(options, folder=folder)
        return model_of()

    monkeypatch.setattr(model_module, "load", load)
    done = CliRunner().invoke(application, ["run", "x", "Capital?", "--context", "64", "--threads", "1"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "Paris.\n", "")
    assert loaded == {"folder": Path("x"), "context": 64, "threads": 1}


def test_statistics_on_request_and_on_a_terminal() -> None:
    request = RunRequest(prompt="Capital?")
    assert run_to_text(request) == ("Paris.\n", "")
    for output, errors in (
        run_to_text(request, screen=True),
        run_to_text(RunRequest(prompt="Capital?", verbose=True)),
    ):
        assert output == "Paris.\n"
        assert errors.startswith("[prompt ")
        assert errors.endswith("; ended by stop]\n")


def test_json_is_one_object(application: typer.Typer) -> None:
    done = CliRunner().invoke(application, ["run", "x", "Capital?", "--json", "--max-new-tokens", "2"])
    found = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert (found["finish_reason"], found["output_tokens"]) == ("length", 2)
    assert found["text"]
    assert "Paris.".startswith(found["text"])
    assert found["prompt_tokens"] > 5
    timings = found["timings"]
    assert set(timings) == {"prefill_s", "prefill_tokens_per_s", "decode_s", "decode_tokens_per_s"}
    assert all(value > 0 for value in timings.values())


def test_options_reach_the_model(application: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def chat(self: Model, message: str, **options: Any) -> Any:
        seen.update(options, message=message)
        return self.generate("x", max_new_tokens=1)

    monkeypatch.setattr(Model, "chat", chat)
    arguments = (
        "--max-new-tokens 9 --greedy --seed 1 --temperature 0.5 --top-k 3 --top-p 0.9 --min-p 0.1 "
        "--presence-penalty 0.2 --frequency-penalty 0.3 --repetition-penalty 1.1 --stop a --stop b --system s "
        "--no-thinking"
    )
    done = CliRunner().invoke(application, ["run", "x", "Hi", *arguments.split()])
    assert done.exit_code == 0, done.output
    assert seen == {
        "message": "Hi",
        "system": "s",
        "thinking": False,
        "max_new_tokens": 9,
        "greedy": True,
        "seed": 1,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.1,
        "stop": ["a", "b"],
    }


def test_raw_uses_no_template() -> None:
    model = model_of()
    output, _ = run_to_text(RunRequest(prompt="The capital", raw=True), model=model)
    assert output == "Paris.\n"
    reply = model.generate("The capital")
    assert reply.prompt_tokens == len(tiny_tokenizer().encode_rendered("The capital"))


def test_a_conversation_reads_lines() -> None:
    request = RunRequest(prompt="first", chat=True)
    output, errors = run_to_text(request, typed="second\n\n/reset\nthird\n/exit\nfourth\n")
    assert output == "Paris.\n" * 3
    assert errors == ""


def test_a_conversation_on_a_terminal_goes_on_after_an_overflow() -> None:
    model = model_of(Counting(context=60))
    request = RunRequest(prompt=None, chat=True)
    typed = "one\n" + "Paris is the capital " * 20 + "\n/reset\ntwo\n"
    output, errors = run_to_text(request, typed=typed, screen=True, model=model)
    assert output == "> Paris.\n> > > Paris.\n> "
    assert errors.splitlines()[0].startswith("/exit ends the conversation")
    assert "error: the conversation has" in errors
    with pytest.raises(UserError, match="the conversation has"):  # a script must notice
        run_to_text(request, typed=typed, model=model)


def test_a_text_that_fills_the_context_says_so() -> None:
    model = model_of(Counting("and on ", context=30))
    output, errors = run_to_text(RunRequest(prompt="go on", raw=True), model=model)
    assert output.startswith("and on and on")
    assert errors.startswith("The context is full")


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        ({"prompt": None}, "give a prompt, or --chat"),
        ({"prompt": "a", "chat": True, "raw": True}, "neither --raw nor --json"),
        ({"prompt": "a", "chat": True, "as_json": True}, "neither --raw nor --json"),
        ({"prompt": "a", "raw": True, "system": "s"}, "--raw uses no chat template"),
        ({"prompt": "a", "raw": True, "thinking": False}, "--raw uses no chat template"),
        ({"prompt": "a", "options": {"top_p": 3.0}}, "top_p is 3.0"),
    ],
)
def test_requests_that_make_no_sense(request_: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        RunRequest(**request_)


def test_input_that_is_not_unicode() -> None:
    terminal = Terminal(io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"), io.StringIO(), io.StringIO())
    with pytest.raises(UserError, match="not Unicode"):
        run(model_of(), RunRequest(prompt=None, chat=True), terminal)


def test_an_interrupt_ends_with_130(application: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Model:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_module, "load", interrupted)
    done = CliRunner().invoke(application, ["run", "x", "Hi"])
    assert done.exit_code == 130
    assert done.output == ""


def test_help_has_an_example(application: typer.Typer) -> None:
    done = CliRunner().invoke(application, ["run", "--help"], env={"COLUMNS": "200"})
    assert 'vamc-py run vacc_deploy/smollm2 "What is the capital of France?"' in done.stdout


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys, vamc_py.runtime, vamc_py.runtime.terminal, vamc_py.cli.run;"
        "print([m for m in ('torch', 'transformers', 'tvm', 'tvm_ffi') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
