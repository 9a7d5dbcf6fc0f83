"""Engines and samples of the parity matrix."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cispo.policy.lightning.model import LightningModel
from cispo.types import PolicyVersion, Rollout, Sample, StopReason
from cispo.weights.buckets import WeightBucket, exported_tensors, to_buckets
from rollout.backends.base import Finished, Request, SamplingParams, StopRules
from rollout.backends.lightning import LightningBackend
from rollout.routes import joined_routes
from tests.policy.models import make_model, random_ids

STOP = 2


def model(kernels: str, architecture: Mapping[str, object], *, seed: int = 0) -> LightningModel:
    """A model whose next token is neither certain nor a mere guess."""
    return make_model(seed, kernels=kernels, initializer_range=0.3, **architecture)


def engine(
    kernels: str,
    architecture: Mapping[str, object],
    *,
    rows: int = 5,
    of: LightningModel | None = None,
    **knobs: bool,
) -> LightningBackend:
    return LightningBackend(
        of or model(kernels, architecture),
        StopRules(token_ids=frozenset({STOP})),
        max_sequences=rows,
        kernels=kernels,
        **knobs,
    )


def request(index: int, *, max_new_tokens: int = 40, temperature: float = 1.0) -> Request:
    """A group of four with a prompt of its own, some of them longer than a page."""
    return Request(
        request_id=index,
        task_id=f"task-{index}",
        prompt=tuple(random_ids(5 + 45 * index, seed=index).tolist()),
        seeds=tuple(range(4 * index, 4 * index + 4)),
        sampling=SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature),
    )


def finish(backend: LightningBackend) -> list[Finished]:
    finished: list[Finished] = []
    while backend.num_active:
        finished += backend.step()
    return finished


def sample_of(request: Request, member: Finished, *, version: int = 0) -> Sample:
    """What the learner is given of a member."""
    prompt = len(request.prompt)
    return Sample(
        rollout=Rollout(
            task_id=request.task_id,
            token_ids=[*request.prompt, *member.token_ids],
            action_mask=[False] * prompt + list(member.is_sampled),
            behaviour_logprobs=[0.0] * prompt + list(member.logprobs),
            text="",
            stop_reason=StopReason.LENGTH,
            oldest_version=PolicyVersion(version),
            newest_version=PolicyVersion(version),
            routed_experts=joined_routes(
                [(prompt, None), (len(member.token_ids), member.routed_experts)]
            ),
        ),
        advantage=1.0 if member.member % 2 else -1.0,
        group_index=request.request_id,
    )


def weights(model: LightningModel) -> list[WeightBucket]:
    return list(to_buckets(exported_tensors(model), max_bytes=100_000))


def learner_logprobs(
    model: LightningModel, prompt: Sequence[int], member: Finished, *, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities of a member's tokens by the learner's forward pass, on its own."""
    ids = torch.tensor([*prompt, *member.token_ids])
    is_action = torch.arange(len(ids)) >= len(prompt)
    ends = torch.tensor([0, len(ids)], dtype=torch.int32)
    return model(ids, ends, is_action, temperature=temperature).logprobs.detach()[len(prompt) :]
