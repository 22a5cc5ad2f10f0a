"""``vamc-py run``: talk to an artifact."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("run")(_run)


def _run(
    artifact: Annotated[Path, typer.Argument(help="Folder that vamc-py compile wrote.")],
    prompt: Annotated[str | None, typer.Argument(help="What to say; with --chat the first message.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens of output.  [default: the context]")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the most likely token.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the random choice: the same seed, the same text.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Spread of the random choice; 0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Choose among the K most likely tokens; 0: off.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Choose among the tokens that hold this probability.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Least probability, relative to the most likely token.")] = None,
    presence_penalty: Annotated[float | None, typer.Option(help="Against tokens that the output has.")] = None,
    frequency_penalty: Annotated[float | None, typer.Option(help="The same, for each time.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Against tokens of prompt and output.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the output; may be given again.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is, without chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="The template's enable_thinking.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Hold a conversation; /exit ends, /reset forgets it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
    context: Annotated[int | None, typer.Option(help="Most tokens of prompt and output.  [default: compiled]")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads.  [default: VAMC_NUM_THREADS, or all cores]")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print statistics to stderr in any case.")] = False,
) -> None:
    """Stream the answer of a compiled model.

    Sampling settings that are not given come from the checkpoint's generation_config.json.

    Example: vamc-py run vacc_deploy/smollm2 "What is the capital of France?" --greedy --max-new-tokens 64
    """
    from vamc_py.runtime.model import load
    from vamc_py.runtime.settings import SamplingOptions
    from vamc_py.runtime.terminal import RunRequest, Terminal, run

    options = SamplingOptions(
        greedy=greedy or None,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop or None,
        max_new_tokens=max_new_tokens,
    )
    request = RunRequest(
        prompt=prompt,
        chat=chat,
        raw=raw,
        as_json=as_json,
        verbose=verbose,
        system=system,
        thinking=thinking,
        options=options,
    )
    try:
        run(load(artifact, context=context, threads=threads), request, Terminal(sys.stdin, sys.stdout, sys.stderr))
    except KeyboardInterrupt:
        raise typer.Exit(_EXIT_INTERRUPTED) from None
