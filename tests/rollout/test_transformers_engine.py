"""Rows of different lengths in one batch of a transformers model."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MiniMaxConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
)

from cispo.policy.hf import TransformersPolicy
from rollout.backends.base import Finished, Request, StopRules
from rollout.backends.padded import PaddedDecoder, can_pad
from rollout.backends.transformers import TransformersBackend
from rollout.backends.turns import TurnDecoder
from tests.rollout.engines import STOP, long_prompt, make_request

SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1000,
    "initializer_range": 0.3,
}
PADDED = {
    "llama": LlamaConfig(**SIZES),
    "qwen2-moe": Qwen2MoeConfig(
        **SIZES, moe_intermediate_size=16, shared_expert_intermediate_size=16, num_experts=4
    ),
    "gpt2": GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3),
}
TAKING_TURNS = {
    "sliding window": MistralConfig(**SIZES, sliding_window=40),
    "hybrid": MiniMaxConfig(
        **SIZES,
        head_dim=16,
        num_local_experts=2,
        layer_types=["full_attention", "linear_attention"],
    ),
}


def policy(config: PreTrainedConfig) -> TransformersPolicy:
    torch.manual_seed(0)
    return TransformersPolicy(AutoModelForCausalLM.from_config(config), logprob_chunk=64).eval()


def backend(
    config: PreTrainedConfig, *, pads: bool | None = None, max_sequences: int = 16
) -> TransformersBackend:
    stop = StopRules(token_ids=frozenset({STOP}))
    return TransformersBackend(policy(config), stop, max_sequences=max_sequences, pads=pads)


def requests() -> list[Request]:
    lengths = (1, 70, 5, 130, 64, 33)
    return [
        make_request(n, prompt=long_prompt(length, n), seeds=tuple(range(n, n + 1 + n % 3)))
        for n, length in enumerate(lengths)
    ]


def finish(engine: TransformersBackend, chosen: list[Request]) -> dict[tuple[int, int], Finished]:
    for request in chosen:
        engine.start(request)
    finished: list[Finished] = []
    while engine.num_active:
        finished += engine.step()
    return {(f.request_id, f.member): f for f in finished}


@pytest.mark.parametrize("name", [*PADDED, *TAKING_TURNS])
def test_a_model_is_padded_where_that_is_right(name: str) -> None:
    config = {**PADDED, **TAKING_TURNS}[name]
    engine = backend(config)
    assert isinstance(engine._decoder, PaddedDecoder if name in PADDED else TurnDecoder)
    assert can_pad(engine._network) is (name in PADDED)


@pytest.mark.parametrize("name", PADDED)
@pytest.mark.parametrize("max_sequences", [16, 4])
def test_padded_rows_agree_with_rows_alone(name: str, max_sequences: int) -> None:
    together = finish(backend(PADDED[name], max_sequences=max_sequences), requests())
    apart = finish(backend(PADDED[name], pads=False), requests())
    assert together.keys() == apart.keys()
    for key, member in together.items():
        assert member.token_ids == apart[key].token_ids
        difference = torch.tensor(member.logprobs) - torch.tensor(apart[key].logprobs)
        assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("name", TAKING_TURNS)
def test_models_that_take_turns_agree_with_a_full_pass(name: str) -> None:
    engine = backend(TAKING_TURNS[name], max_sequences=4)
    chosen = [r for r in requests() if len(r.prompt) > 1]
    for (request_id, _), member in finish(engine, chosen).items():
        prompt = next(r.prompt for r in chosen if r.request_id == request_id)
        ids = torch.tensor([*prompt, *member.token_ids])
        is_action = torch.arange(len(ids)) >= len(prompt)
        with torch.no_grad():
            scores = policy(TAKING_TURNS[name])(ids, torch.tensor([0, len(ids)]), is_action)
        difference = scores.logprobs[is_action] - torch.tensor(member.logprobs)
        assert difference.abs().max() < 1e-3


def test_requests_of_different_lengths_share_every_pass() -> None:
    engine = backend(PADDED["llama"])
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    engine._network.base_model.register_forward_pre_hook(count)
    for request in requests():
        engine.start(request)
    engine.step()
    assert passes == 6  # a prompt each
    engine.step()
    assert passes == 7
