"""What every engine promises, run over all of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig

from cispo.errors import DivergedError, WeightSyncError
from cispo.policy.hf import TransformersPolicy
from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.model import LightningModel
from cispo.types import PolicyVersion, StopReason
from cispo.weights.buckets import WeightBucket, exported_tensors, to_buckets
from rollout.backends.base import Backend, Finished, Request, SamplingParams, StopRules
from rollout.backends.lightning import LightningBackend
from rollout.backends.scripted import ScriptedBackend
from rollout.backends.transformers import TransformersBackend

STOP = 2
VOCABULARY = 90
PROMPT = (7, 11, 13, 17, 19)
OTHER_PROMPT = tuple(range(3, 80))


def lightning_model(seed: int = 0) -> LightningModel:
    config = LightningConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        layer_types=("linear_attention", "full_attention", "linear_attention"),
        rotary_dim=8,
        max_position_embeddings=1000,
        initializer_range=0.2,
    )
    model = LightningModel(config)
    model.initialise(seed)
    return model


def transformers_policy(seed: int = 0) -> TransformersPolicy:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1000,
        initializer_range=0.3,
    )
    return TransformersPolicy(AutoModelForCausalLM.from_config(config), logprob_chunk=64)


@dataclass
class Subject:
    """A backend under test.

    Attributes:
        make: Builds one that runs at most so many sequences, with tokens of streaks to stop at.
        model: The model with the weights of a seed.
    """

    make: Callable[..., Backend]
    model: Callable[[int], LightningModel | TransformersPolicy]

    def buckets(self, seed: int) -> list[WeightBucket]:
        return buckets_of(self.model(seed))

    def logits(self, token_ids: list[int], seed: int) -> Tensor:
        """Logits after each token [T, V], by a full forward pass."""
        model = self.model(seed)
        if isinstance(model, LightningModel):
            hidden, _ = model.hidden(torch.tensor(token_ids), torch.tensor([0, len(token_ids)]))
            return model.logits(hidden)
        logits: Tensor = model.network(torch.tensor([token_ids])).logits[0]
        return logits


def buckets_of(model: nn.Module) -> list[WeightBucket]:
    return list(to_buckets(exported_tensors(model), max_bytes=20_000))


def stop_rules(repetition_tokens: int) -> StopRules:
    return StopRules(
        token_ids=frozenset({STOP}),
        repetition_tokens=repetition_tokens,
        repetition_probability=0.01,
    )


def lightning_subject() -> Subject:
    def make(max_sequences: int = 32, repetition_tokens: int = 0) -> Backend:
        return LightningBackend(
            lightning_model(), stop_rules(repetition_tokens), max_sequences=max_sequences
        )

    return Subject(make, lightning_model)


def transformers_subject() -> Subject:
    def make(max_sequences: int = 32, repetition_tokens: int = 0) -> Backend:
        return TransformersBackend(
            transformers_policy(), stop_rules(repetition_tokens), max_sequences=max_sequences
        )

    return Subject(make, transformers_policy)


def scripted_subject() -> Subject:
    def make(max_sequences: int = 32, repetition_tokens: int = 0) -> Backend:
        return ScriptedBackend(
            lambda request, member: [30 + request.seeds[member] % 50, 40, 50, 60, STOP],
            stop_rules(repetition_tokens),
        )

    return Subject(make, lightning_model)


SUBJECTS = {
    "lightning": lightning_subject,
    "transformers": transformers_subject,
    "scripted": scripted_subject,
}


@pytest.fixture(params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with torch.no_grad():
        yield SUBJECTS[request.param]()


@pytest.fixture(params=["lightning", "transformers"])
def model_subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with torch.no_grad():
        yield SUBJECTS[request.param]()


def group(
    request_id: int = 0,
    *,
    prompt: tuple[int, ...] = PROMPT,
    seeds: tuple[int, ...] = (1, 2, 3, 4),
    max_new_tokens: int = 30,
    stream: bool = False,
    top_logprobs: int = 0,
    **knobs: float,
) -> Request:
    return Request(
        request_id=request_id,
        task_id=f"task-{request_id}",
        prompt=prompt,
        seeds=seeds,
        sampling=SamplingParams(max_new_tokens=max_new_tokens, **knobs),
        stream=stream,
        top_logprobs=top_logprobs,
    )


def run(backend: Backend, *requests: Request) -> dict[tuple[int, int], Finished]:
    for request in requests:
        backend.start(request)
    finished: list[Finished] = []
    while backend.num_active:
        finished += backend.step()
    assert len({(f.request_id, f.member) for f in finished}) == len(finished)
    return {(f.request_id, f.member): f for f in finished}


def test_every_member_comes_back_once(subject: Subject) -> None:
    finished = run(subject.make(max_sequences=6), group(0), group(1), group(2, seeds=(9,)))
    expected = [(r, m) for r in (0, 1) for m in range(4)] + [(2, 0)]
    assert sorted(finished) == expected


def test_an_idle_engine_steps_to_nothing(subject: Subject) -> None:
    backend = subject.make()
    assert backend.num_active == 0
    assert backend.step() == []


def test_a_sequence_ends_at_its_stop_token_or_its_budget(subject: Subject) -> None:
    finished = run(subject.make(), group(seeds=tuple(range(20)), max_new_tokens=60))
    for member in finished.values():
        assert STOP not in member.token_ids[:-1]
        if member.token_ids[-1] == STOP:
            assert member.stop_reason is StopReason.END_OF_TURN
        else:
            assert member.stop_reason is StopReason.LENGTH
            assert len(member.token_ids) == 60
        assert len(member.logprobs) == len(member.token_ids)
    assert StopReason.END_OF_TURN in {member.stop_reason for member in finished.values()}


def test_a_budget_cuts_an_answer(subject: Subject) -> None:
    finished = run(subject.make(), group(max_new_tokens=3))
    assert all(1 <= len(member.token_ids) <= 3 for member in finished.values())
    assert StopReason.LENGTH in {member.stop_reason for member in finished.values()}


def test_tokens_depend_on_the_seed_and_not_on_the_company(subject: Subject) -> None:
    alone = run(subject.make(), group(7, seeds=(5,)))[7, 0]
    crowd = [
        group(i, prompt=OTHER_PROMPT[: 10 + i], seeds=tuple(range(i, i + 5))) for i in range(3)
    ]
    among = run(subject.make(), crowd[0], group(7, seeds=(8, 5, 6)), *crowd[1:])[7, 1]
    cramped = run(subject.make(max_sequences=2), *crowd, group(7, seeds=(8, 9, 6, 5)))[7, 3]
    assert alone.token_ids == among.token_ids == cramped.token_ids
    assert alone.logprobs == among.logprobs == cramped.logprobs


def test_a_prompt_is_computed_once_for_its_group(subject: Subject) -> None:
    backend = subject.make()
    finished = run(backend, group(seeds=tuple(range(8))))
    assert backend.statistics.prefill_tokens == len(PROMPT)
    sampled = sum(len(member.token_ids) for member in finished.values())
    assert backend.statistics.sampled_tokens == sampled
    assert backend.statistics.busy_seconds > 0


def test_an_aborted_request_returns_nothing_more(subject: Subject) -> None:
    expected = run(subject.make(), group(1))
    backend = subject.make(max_sequences=6)
    backend.start(group(0))
    backend.start(group(1))
    backend.start(group(2))
    finished = backend.step()
    backend.abort(0)
    backend.abort(2)
    while backend.num_active:
        finished += backend.step()
    kept = {(f.request_id, f.member): f for f in finished if f.request_id == 1}
    assert {f.request_id for f in finished} == {1}
    assert {key: f.token_ids for key, f in kept.items()} == {
        key: f.token_ids for key, f in expected.items()
    }


def test_increments_add_up_to_what_streaming_members_sampled(subject: Subject) -> None:
    backend = subject.make()
    backend.start(group(0, stream=True, top_logprobs=2))
    backend.start(group(1))
    finished: list[Finished] = []
    increments = []
    while backend.num_active:
        finished += backend.step() + backend.step()
        increments += backend.increments()
    assert {i.request_id for i in increments} == {0}
    for member in (f for f in finished if f.request_id == 0):
        mine = [i for i in increments if i.member == member.member]
        assert [t for i in mine for t in i.token_ids] == member.token_ids
        assert [p for i in mine for p in i.logprobs] == member.logprobs
        assert [p for i in mine for p in i.full_logprobs] == member.full_logprobs
        assert [c for i in mine for c in i.top_logprobs or ()] == member.top_logprobs
    assert len(increments) > 4


def test_nothing_of_an_aborted_request_is_streamed(subject: Subject) -> None:
    backend = subject.make()
    backend.start(group(0, stream=True, max_new_tokens=1))
    backend.step()
    backend.abort(0)
    assert backend.increments() == []


def test_versions_name_the_weights_of_the_first_and_the_last_token(subject: Subject) -> None:
    backend = subject.make(max_sequences=4)
    backend.load_weights(PolicyVersion(4), subject.buckets(0))
    backend.start(group(0, seeds=(1, 2, 3, 4)))
    backend.start(group(1, seeds=(5, 6)))
    finished = backend.step() + backend.step()
    backend.load_weights(PolicyVersion(5), subject.buckets(1))
    while backend.num_active:
        finished += backend.step()
    for member in finished:
        count = len(member.token_ids)
        if member.request_id == 0:
            expected = ((4, 2), (5, count - 2)) if count > 2 else ((4, count),)
            assert member.version_runs == expected
            assert (member.oldest_version, member.newest_version) == (4, 5 if count > 2 else 4)
    late = [member.version_runs for member in finished if member.request_id == 1]
    assert all(sum(count for _, count in runs) for runs in late)
    assert {version for runs in late for version, _ in runs} <= {4, 5}


def test_an_incomplete_or_damaged_export_is_refused(subject: Subject) -> None:
    buckets = subject.buckets(1)
    assert len(buckets) > 1
    with pytest.raises(WeightSyncError):
        subject.make().load_weights(PolicyVersion(1), buckets[:-1])
    buckets[1].buffer[3] ^= 1
    with pytest.raises(WeightSyncError):
        subject.make().load_weights(PolicyVersion(1), buckets)


def test_every_engine_reports_the_same_checksum_for_the_same_weights(subject: Subject) -> None:
    first, second = subject.make(), subject.make()
    one = first.load_weights(PolicyVersion(1), subject.buckets(1))
    assert one == second.load_weights(PolicyVersion(1), subject.buckets(1))
    assert one != second.load_weights(PolicyVersion(2), subject.buckets(2))


def test_logprobs_are_those_of_the_learner(model_subject: Subject) -> None:
    finished = run(model_subject.make(), group(0, max_new_tokens=100, temperature=1.2))
    for member in finished.values():
        token_ids = torch.tensor([*PROMPT, *member.token_ids])
        is_action = torch.arange(len(token_ids)) >= len(PROMPT)
        scores = model_subject.model(0)(
            token_ids, torch.tensor([0, len(token_ids)]).int(), is_action, temperature=1.2
        )
        difference = scores.logprobs[is_action] - torch.tensor(member.logprobs)
        assert difference.abs().max() < 1e-4


@pytest.mark.parametrize("seed", [0, 3])
def test_logprobs_are_those_of_a_full_forward_pass(model_subject: Subject, seed: int) -> None:
    backend = model_subject.make()
    if seed:
        backend.load_weights(PolicyVersion(1), model_subject.buckets(seed))
    finished = run(
        backend,
        group(0, seeds=tuple(range(6)), max_new_tokens=150),
        group(1, prompt=OTHER_PROMPT, seeds=tuple(range(6)), temperature=0.7),
    )
    for (request_id, _), member in finished.items():
        prompt = OTHER_PROMPT if request_id else PROMPT
        logprobs = reference_logprobs(
            model_subject, prompt, member, seed=seed, temperature=0.7 if request_id else 1.0
        )
        assert (torch.tensor(member.logprobs) - logprobs).abs().max() < 1e-4


def reference_logprobs(
    subject: Subject,
    prompt: tuple[int, ...],
    member: Finished,
    *,
    seed: int,
    temperature: float = 1.0,
    keep: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    logits = subject.logits([*prompt, *member.token_ids], seed)[len(prompt) - 1 : -1]
    logprobs = (logits.double() / temperature).log_softmax(-1)
    if keep is not None:
        logprobs = logprobs.masked_fill(~keep(logprobs), -torch.inf).log_softmax(-1)
    return logprobs.gather(1, torch.tensor(member.token_ids)[:, None])[:, 0].float()


KEPT: Mapping[str, tuple[dict[str, float], Callable[[Tensor], Tensor]]] = {
    "top-k": ({"top_k": 5}, lambda p: p >= p.topk(5, dim=-1).values[:, -1:]),
    "min-p": ({"min_p": 0.2}, lambda p: p >= p.amax(-1, keepdim=True) + torch.tensor(0.2).log()),
    "top-p": (
        {"top_p": 0.6},
        lambda p: torch.stack(
            [row.exp()[row > token].sum() < 0.6 for row in p for token in row]
        ).view_as(p),
    ),
}


@pytest.mark.parametrize("cut", KEPT)
def test_truncated_logprobs_are_renormalised_over_what_was_kept(
    model_subject: Subject, cut: str
) -> None:
    knobs, keep = KEPT[cut]
    finished = run(model_subject.make(), group(seeds=(1, 2), max_new_tokens=25, **knobs))
    for member in finished.values():
        logprobs = reference_logprobs(model_subject, PROMPT, member, seed=0, keep=keep)
        assert (torch.tensor(member.logprobs) - logprobs).abs().max() < 1e-4


def test_the_likeliest_tokens_are_those_of_the_whole_distribution(model_subject: Subject) -> None:
    finished = run(model_subject.make(), group(top_logprobs=3, top_k=1, temperature=0.5))
    for member in finished.values():
        logits = model_subject.logits([*PROMPT, *member.token_ids], 0)[len(PROMPT) - 1 : -1]
        expected = (logits / 0.5).log_softmax(-1).topk(3)
        assert member.top_logprobs is not None
        tokens = torch.tensor([[token for token, _ in pairs] for pairs in member.top_logprobs])
        logprobs = torch.tensor([[value for _, value in pairs] for pairs in member.top_logprobs])
        assert tokens.tolist() == expected.indices.tolist()
        assert (logprobs - expected.values).abs().max() < 1e-4
        assert tokens[:, 0].tolist() == member.token_ids
        assert (logprobs[:, 0] - torch.tensor(member.full_logprobs)).abs().max() < 1e-5
        assert max(map(abs, member.logprobs)) < 1e-12  # only one token was left


def test_new_prompts_see_nothing_of_the_old_weights(model_subject: Subject) -> None:
    backend = model_subject.make(max_sequences=2)
    backend.start(group(0, seeds=(1, 2, 3, 4)))  # two members wait with their prompt computed
    finished = backend.step()
    backend.load_weights(PolicyVersion(1), model_subject.buckets(1))
    while backend.num_active:
        finished += backend.step()
    fresh = model_subject.make()
    fresh.load_weights(PolicyVersion(1), model_subject.buckets(1))
    expected = run(fresh, group(0, seeds=(1, 2, 3, 4)))
    late = [member for member in finished if member.oldest_version == 1]
    assert {member.member for member in late} >= {2, 3}
    for member in late:
        assert member.logprobs == expected[0, member.member].logprobs


def test_certain_tokens_in_a_row_end_a_sequence(model_subject: Subject) -> None:
    finished = run(
        model_subject.make(repetition_tokens=4), group(seeds=tuple(range(8)), max_new_tokens=200)
    )
    reasons = [member.stop_reason for member in finished.values()]
    assert StopReason.REPETITION in reasons
    for member in finished.values():
        if member.stop_reason is StopReason.REPETITION:
            assert all(logprob > -4.7 for logprob in member.logprobs[-4:])  # log 0.01 = -4.6


def test_weights_that_are_not_finite_are_named_by_their_task(model_subject: Subject) -> None:
    backend = model_subject.make()
    model = model_subject.model(1)
    for parameter in model.parameters():
        parameter.fill_(torch.nan)
    backend.load_weights(PolicyVersion(1), buckets_of(model))
    backend.start(group(3))
    with pytest.raises(DivergedError, match="task-3"):
        backend.step()


def test_a_request_beyond_the_model_is_refused(model_subject: Subject) -> None:
    with pytest.raises(ValueError, match="max_position_embeddings=1000"):
        model_subject.make().start(group(max_new_tokens=996))
