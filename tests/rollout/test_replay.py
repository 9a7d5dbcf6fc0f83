"""Reported log-probabilities that are the learner's to the last bit."""

import pytest
import torch

from cispo.types import PolicyVersion
from rollout.backends.base import Finished
from tests.rollout.engines import (
    buckets,
    engine,
    finish,
    long_prompt,
    make_request,
    model,
    run,
    text_engine,
)

PROMPT = long_prompt(100)


def learner_logprobs(seed: int, members: list[Finished], temperature: float) -> list[torch.Tensor]:
    """What the learner's forward pass, with gradients, says of members in one packed row."""
    rows = [[*PROMPT, *member.token_ids] for member in members]
    masks = [[False] * len(PROMPT) + list(member.is_sampled) for member in members]
    ends = torch.tensor([0, *map(len, rows)]).cumsum(0).int()
    scores = model(seed=seed)(
        torch.tensor([t for row in rows for t in row]),
        ends,
        torch.tensor([m for mask in masks for m in mask]),
        temperature=temperature,
    )
    parts = scores.logprobs.detach().split([len(row) for row in rows])
    return [part[len(PROMPT) :] for part in parts]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_replayed_logprobs_are_the_learners_bits(temperature: float) -> None:
    request = make_request(prompt=PROMPT, seeds=tuple(range(6)), temperature=temperature)
    finished = list(run(engine(4, replays=True), request).values())
    for member, expected in zip(finished, learner_logprobs(0, finished, temperature), strict=True):
        assert member.logprobs == expected.tolist()
        assert member.full_logprobs == member.logprobs


def test_replaying_changes_no_token() -> None:
    request = make_request(prompt=PROMPT, seeds=tuple(range(6)), top_p=0.9)
    plain, replayed = (run(engine(4, replays=flag), request) for flag in (False, True))
    for key, member in plain.items():
        assert replayed[key].token_ids == member.token_ids
        difference = torch.tensor(replayed[key].logprobs) - torch.tensor(member.logprobs)
        assert difference.abs().max() < 1e-4


def test_the_kept_mass_stays_that_of_the_sampler() -> None:
    request = make_request(prompt=PROMPT, seeds=tuple(range(6)), top_p=0.8)
    plain, replayed = (run(engine(4, replays=flag), request) for flag in (False, True))
    expected = learner_logprobs(0, list(replayed.values()), 1.0)
    for (key, member), full in zip(replayed.items(), expected, strict=True):
        assert member.full_logprobs == full.tolist()
        kept = torch.tensor(plain[key].full_logprobs) - torch.tensor(plain[key].logprobs)
        assert kept.min() < -0.01
        assert torch.equal(torch.tensor(member.logprobs), full - kept)


def test_tokens_are_replayed_by_the_weights_that_sampled_them() -> None:
    backend = engine(4, stops=False, replays=True, recomputes_state=True)
    backend.start(make_request(prompt=PROMPT, seeds=(1, 2, 3), max_new_tokens=25))
    for _ in range(9):
        backend.step()
    backend.load_weights(PolicyVersion(1), buckets(3))
    backend.step()
    backend.load_weights(PolicyVersion(2), buckets(4))
    finished = finish(backend)
    by_weights = [learner_logprobs(seed, finished, 1.0) for seed in (0, 3, 4)]
    for member, first, second, third in zip(finished, *by_weights, strict=True):
        expected = torch.cat((first[:9], second[9:10], third[10:]))
        assert member.logprobs == expected.tolist()


def test_a_suspended_request_keeps_what_was_replayed() -> None:
    backend = engine(4, stops=False, replays=True)
    backend.start(make_request(prompt=PROMPT, max_new_tokens=25))
    for _ in range(9):
        backend.step()
    suspended = backend.suspend(0)
    backend.load_weights(PolicyVersion(1), buckets(3))
    backend.resume(suspended)
    finished = finish(backend)
    old, new = (learner_logprobs(seed, finished, 1.0)[0] for seed in (0, 3))
    assert finished[0].logprobs == torch.cat((old[:9], new[9:])).tolist()


def test_forced_tokens_have_no_logprob() -> None:
    backend, _ = text_engine(replays=True)
    (member,) = run(backend, make_request(max_thinking_tokens=6, max_new_tokens=20)).values()
    forced = [p for p, s in zip(member.logprobs, member.is_sampled, strict=True) if not s]
    assert forced == [0.0]
