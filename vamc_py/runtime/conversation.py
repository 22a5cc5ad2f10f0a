"""A conversation of several turns over one KV cache."""

from __future__ import annotations

import numpy as np

from vamc_py.errors import UserError
from vamc_py.runtime.chat import ChatTemplate, Message, starts_thinking, without_thinking
from vamc_py.runtime.generate import Generation, Result
from vamc_py.runtime.sequence import CachedSequence
from vamc_py.runtime.settings import SamplingSettings
from vamc_py.runtime.tokenizer import Tokenizer


class Conversation:
    """Messages so far, and the next reply. Make one with :meth:`Model.conversation`.

    Each turn renders the whole history; the cache saves the work for all tokens before the first that differs from
    what it holds. A turn enters the history, without its thinking, when the last piece of its reply was read.
    """

    def __init__(
        self,
        sequence: CachedSequence,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        settings: SamplingSettings,
        stop_ids: frozenset[int],
        *,
        system: str | None = None,
        thinking: bool | None = None,
    ) -> None:
        self._sequence = sequence
        self._tokenizer = tokenizer
        self._template = template
        self._settings = settings
        self._stop_ids = stop_ids
        self._beginning: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._thinking = thinking
        self._reply: Generation | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all turns; the system message and the settings stay, and the seed starts again."""
        self._give_up_reply()
        self.messages: list[Message] = list(self._beginning)
        self._random = np.random.default_rng(self._settings.seed)

    def say(self, message: str) -> Generation:
        """The reply to a message of the user.

        A reply to an earlier message that was not read to its end is given up. Where the conversation does not fit
        into the context any more, a UserError says so and the history stays as it was.
        """
        self._give_up_reply()
        messages = [*self.messages, {"role": "user", "content": message}]
        prompt = self._template.render(messages, thinking=self._thinking)
        ids = self._tokenizer.encode_rendered(prompt)
        if len(ids) > self._sequence.context:
            raise UserError(
                f"the conversation has {len(ids)} tokens with this message, but the context holds "
                f"{self._sequence.context}: send a shorter message, start again (/reset), or raise --context"
            )

        def remember(result: Result) -> None:
            reply = without_thinking(result.text, started=starts_thinking(prompt))
            self.messages = [*messages, {"role": "assistant", "content": reply}]

        self._reply = Generation(
            self._sequence,
            self._tokenizer,
            ids,
            self._settings,
            self._stop_ids,
            random=self._random,
            on_finish=remember,
        )
        return self._reply

    def _give_up_reply(self) -> None:
        if self._reply is not None:
            self._reply.close()
            self._reply = None
