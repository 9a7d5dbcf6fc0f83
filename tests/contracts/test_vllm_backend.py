"""What every engine promises, over a real vLLM on this machine; skipped where there is none.

Run it with the interpreter that has vLLM: it takes some minutes, nearly all of them to start.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
pytest.importorskip("vllm", reason="NO vLLM HERE, its backend is untested", exc_type=ImportError)

from cispo.errors import WeightSyncError
from cispo.policy.hf import TransformersPolicy
from cispo.types import PolicyVersion
from rollout.backends.base import Backend
from rollout.backends.vllm import VllmBackend, start_vllm
from rollout.backends.vllm_models import tensor_names
from tests.contracts.test_rollout_backends import (  # noqa: F401 - run here with its own fixtures
    OTHER_PROMPT,
    VOCABULARY,
    Subject,
    group,
    run,
    stop_rules,
    test_a_budget_cuts_an_answer,
    test_a_prompt_is_computed_once_for_its_group,
    test_a_request_beyond_the_model_is_refused,
    test_a_sequence_ends_at_its_stop_token_or_its_budget,
    test_an_aborted_request_returns_nothing_more,
    test_an_idle_engine_steps_to_nothing,
    test_an_incomplete_or_damaged_export_is_refused,
    test_certain_tokens_in_a_row_end_a_sequence,
    test_every_engine_reports_the_same_checksum_for_the_same_weights,
    test_every_member_comes_back_once,
    test_logprobs_are_those_of_a_full_forward_pass,
    test_logprobs_are_those_of_the_learner,
    test_truncated_logprobs_are_renormalised_over_what_was_kept,
    test_versions_name_the_weights_of_the_first_and_the_last_token,
    test_weights_that_are_not_finite_are_named_by_their_task,
)


def small_policy(seed: int) -> TransformersPolicy:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest for which vLLM has attention on CPUs
        max_position_embeddings=1000,
        initializer_range=0.3,
    )
    return TransformersPolicy(AutoModelForCausalLM.from_config(config), logprob_chunk=64)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, frozenset[str] | None]:
    """The one engine of all tests, and the names in the files that it was started with."""
    folder: Path = tmp_path_factory.mktemp("policy")
    small_policy(0).network.save_pretrained(folder)
    engine = start_vllm(str(folder), dtype="float32", max_sequences=32)
    return engine, tensor_names(str(folder))


@pytest.fixture
def subject(started: tuple[Any, frozenset[str] | None]) -> Iterator[Subject]:
    engine, names = started

    def make(max_sequences: int = 32, repetition_tokens: int = 0) -> Backend:
        # Another engine would take half a minute; what an earlier test left in this one goes.
        scheduler = engine.engine_core.engine_core.scheduler
        engine.abort_request([*engine.output_processor.external_req_ids])
        scheduler.max_num_running_reqs = scheduler.max_num_active_reqs = max_sequences
        backend = VllmBackend(engine, stop_rules(repetition_tokens), file_names=names)
        backend.load_weights(PolicyVersion(0), whole.buckets(0))
        return backend

    whole = Subject(make, small_policy)
    with torch.no_grad():
        yield whole


@pytest.fixture
def model_subject(subject: Subject) -> Subject:
    return subject


def test_tokens_depend_on_the_seed_and_not_on_the_company_but_for_rounding(
    subject: Subject,
) -> None:
    alone = run(subject.make(), group(7, seeds=(5,)))[7, 0]
    crowd = [
        group(i, prompt=OTHER_PROMPT[: 10 + i], seeds=tuple(range(i, i + 5))) for i in range(3)
    ]
    among = run(subject.make(), crowd[0], group(7, seeds=(8, 5, 6)), *crowd[1:])[7, 1]
    cramped = run(subject.make(max_sequences=2), *crowd, group(7, seeds=(8, 9, 6, 5)))[7, 3]
    for other in (among, cramped):
        assert other.token_ids == alone.token_ids
        difference = torch.tensor(other.logprobs) - torch.tensor(alone.logprobs)
        assert difference.abs().max() < 1e-5


def test_running_sequences_go_on_with_the_new_weights_alone(subject: Subject) -> None:
    """vLLM reads them again, so that each token is drawn by what a full pass would say."""
    backend = subject.make()
    backend.start(group(0, seeds=tuple(range(6)), max_new_tokens=40))
    finished = [member for _ in range(5) for member in backend.step()]
    backend.load_weights(PolicyVersion(1), subject.buckets(1))
    while backend.num_active:
        finished += backend.step()
    over = [member for member in finished if len(member.version_runs) == 2]
    assert over
    for member in over:
        (_, num_old), (_, num_new) = member.version_runs
        assert num_old == 5
        prompt = group().prompt
        tokens = torch.tensor([*prompt, *member.token_ids])
        for version, part in ((0, slice(0, num_old)), (1, slice(num_old, num_old + num_new))):
            logits = subject.logits(tokens.tolist(), version)[len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, tokens[len(prompt) :, None])[part, 0]
            assert (torch.tensor(member.logprobs)[part] - expected).abs().max() < 1e-4


def test_weights_that_vllm_would_pass_over_are_refused(subject: Subject) -> None:
    backend = subject.make()
    assert isinstance(backend, VllmBackend)
    backend._file_names = frozenset(["model.norm.weight", "model.experts.w1"])
    with pytest.raises(WeightSyncError, match=r"1 of those are not .*\(model.experts.w1\)"):
        backend.load_weights(PolicyVersion(1), subject.buckets(1))


@pytest.mark.parametrize("feature", [{"stream": True}, {"top_logprobs": 2}])
def test_what_vllm_is_not_asked_for_is_refused(subject: Subject, feature: dict[str, Any]) -> None:
    (name,) = feature
    with pytest.raises(ValueError, match=f"{name}=.* is not for rollout.backend=vllm"):
        subject.make().start(group(0, **feature))
