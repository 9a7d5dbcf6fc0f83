"""The learner sends tokens to the experts that the engine chose, wherever a rollout has been."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cispo.batch.packing import Batch, collate
from cispo.config import PolicyConfig, RolloutConfig
from cispo.errors import ConfigError
from cispo.learner.local import LocalLearner
from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.moe import MixtureOfExperts, Router, route
from cispo.types import UNROUTED, PolicyVersion, Sample
from rollout.backends.base import Finished
from rollout.backends.lightning import LightningBackend
from rollout.engines import build_engine
from rollout.routes import joined_routes
from tests.learner.one_rank import one_rank
from tests.learner.tables import ADAMW, make_rule
from tests.parity.cases import ARCHITECTURES, every_kernel
from tests.parity.engines import engine, finish, model, request, sample_of, weights

EXPERTS: Mapping[str, object] = ARCHITECTURES["experts"]
LAYERS, TOP_K = 4, 3


def routed(kernels: str, *, rows: int = 5, **knobs: bool) -> LightningBackend:
    return engine(kernels, EXPERTS, rows=rows, keeps_routes=True, **knobs)


def choices(member: Finished) -> Tensor:
    """[T, L * k] of a member."""
    assert member.routed_experts is not None
    flat = torch.frombuffer(bytearray(member.routed_experts), dtype=torch.uint8)
    return flat.view(len(member.token_ids), LAYERS * TOP_K)


def own_choices(learner: LightningModel, batch: Batch, given: Tensor | None = None) -> Tensor:
    """[T, L * k] of the learner's routers, in a forward pass with or without given experts."""
    found: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, logits: found.append(logits))
        for module in learner.modules()
        if isinstance(module, Router)
    ]
    learner(batch.token_ids, batch.cu_seqlens, batch.action_mask, routed_experts=given)
    for hook in hooks:
        hook.remove()
    return torch.cat([route(logits, top_k=TOP_K).experts for logits in found], dim=1)


def one_batch(samples: list[Sample]) -> Batch:
    return collate(samples, [1.0] * len(samples))


@every_kernel
def test_the_recorded_experts_are_those_of_the_training_form(kernels: str) -> None:
    backend = routed(kernels)
    asked = {index: request(index) for index in range(3)}
    for each in asked.values():
        backend.start(each)
    learner = model(kernels, EXPERTS)
    for member in finish(backend):
        prompt = len(asked[member.request_id].prompt)
        batch = one_batch([sample_of(asked[member.request_id], member)])
        own = own_choices(learner, batch)[prompt:]
        recorded = choices(member)
        # in float32 a router is torn between two experts too rarely to be seen here
        assert torch.equal(recorded[:-1].long(), own[:-1])
        assert (recorded[-1] == UNROUTED).all(), "the last token was never read"


@every_kernel
def test_a_rollout_keeps_its_experts_through_suspension_and_company(kernels: str) -> None:
    whole = routed(kernels)
    whole.start(request(3))
    expected = {m.member: m.routed_experts for m in finish(whole)}
    first, second = routed(kernels), routed(kernels, rows=3)
    for each in (request(1), request(3)):
        first.start(each)
    finished = [f for _ in range(9) for f in first.step()]
    second.resume(first.suspend(3))
    finished += finish(first) + finish(second)
    assert {m.member: m.routed_experts for m in finished if m.request_id == 3} == expected


@every_kernel
@pytest.mark.parametrize("recomputes", [False, True])
def test_weights_that_change_in_mid_stream_take_along_the_experts_of_states_they_replace(
    kernels: str, recomputes: bool
) -> None:
    backend = routed(kernels, recomputes_state=recomputes)
    backend.start(request(2, max_new_tokens=30))
    for _ in range(12):
        backend.step()
    backend.load_weights(PolicyVersion(1), weights(model(kernels, EXPERTS, seed=5)))
    for member in (f for f in finish(backend) if len(f.token_ids) > 12):
        is_unknown = (choices(member) == UNROUTED).all(1)
        # what the new weights have read again went to experts of their own choice
        assert is_unknown[:12].all() == recomputes
        assert not is_unknown[12:-1].any()


@every_kernel
def test_given_experts_are_used_and_their_router_learns(kernels: str) -> None:
    learner = model(kernels, EXPERTS)
    mixture = learner.model.layers[1].block_sparse_moe
    assert isinstance(mixture, MixtureOfExperts)
    router = mixture.gate
    assert router is not None
    x = torch.randn(5, learner.config.hidden_size, generator=torch.Generator().manual_seed(0))
    given = torch.tensor([[0, 1, 2], [11, 3, 7], [UNROUTED] * 3, [4, 5, 6], [9, 8, 0]])
    output, routing = mixture(x, given.to(torch.uint8))
    free, chosen = mixture(x)
    assert torch.equal(routing.experts[[0, 1, 3, 4]], given[[0, 1, 3, 4]])
    assert torch.equal(routing.experts[2], chosen.experts[2])
    assert torch.equal(output[2], free[2])
    logits = x.double() @ router.weight.double().t()
    for row in (0, 1, 3, 4):
        expected = logits[row, given[row]].softmax(0)
        torch.testing.assert_close(routing.weights[row].double(), expected, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(output[1].sum(), router.weight)
    sizes = gradient.norm(dim=1)
    assert (sizes > 1e-4 * sizes.max()).nonzero()[:, 0].tolist() == [3, 7, 11]


@every_kernel
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_with_the_learners_own_choices_given_are_those_without(
    kernels: str, recompute: bool
) -> None:
    backend = routed(kernels)
    backend.start(request(1))
    batch = one_batch([sample_of(request(1), member) for member in finish(backend)])
    learner = model(kernels, EXPERTS)
    learner.model.recompute_layers = recompute
    own = own_choices(learner, batch).to(torch.uint8)
    gradients = []
    for given in (None, own):
        scores = learner(batch.token_ids, batch.cu_seqlens, batch.action_mask, routed_experts=given)
        total = scores.logprobs.sum() + scores.aux_loss
        gradients.append(torch.autograd.grad(total, list(learner.parameters())))
    for free, replayed in zip(*gradients, strict=True):
        torch.testing.assert_close(replayed, free, rtol=1e-5, atol=1e-7)


@every_kernel
def test_in_bfloat16_replay_takes_away_what_routers_add_to_the_mismatch(kernels: str) -> None:
    policy = model(kernels, EXPERTS).bfloat16()
    backend = engine(kernels, EXPERTS, rows=16, keeps_routes=True, of=policy)
    asked = {index: request(index, max_new_tokens=150) for index in range(4)}
    for each in asked.values():
        backend.start(each)
    samples = [sample_of(asked[m.request_id], m) for m in finish(backend)]
    batch = one_batch(samples)
    learner = model(kernels, EXPERTS).bfloat16()
    given = batch.routed_experts
    assert given is not None
    assert ((own_choices(learner, batch) != given) & (given != UNROUTED)).any()
    gaps = []
    for routes in (None, given):
        with torch.no_grad():
            scores = learner(
                batch.token_ids, batch.cu_seqlens, batch.action_mask, routed_experts=routes
            )
        gaps.append((scores.logprobs - batch.behaviour_logprobs)[batch.action_mask].abs().max())
    assert gaps[1] < 0.25 * gaps[0]


def shifted_samples(shift: int, dtype: torch.dtype) -> list[Sample]:
    """Samples of an engine of a dtype; each expert stands for one that lies further by `shift`."""
    policy = model("native", EXPERTS).to(dtype)
    backend = engine("native", EXPERTS, keeps_routes=True, of=policy)
    asked = {index: request(index) for index in range(3)}
    for each in asked.values():
        backend.start(each)
    table = bytes((expert + shift) % 12 for expert in range(12)) + bytes(range(12, 256))
    samples = []
    for member in finish(backend):
        sample = sample_of(asked[member.request_id], member)
        routes = (sample.rollout.routed_experts or b"").translate(table)
        rollout = replace(sample.rollout, routed_experts=routes)
        samples.append(replace(sample, rollout=rollout))
    return samples


@pytest.mark.parametrize("shift", [0, 1])
def test_the_local_learner_hands_the_experts_to_its_model(shift: int) -> None:
    samples = shifted_samples(shift, torch.float32)
    learner = LocalLearner(model("native", EXPERTS), make_rule(micro_batch_tokens=300), **ADAMW)
    list(learner.buckets(version=0, max_bytes=10**6))
    gap = learner.step(samples)["mismatch/max_nats"]
    assert gap > 0.1 if shift else gap < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 1])
def test_the_deepspeed_learner_does_so_in_bfloat16(shift: int) -> None:
    from cispo.learner.deepspeed import DeepSpeedLearner

    samples = shifted_samples(shift, torch.bfloat16)
    policy = model("native", EXPERTS).bfloat16()
    policy.model.recompute_layers = True
    with one_rank():
        rule = make_rule(micro_batch_tokens=300)
        learner = DeepSpeedLearner(policy, rule, zero_stage=3, **ADAMW)
        list(learner.buckets(version=0, max_bytes=10**6))
        gap = learner.step(samples)["mismatch/max_nats"]
    assert gap > 0.3 if shift else gap < 0.1


def test_rollouts_with_and_without_a_record_share_a_row() -> None:
    backend = routed("native")
    backend.start(request(1))
    known, unknown, *_ = (sample_of(request(1), member) for member in finish(backend))
    unknown = replace(unknown, rollout=replace(unknown.rollout, routed_experts=None))
    assert collate([unknown], [1.0]).routed_experts is None
    found = collate([unknown, known], [1.0, 1.0]).routed_experts
    assert found is not None
    cut = len(unknown.rollout.token_ids)
    assert (found[:cut] == UNROUTED).all()
    assert found[cut:].numpy().tobytes() == known.rollout.routed_experts


def test_a_record_that_does_not_fit_its_tokens_is_refused() -> None:
    backend = routed("native")
    backend.start(request(1))
    rollout = sample_of(request(1), finish(backend)[0]).rollout
    assert rollout.routed_experts is not None
    with pytest.raises(ValueError, match=r"task-1: \d+ routed experts for \d+ tokens"):
        replace(rollout, routed_experts=rollout.routed_experts[:-1])


def test_parts_of_a_rollout_without_a_record_are_left_to_the_learner() -> None:
    assert joined_routes([(2, None), (1, bytes([4, 5])), (1, None)]) == bytes(
        [UNROUTED] * 4 + [4, 5] + [UNROUTED] * 2
    )
    assert joined_routes([(2, None), (3, None)]) is None


def test_experts_of_another_model_are_refused() -> None:
    learner = model("torch", EXPERTS)
    batch = torch.zeros(6, dtype=torch.long), torch.tensor([0, 6]).int(), torch.arange(6) > 0
    with pytest.raises(ValueError, match="5 routed experts a token, but the model has 12"):
        learner(*batch, routed_experts=torch.zeros(6, 5, dtype=torch.uint8))
    dense = model("torch", ARCHITECTURES["dense"])
    with pytest.raises(ValueError, match="the model has 0"):
        dense(*batch, routed_experts=torch.zeros(6, 12, dtype=torch.uint8))


def test_a_model_without_experts_cannot_replay_routing() -> None:
    with pytest.raises(ConfigError, match=r"routing_replay=true: num_local_experts=1"):
        engine("torch", ARCHITECTURES["dense"], keeps_routes=True)


@pytest.mark.parametrize("backend", ["transformers", "vllm", "scripted"])
def test_engines_that_do_not_tell_their_choices_are_refused(backend: str) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.routing_replay=True"):
        RolloutConfig(backend=backend, routing_replay=True)
    RolloutConfig(backend=backend)


def test_routing_replay_beside_replayed_logprobs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.routing_replay=True"):
        RolloutConfig(logprobs="replay", routing_replay=True)


@pytest.mark.parametrize(
    ("experts", "dtype", "setting", "expected"),
    [(4, "bfloat16", None, True), (4, "float32", None, True), (1, "bfloat16", None, False),
     (4, "float32", False, False), (4, "bfloat16", False, False)],
)  # fmt: skip
def test_by_default_experts_are_replayed(
    experts: int, dtype: str, setting: bool | None, expected: bool
) -> None:
    architecture = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rotary_dim": 8,
        "layer_types": ["linear_attention"], "num_local_experts": experts,
        "num_experts_per_tok": min(experts, 2),
    }  # fmt: skip
    policy = PolicyConfig(architecture=architecture, dtype=dtype)
    backend = build_engine(policy, RolloutConfig(routing_replay=setting)).backend
    backend.start(request(0, max_new_tokens=3))
    assert isinstance(backend, LightningBackend)
    for member in finish(backend):
        assert (member.routed_experts is not None) == expected
