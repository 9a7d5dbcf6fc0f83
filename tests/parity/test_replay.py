"""In replay mode engine and learner hold the same bits, through the learners' own packing."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from cispo.learner.local import LocalLearner
from cispo.types import Metrics, Sample
from tests.learner.one_rank import one_rank
from tests.learner.tables import ADAMW, make_rule
from tests.parity.cases import ARCHITECTURES, every_architecture, every_kernel
from tests.parity.engines import engine, finish, learner_logprobs, model, request, sample_of


def replayed_samples(
    kernels: str, architecture: Mapping[str, object], *, temperature: float
) -> list[Sample]:
    backend = engine(kernels, architecture, replays=True)
    requests = {index: request(index, temperature=temperature) for index in range(4)}
    for each in requests.values():
        backend.start(each)
    return [sample_of(requests[member.request_id], member) for member in finish(backend)]


def assert_equal_bits(metrics: Metrics) -> None:
    assert metrics["mismatch/tokens"] == metrics["learn/action_tokens"] > 100
    assert metrics["mismatch/max_nats"] == 0.0
    assert metrics["ratio/min"] == metrics["ratio/max"] == metrics["weight/mean"] == 1.0
    assert metrics["ratio/inert_fraction"] == 1.0


@every_kernel
@every_architecture
def test_the_local_learner_finds_every_ratio_to_be_one(
    kernels: str, architecture: Mapping[str, object]
) -> None:
    temperature = 0.7
    samples = replayed_samples(kernels, architecture, temperature=temperature)
    for micro_batch_tokens in (64, 700):
        rule = make_rule(temperature=temperature, micro_batch_tokens=micro_batch_tokens)
        learner = LocalLearner(model(kernels, architecture), rule, **ADAMW)
        list(learner.buckets(version=0, max_bytes=10**6))
        assert_equal_bits(learner.step(samples))


@every_kernel
@pytest.mark.parametrize("name", ["dense", "experts"])
def test_bfloat16_models_replay_to_equal_bits_too(kernels: str, name: str) -> None:
    architecture = ARCHITECTURES[name]
    policy, learner = (model(kernels, architecture).bfloat16() for _ in range(2))
    backend = engine(kernels, architecture, of=policy, replays=True)
    requests = {index: request(index, temperature=0.7) for index in range(4)}
    for each in requests.values():
        backend.start(each)
    for member in finish(backend):
        prompt = requests[member.request_id].prompt
        expected = learner_logprobs(learner, prompt, member, temperature=0.7)
        assert member.logprobs == expected.tolist()


@pytest.fixture(scope="module")
def _process_group() -> Iterator[None]:
    with one_rank():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_process_group")
@every_kernel
@pytest.mark.parametrize("stage", [1, 3])
def test_deepspeed_finds_every_ratio_to_be_one(kernels: str, stage: int) -> None:
    from cispo.learner.deepspeed import DeepSpeedLearner

    architecture = ARCHITECTURES["experts"]
    samples = replayed_samples(kernels, architecture, temperature=1.0)
    policy: Any = model(kernels, architecture)
    policy.model.recompute_layers = True
    rule = make_rule(micro_batch_tokens=200)
    learner = DeepSpeedLearner(policy, rule, zero_stage=stage, **ADAMW)
    list(learner.buckets(version=0, max_bytes=10**6))
    assert_equal_bits(learner.step(samples))
