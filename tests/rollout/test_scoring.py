"""Scores of given tokens are those of the learner."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cispo.policy.hf import TransformersPolicy
from cispo.policy.lightning.model import LightningModel
from rollout.scoring import score_tokens
from tests.rollout.engines import model

TOKENS = [(7 * i * i + 3) % 70 for i in range(40)]


def llama() -> TransformersPolicy:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=70,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
    )
    return TransformersPolicy(AutoModelForCausalLM.from_config(config), logprob_chunk=16)


@pytest.mark.parametrize("make", [model, llama])
@pytest.mark.parametrize("count", [2, 40])
def test_scores_are_the_learners_logprobs(make, count: int, monkeypatch) -> None:
    monkeypatch.setattr("rollout.scoring._POSITIONS", 16)
    policy: LightningModel | TransformersPolicy = make()
    ids = torch.tensor(TOKENS[:count])
    boundaries = torch.tensor([0, count]).int()
    expected = policy(ids, boundaries, torch.arange(count) > 0).logprobs[1:]
    scores = score_tokens(policy, TOKENS[:count], 3)
    assert scores.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert len(scores.top_logprobs) == count - 1
    for token, logprob, top in zip(
        TOKENS[1:count], scores.logprobs, scores.top_logprobs, strict=True
    ):
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)
        assert dict(top).get(token, logprob) == logprob
        assert top[0][1] >= logprob


def test_one_token_has_nothing_before_it() -> None:
    scores = score_tokens(model(), [5], 2)
    assert list(scores.logprobs) == list(scores.top_logprobs) == []


def test_the_likeliest_tokens_are_not_computed_unasked() -> None:
    assert score_tokens(model(), TOKENS, 0).top_logprobs == []
