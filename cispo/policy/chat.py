"""Conversations to prompt tokens, and sampled tokens to text."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from cispo.errors import ConfigError
from cispo.types import Message

_END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_sentence>",
)
"""Tokens that end a turn or a text in the chat formats of common models."""


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Render a conversation up to and including the header of the assistant's next turn.

    Raises:
        ConfigError: The tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise ConfigError(
            f"policy.path: the tokenizer {tokenizer.name_or_path} has no chat template; put a "
            "chat_template.jinja beside its tokenizer.json"
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    ids: list[int] = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return ids


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end the assistant's turn: the tokenizer's own end and known ends it contains.

    Raises:
        ConfigError: There is none, so that no turn would ever end.
    """
    vocabulary = tokenizer.get_vocab()
    stops = {vocabulary[token] for token in _END_TOKENS if token in vocabulary}
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    if not stops:
        raise ConfigError(
            f"policy.path: the tokenizer {tokenizer.name_or_path} names no end of turn; set "
            "eos_token in its tokenizer_config.json"
        )
    return frozenset(stops)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of tokens, special ones such as `<think>` included, with spaces left as they are."""
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
