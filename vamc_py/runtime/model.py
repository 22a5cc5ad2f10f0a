"""A compiled model with its tokenizer: text in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from vamc_py.artifact.manifest import TOKENIZER_DIR, VaccManifest
from vamc_py.artifact.verify import read_any_manifest
from vamc_py.errors import UserError
from vamc_py.runtime.chat import ChatTemplate, Message
from vamc_py.runtime.conversation import Conversation
from vamc_py.runtime.generate import Generation
from vamc_py.runtime.sequence import CachedSequence, Feeder
from vamc_py.runtime.settings import GenerationConfig, SamplingOptions, SamplingSettings
from vamc_py.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from vamc_py.runtime.simulation import Simulation

GENERATION_CONFIG_FILE = "generation_config.json"


class Model:
    """Generates text on slot 0 of an executor. Make one with :func:`load`.

    Settings that are not given come from the checkpoint's generation_config.json; a wrong one is a UserError, as is
    a prompt that does not fit into the context. Texts may be read by turns; the KV cache is shared by all of them and
    used for whatever part of a prompt it holds. ``simulation`` is not None where no real device computes.
    """

    def __init__(
        self,
        executor: Feeder,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        defaults: GenerationConfig,
        simulation: Simulation | None = None,
    ) -> None:
        self.executor = executor
        self.tokenizer = tokenizer
        self.defaults = defaults
        self.simulation = simulation
        self.stop_ids = defaults.stop_ids | tokenizer.stop_ids
        self.sequence = CachedSequence(executor)
        self._template = template

    @property
    def template(self) -> ChatTemplate:
        """The checkpoint's chat template; a UserError where it has none."""
        if self._template is None:
            raise UserError("this model has no chat template: give a plain prompt with --raw (Python: model.generate)")
        return self._template

    def settings(self, **options: Unpack[SamplingOptions]) -> SamplingSettings:
        """The default settings with the given ones instead."""
        return self.defaults.settings.override(options)

    def generate(self, prompt: str | Sequence[int], **options: Unpack[SamplingOptions]) -> Generation:
        """Continue a plain text, or token ids, without the chat template."""
        ids = self.tokenizer.encode_raw(prompt) if isinstance(prompt, str) else list(prompt)
        return Generation(self.sequence, self.tokenizer, ids, self.settings(**options), self.stop_ids)

    def chat(
        self,
        message: str | Sequence[Message],
        *,
        system: str | None = None,
        thinking: bool | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Generation:
        """Answer one message, or the last of a list of messages ({"role": …, "content": …}).

        ``system`` goes before them; ``thinking`` is the template's enable_thinking (None: the model's default).
        """
        messages = [{"role": "user", "content": message}] if isinstance(message, str) else list(message)
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        ids = self.tokenizer.encode_rendered(self.template.render(messages, thinking=thinking))
        return Generation(self.sequence, self.tokenizer, ids, self.settings(**options), self.stop_ids)

    def conversation(
        self, *, system: str | None = None, thinking: bool | None = None, **options: Unpack[SamplingOptions]
    ) -> Conversation:
        """A conversation of several turns; arguments as for :meth:`chat`."""
        return Conversation(
            self.sequence,
            self.tokenizer,
            self.template,
            self.settings(**options),
            self.stop_ids,
            system=system,
            thinking=thinking,
        )


def load(
    folder: str | PathLike[str],
    *,
    context: int | None = None,
    threads: int | None = None,
    verify: bool | None = None,
) -> Model:
    """Load an artifact folder for use by one sequence; one of the vacc target runs in simulation.

    ``context`` is the most tokens of prompt and output together (None: what was compiled), ``threads`` the number of
    threads (None: the variable VAMC_NUM_THREADS, else all cores), ``verify`` whether to check the parameters' hashes
    (None: on first load).
    Raises ArtifactError where the folder is no artifact, is damaged, or is not for this machine.
    """
    path = Path(folder)
    executor: Feeder
    simulation = None
    # What loads TVM's runtime is imported when a model is really wanted.
    if isinstance(read_any_manifest(path), VaccManifest):
        from vamc_py.runtime.vacc import VaccExecutor

        executor = simulated = VaccExecutor.load(path, context=context, threads=threads, verify=verify)
        simulation = simulated.dies.simulation
    else:
        from vamc_py.runtime.executor import Executor

        executor = Executor.load(path, slots=1, context=context, threads=threads, verify=verify)
    texts = path / TOKENIZER_DIR
    tokenizer = Tokenizer.read(texts)
    return Model(
        executor,
        tokenizer,
        ChatTemplate.read(texts, tokenizer),
        GenerationConfig.read(texts / GENERATION_CONFIG_FILE),
        simulation,
    )
