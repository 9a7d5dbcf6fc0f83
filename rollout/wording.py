"""The words of an episode in the format of the policy's chat template."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from cispo.policy.chat import Tool, decode, render_continuation, render_prompt
from cispo.types import Message, Task


class ChatWording:
    """A chat template as `rollout.episode.Wording`.

    Args:
        tokenizer: With a chat template.
        tools: Functions that the template lists, see `cispo.policy.chat.render_prompt`; none where
            the task's own words name them.

    Raises:
        ConfigError: The template cannot show the policy what tools answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tools: Sequence[Tool] = ()) -> None:
        self._tokenizer = tokenizer
        self._tools = tools
        self.results([Message(role="tool", content="ok", name="tool")])  # refused before it is used

    def prompt(self, task: Task) -> list[int]:
        """Return the tokens up to where the policy begins to speak."""
        return render_prompt(self._tokenizer, task.messages, tools=self._tools)

    def text(self, token_ids: Sequence[int], *, has_ended: bool) -> str:
        """Return what the policy said; a token that ended the turn is no part of it."""
        return decode(self._tokenizer, token_ids[:-1] if has_ended else token_ids)

    def results(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens between two turns of the policy, after the last that it sampled."""
        return render_continuation(self._tokenizer, messages)
