"""What continuous batching adds to the contract of all engines."""

import pytest
import torch

from cispo.policy.lightning.stepper import TorchStepper
from cispo.types import PolicyVersion
from tests.rollout.engines import bits, buckets, engine, finish, make_request, mixed_request, model


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize(("num_experts", "max_sequences"), [(1, 1), (1, 5), (4, 18), (12, 5)])
def test_a_used_row_is_as_good_as_new(num_experts: int, max_sequences: int, kernels: str) -> None:
    requests = [mixed_request(index, max_new_tokens=20) for index in range(8)]
    together = engine(max_sequences, num_experts=num_experts, kernels=kernels)
    for each in requests:
        together.start(each)
    alone: dict[tuple[int, int], tuple[object, ...]] = {}
    for each in requests:
        single = engine(20, num_experts=num_experts, kernels=kernels)
        single.start(each)
        alone |= bits(finish(single))
    assert bits(finish(together)) == alone


def test_a_free_row_is_filled_at_the_next_step() -> None:
    backend = engine(4)
    for index in range(8):
        backend.start(mixed_request(index, max_new_tokens=20))
    while (unfinished := backend.num_active) > 0:
        before = backend.statistics.sampled_tokens
        backend.step()
        assert backend.statistics.sampled_tokens - before == min(4, unfinished)


def test_long_sequences_outgrow_the_first_buffers() -> None:
    backend = engine(3, stops=False)
    backend.start(mixed_request(3, max_new_tokens=540))
    backend.start(mixed_request(1, max_new_tokens=300))
    lengths = {(f.request_id, len(f.token_ids)) for f in finish(backend)}
    assert lengths == {(3, 540), (1, 300)}
    short = engine(3, stops=False)
    short.start(mixed_request(1, max_new_tokens=300))
    again = engine(3, stops=False)
    again.start(mixed_request(3, max_new_tokens=540))
    again.start(mixed_request(1, max_new_tokens=300))
    kept = {key: value for key, value in bits(finish(again)).items() if key[0] == 1}
    assert kept == bits(finish(short))


def test_weights_that_change_in_the_middle_reach_the_next_token() -> None:
    backend = engine(4, stops=False)
    backend.start(make_request(max_new_tokens=8))
    for _ in range(4):
        backend.step()
    new = model(seed=9)
    backend.load_weights(PolicyVersion(3), buckets(9))
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
            hidden = TorchStepper(weights).step(last, state)
        logprobs = weights.logits(hidden).double().log_softmax(-1)
        expected.append(float(logprobs[0, token].detach()))
    assert torch.allclose(torch.tensor(finished.logprobs), torch.tensor(expected), atol=1e-5)


def test_aborting_one_request_leaves_the_bits_of_the_others() -> None:
    calm, disturbed = engine(8), engine(8)
    for backend in (calm, disturbed):
        for index in range(6):
            backend.start(mixed_request(index))
    early = [disturbed.step() for _ in range(3)]
    disturbed.abort(3)
    rest = [f for step in early for f in step] + finish(disturbed)
    expected = {k: v for k, v in bits(finish(calm)).items() if k[0] != 3}
    assert {k: v for k, v in bits(rest).items() if k[0] != 3} == expected
