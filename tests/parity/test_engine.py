"""The engine reports what the learner computes, whatever happens to a sequence on its way."""

from collections.abc import Mapping

import pytest
import torch

from cispo.types import PolicyVersion
from rollout.backends.base import Finished
from tests.parity.cases import ARCHITECTURES, every_kernel
from tests.parity.engines import engine, finish, learner_logprobs, model, request, weights

some_architectures = pytest.mark.parametrize(
    "architecture", [ARCHITECTURES["dense"], ARCHITECTURES["experts"]], ids=["dense", "experts"]
)
CLOSE = 2e-5  # nats


def bits(finished: list[Finished]) -> dict[tuple[int, int], tuple[object, ...]]:
    return {(f.request_id, f.member): (f.token_ids, f.logprobs, f.stop_reason) for f in finished}


@every_kernel
@some_architectures
def test_reported_logprobs_are_the_learners_but_for_rounding(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    backend = engine(kernels, architecture)
    requests = {index: request(index, temperature=0.8) for index in range(4)}
    for each in requests.values():
        backend.start(each)
    learner = model(kernels, architecture)
    for member in finish(backend):
        prompt = requests[member.request_id].prompt
        expected = learner_logprobs(learner, prompt, member, temperature=0.8)
        assert (torch.tensor(member.logprobs) - expected).abs().max() < CLOSE


@every_kernel
@some_architectures
def test_company_rows_and_order_change_no_bit(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    requests = [request(index, max_new_tokens=25) for index in range(4)]
    together = engine(kernels, architecture, rows=7)
    for each in reversed(requests):
        together.start(each)
    found = bits(finish(together))
    for each in requests:
        alone = engine(kernels, architecture, rows=4)
        alone.start(each)
        for key, expected in bits(finish(alone)).items():
            assert found[key] == expected


@every_kernel
@some_architectures
@pytest.mark.parametrize("recomputes", [False, True])
def test_weights_that_change_in_mid_stream(
    kernels: str, architecture: Mapping[str, object], recomputes: bool
) -> None:
    backend = engine(kernels, architecture, recomputes_state=recomputes)
    started = request(2, max_new_tokens=30)
    backend.start(started)
    for _ in range(12):
        backend.step()
    old, new = model(kernels, architecture), model(kernels, architecture, seed=5)
    backend.load_weights(PolicyVersion(1), weights(new))
    for member in (f for f in finish(backend) if len(f.token_ids) > 12):
        reported = torch.tensor(member.logprobs)
        before = learner_logprobs(old, started.prompt, member)[:12]
        assert (reported[:12] - before).abs().max() < CLOSE
        after = learner_logprobs(new, started.prompt, member)[12:]
        gap = (reported[12:] - after).abs().max()
        # a state that is kept is the old weights', which no learner can know
        assert gap < CLOSE if recomputes else gap > 100 * CLOSE


@every_kernel
@some_architectures
def test_a_request_goes_on_in_another_engine_with_the_same_bits(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    whole = engine(kernels, architecture)
    whole.start(request(3))
    first, second = (engine(kernels, architecture, rows=rows) for rows in (5, 3))
    first.start(request(3))
    finished = [f for _ in range(9) for f in first.step()]
    second.resume(first.suspend(3))
    assert bits(finished + finish(second)) == bits(finish(whole))
