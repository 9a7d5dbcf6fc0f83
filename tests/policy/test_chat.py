import pytest

from cispo.errors import ConfigError
from cispo.policy.chat import decode, render_prompt, stop_token_ids
from cispo.policy.load import bundled_tokenizer, load_tokenizer
from cispo.types import Message


@pytest.fixture
def tokenizer():
    return load_tokenizer(str(bundled_tokenizer("bpe1024")))


def test_a_prompt_ends_with_the_header_of_the_next_turn(tokenizer):
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="2+2?")]
    ids = render_prompt(tokenizer, messages)
    assert decode(tokenizer, ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n2+2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert all(isinstance(token, int) for token in ids)


def test_sampled_text_keeps_its_thoughts_and_spaces(tokenizer):
    text = "<think>a , b</think> x ."
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert decode(tokenizer, ids) == text
    assert ids[0] == tokenizer.convert_tokens_to_ids("<think>")


def test_a_turn_ends_with_the_end_of_the_turn_or_of_the_text(tokenizer):
    ends = {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}
    assert stop_token_ids(tokenizer) == ends


def test_a_tokenizer_without_a_chat_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"chat_template\.jinja"):
        render_prompt(tokenizer, [Message(role="user", content="2+2?")])
