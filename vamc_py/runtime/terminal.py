"""What ``vamc-py run`` does with a loaded model: streams a reply, holds a conversation, or prints JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from vamc_py.errors import UserError
from vamc_py.runtime.conversation import Conversation
from vamc_py.runtime.generate import Generation, Result
from vamc_py.runtime.model import Model
from vamc_py.runtime.settings import SamplingOptions, SamplingSettings

if TYPE_CHECKING:
    from vamc_py.runtime.simulation import Simulation

EXIT_COMMAND = "/exit"
RESET_COMMAND = "/reset"


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What to run. A combination that makes no sense, or a setting out of range, is a UserError."""

    prompt: str | None
    chat: bool = False
    raw: bool = False
    as_json: bool = False
    verbose: bool = False
    system: str | None = None
    thinking: bool | None = None
    options: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        if self.prompt is None and not self.chat:
            raise UserError('give a prompt, or --chat for a conversation: vamc-py run ARTIFACT "Hello"')
        if self.chat and (self.raw or self.as_json):
            raise UserError("--chat goes with neither --raw nor --json")
        if self.raw and (self.system is not None or self.thinking is not None):
            raise UserError("--raw uses no chat template, so --system and --thinking have no place in it")
        SamplingSettings().override(self.options)  # a wrong value is said before the model is loaded


@dataclass(frozen=True)
class Terminal:
    """The three streams. Statistics go to ``errors``, so that ``output`` holds the text alone."""

    input: TextIO
    output: TextIO
    errors: TextIO

    @property
    def interactive(self) -> bool:
        """Whether a person reads the output here."""
        return self.output.isatty() and self.errors.isatty()

    def write(self, text: str) -> None:
        """Show text at once."""
        self.output.write(text)
        self.output.flush()

    def note(self, text: str) -> None:
        """A line beside the text."""
        self.errors.write(text + "\n")
        self.errors.flush()


def run(model: Model, request: RunRequest, terminal: Terminal) -> None:
    """Do what the request says; the first message of a conversation is the prompt, if there is one."""
    if model.simulation is not None:
        terminal.note(model.simulation.notice())
        if request.verbose:
            terminal.note(model.simulation.estimate())
    if request.chat:
        _converse(model, request, terminal)
    else:
        reply = _single(model, request)
        if request.as_json:
            terminal.write(json.dumps(as_json(reply.result(), model.simulation), ensure_ascii=False) + "\n")
        else:
            _stream(reply, terminal, statistics=request.verbose or terminal.interactive)


def as_json(result: Result, simulation: Simulation | None = None) -> dict[str, Any]:
    """The object that ``--json`` prints. With a simulation it names the model, and times are those of simulating."""
    timings = result.timings
    simulated = {} if simulation is None else {"simulation": {"device": simulation.device, "dies": simulation.dies}}
    return {
        **simulated,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "prompt_tokens": timings.prompt_tokens,
        "output_tokens": len(result.output_ids),
        "timings": {
            "prefill_s": timings.prefill_s,
            "prefill_tokens_per_s": timings.prefill_tokens_per_s,
            "decode_s": timings.decode_s,
            "decode_tokens_per_s": timings.decode_tokens_per_s,
        },
    }


def _single(model: Model, request: RunRequest) -> Generation:
    assert request.prompt is not None
    if request.raw:
        return model.generate(request.prompt, **request.options)
    return model.chat(request.prompt, system=request.system, thinking=request.thinking, **request.options)


def _converse(model: Model, request: RunRequest, terminal: Terminal) -> None:
    conversation = model.conversation(system=request.system, thinking=request.thinking, **request.options)
    statistics = request.verbose or terminal.interactive
    if terminal.interactive:
        terminal.note(f"{EXIT_COMMAND} ends the conversation, {RESET_COMMAND} starts it again.")
    if request.prompt is not None:
        _turn(conversation, request.prompt, terminal, statistics)
    while (message := _read_line(terminal)) not in (None, EXIT_COMMAND):
        if message == RESET_COMMAND:
            conversation.reset()
        elif message:
            _turn(conversation, message, terminal, statistics)


def _turn(conversation: Conversation, message: str, terminal: Terminal, statistics: bool) -> None:
    try:
        _stream(conversation.say(message), terminal, statistics=statistics)
    except UserError as error:
        if not terminal.interactive:
            raise
        terminal.note(f"error: {error}")  # the person can send a shorter message, or reset


def _read_line(terminal: Terminal) -> str | None:
    """The next line without white space around it; None at the end of the input."""
    if terminal.interactive:
        terminal.write("> ")
    try:
        line = terminal.input.readline()
    except UnicodeDecodeError as error:
        raise UserError(f"the input is not Unicode: {error}") from None
    return line.strip() if line else None


def _stream(reply: Generation, terminal: Terminal, *, statistics: bool) -> None:
    try:
        for piece in reply:
            terminal.write(piece)
    finally:  # on Ctrl-C too, so that the shell's prompt stands on a line of its own
        terminal.write("\n")
    result = reply.result()
    if result.finish_reason == "context":
        terminal.note("The context is full, so the text ends here. Raise --context, or compile with a longer one.")
    if statistics:
        terminal.note(_statistics(result))


def _statistics(result: Result) -> str:
    timings = result.timings
    computed = timings.prompt_tokens - timings.cached_tokens
    cached = f" ({timings.cached_tokens} more were in the cache)" if timings.cached_tokens else ""
    rate = timings.decode_tokens_per_s
    return (
        f"[prompt {computed} tokens in {timings.prefill_s:.2f} s{cached}, {timings.prefill_tokens_per_s:.1f} tokens/s; "
        f"output {len(result.output_ids)} tokens"
        + (f", {rate:.1f} tokens/s" if rate is not None else "")
        + f"; ended by {result.finish_reason}]"
    )
