"""What continuous batching adds to the contract of all engines."""

import pytest
import torch

from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.model import LightningModel
from cispo.types import PolicyVersion
from cispo.weights.buckets import exported_tensors, to_buckets
from rollout.backends.base import Finished, Request, SamplingParams, StopRules
from rollout.backends.lightning import LightningBackend

STOP = 2


def model(*, num_experts: int = 1, seed: int = 0) -> LightningModel:
    config = LightningConfig(
        vocab_size=70,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        layer_types=("linear_attention", "full_attention", "linear_attention"),
        rotary_dim=8,
        num_local_experts=num_experts,
        num_experts_per_tok=min(2, num_experts),
        initializer_range=0.5,
    )
    made = LightningModel(config)
    made.initialise(seed)
    return made


def engine(max_sequences: int, *, num_experts: int = 1, stops: bool = True) -> LightningBackend:
    rules = StopRules(token_ids=frozenset({STOP}) if stops else frozenset())
    return LightningBackend(model(num_experts=num_experts), rules, max_sequences=max_sequences)


def request(index: int, *, max_new_tokens: int = 80) -> Request:
    """One of many different requests, with other prompts, seeds and sampling."""
    knobs = [{}, {"top_p": 0.9}, {"temperature": 0.8}, {"top_k": 4}, {"min_p": 0.05}][index % 5]
    return Request(
        request_id=index,
        task_id=f"task-{index}",
        prompt=tuple((7 * index + 3 * i) % 60 + 3 for i in range(1 + 11 * (index % 7))),
        seeds=tuple(100 * index + member for member in range(1 + index % 4)),
        sampling=SamplingParams(max_new_tokens=max_new_tokens, **knobs),
    )


def finish(backend: LightningBackend) -> list[Finished]:
    finished: list[Finished] = []
    while backend.num_active:
        finished += backend.step()
    return finished


def by_member(finished: list[Finished]) -> dict[tuple[int, int], tuple[object, ...]]:
    return {(f.request_id, f.member): (f.token_ids, f.logprobs, f.stop_reason) for f in finished}


@pytest.mark.parametrize(("num_experts", "max_sequences"), [(1, 1), (1, 5), (4, 18), (12, 5)])
def test_a_used_row_is_as_good_as_new(num_experts: int, max_sequences: int) -> None:
    requests = [request(index, max_new_tokens=20) for index in range(8)]
    together = engine(max_sequences, num_experts=num_experts)
    for each in requests:
        together.start(each)
    alone: dict[tuple[int, int], tuple[object, ...]] = {}
    for each in requests:
        single = engine(20, num_experts=num_experts)
        single.start(each)
        alone |= by_member(finish(single))
    assert by_member(finish(together)) == alone


def test_a_free_row_is_filled_at_the_next_step() -> None:
    backend = engine(4)
    for index in range(8):
        backend.start(request(index, max_new_tokens=20))
    while (unfinished := backend.num_active) > 0:
        before = backend.statistics.sampled_tokens
        backend.step()
        assert backend.statistics.sampled_tokens - before == min(4, unfinished)


def test_long_sequences_outgrow_the_first_buffers() -> None:
    backend = engine(3, stops=False)
    backend.start(request(3, max_new_tokens=540))
    backend.start(request(1, max_new_tokens=300))
    lengths = {(f.request_id, len(f.token_ids)) for f in finish(backend)}
    assert lengths == {(3, 540), (1, 300)}
    short = engine(3, stops=False)
    short.start(request(1, max_new_tokens=300))
    again = engine(3, stops=False)
    again.start(request(3, max_new_tokens=540))
    again.start(request(1, max_new_tokens=300))
    kept = {key: value for key, value in by_member(finish(again)).items() if key[0] == 1}
    assert kept == by_member(finish(short))


def test_weights_that_change_in_the_middle_reach_the_next_token() -> None:
    backend = engine(4, stops=False)
    only = Request(
        request_id=0,
        task_id="t",
        prompt=(5, 6, 7),
        seeds=(1,),
        sampling=SamplingParams(max_new_tokens=8),
    )
    backend.start(only)
    for _ in range(4):
        backend.step()
    new = model(seed=9)
    backend.load_weights(
        PolicyVersion(3), list(to_buckets(exported_tensors(new), max_bytes=10_000))
    )
    (finished,) = finish(backend)
    assert (finished.oldest_version, finished.newest_version) == (0, 3)
    # by hand: four tokens from the old weights, whose state the new weights then go on with
    old = model()
    hidden, state = old.prefill(torch.tensor([5, 6, 7]), torch.tensor([0, 3], dtype=torch.int32))
    expected = []
    for position, token in enumerate(finished.token_ids):
        weights = old if position < 4 else new
        if position:
            last = torch.tensor([finished.token_ids[position - 1]])
            hidden = weights.decode(last, state)
        logprobs = weights.logits(hidden).double().log_softmax(-1)
        expected.append(float(logprobs[0, token].detach()))
    assert torch.allclose(torch.tensor(finished.logprobs), torch.tensor(expected), atol=1e-5)


def test_aborting_one_request_leaves_the_bits_of_the_others() -> None:
    calm, disturbed = engine(8), engine(8)
    for backend in (calm, disturbed):
        for index in range(6):
            backend.start(request(index))
    early = [disturbed.step() for _ in range(3)]
    disturbed.abort(3)
    rest = [f for step in early for f in step] + finish(disturbed)
    expected = {k: v for k, v in by_member(finish(calm)).items() if k[0] != 3}
    assert {k: v for k, v in by_member(rest).items() if k[0] != 3} == expected
