"""Nothing that engines derived from the old weights outlives a sync, in any engine.

Each engine is compared with a fresh one on the new weights; and again with what refreshes its
derived tensors turned off, which must show, or the comparison would prove nothing.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cispo.errors import WeightSyncError
from cispo.policy.hf import TransformersPolicy
from cispo.types import PolicyVersion
from cispo.weights.buckets import WeightBucket, exported_tensors, to_buckets
from rollout.backends.base import Finished, Request, SamplingParams, StopRules
from rollout.backends.lightning import LightningBackend
from rollout.backends.transformers import TransformersBackend
from tests.rollout.engines import model as lightning_model

RULES = StopRules(token_ids=frozenset())
PROMPT = tuple(range(3, 60))


def transformers_model(seed: int) -> TransformersPolicy:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=70,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
    )
    return TransformersPolicy(AutoModelForCausalLM.from_config(config), logprob_chunk=64)


MODELS: dict[str, Callable[[int], Any]] = {
    "lightning": lambda seed: lightning_model(seed=seed, num_experts=3),
    "transformers": transformers_model,
}


def make(engine: str, dtype: torch.dtype, kernels: str = "auto") -> Any:
    model = MODELS[engine](0).to(dtype)
    if engine == "transformers":
        return TransformersBackend(model, RULES, max_sequences=4)
    return LightningBackend(
        model, RULES, max_sequences=4, kernels=kernels, prefix_cache_bytes=2**24
    )


def weights(engine: str, dtype: torch.dtype, seed: int) -> list[WeightBucket]:
    tensors = exported_tensors(MODELS[engine](seed).to(dtype))
    return list(to_buckets(tensors, max_bytes=10_000))


def request(number: int) -> Request:
    return Request(
        request_id=number,
        task_id="task",
        prompt=PROMPT,
        seeds=(1, 2),
        sampling=SamplingParams(max_new_tokens=12),
    )


def logprobs_of(backend: Any, number: int) -> list[Any]:
    backend.start(request(number))
    finished: list[Finished] = []
    while backend.num_active:
        finished += backend.step()
    return [(f.token_ids, f.logprobs) for f in sorted(finished, key=lambda f: f.member)]


CASES = [
    ("lightning", torch.float32, "native"),
    ("lightning", torch.bfloat16, "native"),
    ("lightning", torch.float32, "torch"),
    ("lightning", torch.bfloat16, "torch"),
    ("transformers", torch.float32, ""),
    ("transformers", torch.bfloat16, ""),
]


@pytest.mark.parametrize(("engine", "dtype", "kernels"), CASES)
def test_an_engine_with_a_past_equals_a_fresh_one_on_the_new_weights(
    engine: str, dtype: torch.dtype, kernels: str
) -> None:
    new = weights(engine, dtype, 5)
    fresh, used = make(engine, dtype, kernels), make(engine, dtype, kernels)
    before = logprobs_of(used, 0)
    for backend in (fresh, used):
        backend.load_weights(PolicyVersion(1), new)
    assert logprobs_of(used, 1) == logprobs_of(fresh, 1) != before


@pytest.mark.parametrize(
    ("engine", "dtype", "kernels", "refresher"),
    [
        ("lightning", torch.float32, "native", "refresh"),
        ("lightning", torch.bfloat16, "torch", "refresh"),
        ("transformers", torch.bfloat16, "", "_widen_head"),
        ("lightning", torch.float32, "native", "start_over"),
    ],
)
def test_the_comparison_would_see_what_is_stale(
    engine: str,
    dtype: torch.dtype,
    kernels: str,
    refresher: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = weights(engine, dtype, 5)
    fresh, used = make(engine, dtype, kernels), make(engine, dtype, kernels)
    logprobs_of(used, 0)
    holder = {"refresh": "_stepper", "start_over": "_reader"}.get(refresher)
    target = used if holder is None else getattr(used, holder)
    monkeypatch.setattr(target, refresher, lambda *_: None)
    for backend in (fresh, used):
        backend.load_weights(PolicyVersion(1), new)
    assert logprobs_of(used, 1) != logprobs_of(fresh, 1)


class FakeVllmEngine:
    """Records what is asked of it in order; `forgets` is what a reset of the cache returns."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.forgets = True
        self.vllm_config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=64))

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        names = [name for name, _ in kwargs["weights_iterator"]]
        self.calls.append((method, names))

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> bool:
        self.calls.append(("reset", reset_running_requests))
        return self.forgets


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> FakeVllmEngine:
    engine = FakeVllmEngine()
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace())
    return engine


def test_vllm_forgets_cached_prompts_also_under_running_sequences(vllm: FakeVllmEngine) -> None:
    from rollout.backends.vllm import VllmBackend

    backend = VllmBackend(vllm, RULES)
    new = weights("transformers", torch.float32, 5)
    backend.load_weights(PolicyVersion(1), new)
    names = [name.removeprefix("network.") for bucket in new for name in bucket.names]
    assert vllm.calls == [("reload_weights", names), ("reset", True)]
    assert "lm_head.weight" in names
    vllm.forgets = False
    with pytest.raises(WeightSyncError, match="keeps prompts of weights before policy version 2"):
        backend.load_weights(PolicyVersion(2), new)


def test_vllm_is_not_touched_by_a_damaged_export(vllm: FakeVllmEngine) -> None:
    from rollout.backends.vllm import VllmBackend

    backend = VllmBackend(vllm, RULES)
    new = weights("transformers", torch.float32, 5)
    new[-1].buffer[0] ^= 1
    with pytest.raises(WeightSyncError, match="has checksum"):
        backend.load_weights(PolicyVersion(1), new)
    with pytest.raises(WeightSyncError, match="arrived"):
        backend.load_weights(PolicyVersion(1), new[:-1])
    assert vllm.calls == []
