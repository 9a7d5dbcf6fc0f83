"""The words of an episode in the format of the policy's chat template."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from cispo.errors import ConfigError
from cispo.policy.chat import decode, render_prompt
from cispo.types import Task

_POLICY, _TOOL = "policy words", "tool words"


class ChatWording:
    """A chat template as `rollout.episode.Wording`.

    What a program printed is encoded as mere text, so that it cannot end its own turn or speak in
    another role by printing what stands for a special token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Look up what the template puts between two turns of the policy.

        Raises:
            ConfigError: The template knows no role of tools.
        """
        self._tokenizer = tokenizer
        turns = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": _POLICY},
            {"role": "tool", "content": _TOOL},
        ]
        text = str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        _, policy, rest = text.rpartition(_POLICY)
        before, tool, after = rest.partition(_TOOL)
        if not policy or not tool:
            raise ConfigError(
                f"policy.path: the chat template of {tokenizer.name_or_path} leaves out the turns "
                "of tools; agents need one that renders the role 'tool'"
            )
        self._before = self._encode(before)
        self._after = self._encode(after)

    def prompt(self, task: Task) -> list[int]:
        """Return the tokens up to where the policy begins to speak."""
        return render_prompt(self._tokenizer, task.messages)

    def text(self, token_ids: Sequence[int], *, has_ended: bool) -> str:
        """Return what the policy said; a token that ended the turn is no part of it."""
        return decode(self._tokenizer, token_ids[:-1] if has_ended else token_ids)

    def results(self, texts: Sequence[str], last_token: int) -> list[int]:
        """Return the tokens between two turns of the policy, after the last that it sampled."""
        before = self._before[1:] if self._before[:1] == [last_token] else self._before
        said = self._encode("\n\n".join(texts), split_special_tokens=True)
        return [*before, *said, *self._after]

    def _encode(self, text: str, *, split_special_tokens: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=split_special_tokens
        )
        return ids
