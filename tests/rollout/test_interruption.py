"""Requests that are taken out and put back, and weights that change under running sequences."""

import pickle

import pytest
import torch

from cispo.types import PolicyVersion
from rollout.backends.base import Finished
from rollout.backends.lightning import LightningBackend
from tests.rollout.engines import (
    bits,
    buckets,
    engine,
    finish,
    long_prompt,
    make_request,
    mixed_request,
    model,
    run,
)


def interrupted(
    backend: LightningBackend, other: LightningBackend, *, steps: int
) -> dict[tuple[int, int], tuple[object, ...]]:
    """Run a group for some steps, go on with other requests, and finish it in another engine."""
    backend.start(make_request(7, prompt=long_prompt(100), seeds=(1, 2, 3, 4), max_new_tokens=60))
    finished = [f for _ in range(steps) for f in backend.step()]
    suspended = pickle.loads(pickle.dumps(backend.suspend(7)))
    assert backend.num_active == 0
    for each in {backend, other}:
        for index in range(3):
            each.start(mixed_request(index, max_new_tokens=25))
        each.step()
    other.resume(suspended)
    return bits([f for f in finished + finish(other) if f.request_id == 7])


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize(("rows", "steps"), [(8, 20), (8, 1), (3, 5), (3, 40)])
def test_a_request_goes_on_as_if_it_had_not_been_interrupted(
    rows: int, steps: int, kernels: str
) -> None:
    request = make_request(7, prompt=long_prompt(100), seeds=(1, 2, 3, 4), max_new_tokens=60)
    expected = bits(list(run(engine(rows, kernels=kernels), request).values()))
    backend, *others = (engine(rows, kernels=kernels) for _ in range(3))
    assert interrupted(backend, backend, steps=steps) == expected
    assert interrupted(*others, steps=steps) == expected


def test_a_request_can_be_suspended_again_before_it_has_a_row() -> None:
    expected = bits(list(run(engine(2), make_request(7, seeds=(1, 2))).values()))
    backend = engine(2)
    backend.start(make_request(7, seeds=(1, 2)))
    backend.step()
    backend.resume(backend.suspend(7))
    assert backend.num_active == 2
    backend.resume(backend.suspend(7))
    assert bits(finish(backend)) == expected


def test_a_resumed_request_can_be_aborted_and_returns_its_pages() -> None:
    backend = engine(2)
    backend.start(make_request(7, seeds=(1, 2, 3)))
    backend.step()
    backend.resume(backend.suspend(7))
    backend.abort(7)
    assert backend.num_active == 0
    assert backend.statistics.pages_used <= 16
    assert backend.step() == []


def test_suspending_keeps_streamed_tokens_in_order() -> None:
    backend = engine(2, stops=False)
    backend.start(make_request(7, stream=True, max_new_tokens=20))
    increments = []
    for _ in range(5):
        backend.step()
    backend.resume(backend.suspend(7))
    finished = []
    while backend.num_active:
        finished += backend.step()
        increments += backend.increments()
    assert [t for i in increments for t in i.token_ids] == finished[0].token_ids


def test_an_unknown_request_cannot_be_suspended() -> None:
    with pytest.raises(ValueError, match="request 3 is not running"):
        engine().suspend(3)


def logprobs_under(seed: int, prompt: tuple[int, ...], member: Finished) -> torch.Tensor:
    """Log-probabilities of a member's tokens by a full pass of the weights of a seed."""
    ids = torch.tensor([*prompt, *member.token_ids])
    is_action = torch.arange(len(ids)) >= len(prompt)
    with torch.no_grad():
        scores = model(seed=seed)(ids, torch.tensor([0, len(ids)]), is_action)
    return scores.logprobs[len(prompt) :]


@pytest.mark.parametrize("recomputes", [False, True])
def test_running_sequences_are_read_again_by_new_weights_where_wanted(recomputes: bool) -> None:
    backend = engine(4, stops=False, recomputes_state=recomputes)
    prompt = long_prompt(700)
    backend.start(make_request(0, prompt=prompt, seeds=(1, 2, 3), max_new_tokens=40))
    for _ in range(10):
        backend.step()
    backend.load_weights(PolicyVersion(5), buckets(9))
    finished = finish(backend)
    assert len(finished) == 3
    for member in finished:
        assert (member.oldest_version, member.newest_version) == (0, 5)
        sampled = torch.tensor(member.logprobs)
        old, new = (logprobs_under(seed, prompt, member) for seed in (0, 9))
        assert (sampled[:10] - old[:10]).abs().max() < 1e-4
        assert bool((sampled[10:] - new[10:]).abs().max() < 1e-4) is recomputes
    assert backend.statistics.sampled_tokens == 3 * 40


def test_sequences_that_are_read_again_do_not_depend_on_their_company() -> None:
    def finished(max_sequences: int, *others: int) -> dict[tuple[int, int], tuple[object, ...]]:
        backend = engine(
            max_sequences, stops=False, recomputes_state=True, prefix_cache_bytes=2**24
        )
        backend.start(make_request(0, prompt=long_prompt(600), seeds=(1, 2)))
        for index in others:
            backend.start(mixed_request(index))
        for _ in range(4):
            backend.step()
        backend.load_weights(PolicyVersion(5), buckets(9))
        return {k: v for k, v in bits(finish(backend)).items() if k[0] == 0}

    assert finished(2) == finished(12, 1, 2, 3)


@pytest.mark.parametrize("recomputes", [False, True])
def test_a_suspended_request_meets_new_weights_as_a_running_one(recomputes: bool) -> None:
    def finished(*, is_suspended: bool) -> dict[tuple[int, int], tuple[object, ...]]:
        backend = engine(4, stops=False, recomputes_state=recomputes)
        backend.start(make_request(7, seeds=(1, 2)))
        for _ in range(4):
            backend.step()
        if is_suspended:
            suspended = backend.suspend(7)
        backend.load_weights(PolicyVersion(5), buckets(9))
        if is_suspended:
            backend.resume(suspended)
        return bits(finish(backend))

    assert finished(is_suspended=True) == finished(is_suspended=False)
