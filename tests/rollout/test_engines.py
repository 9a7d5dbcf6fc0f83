"""Which engine a configuration gets."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from cispo.config import PolicyConfig, RolloutConfig, SamplingConfig
from cispo.errors import ConfigError
from cispo.policy.hf import TransformersPolicy
from cispo.policy.load import (
    bundled_tokenizer,
    load_tokenizer,
    new_lightning_policy,
    save_policy,
)
from rollout.backends.base import Request, SamplingParams
from rollout.backends.lightning import LightningBackend
from rollout.backends.transformers import TransformersBackend
from rollout.engines import build_engine
from tests.rollout.engines import ARCHITECTURE

TOKENIZER = str(bundled_tokenizer("bpe1024"))


def saved_transformers_model(folder: Path) -> PolicyConfig:
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    network = AutoModelForCausalLM.from_config(config)
    save_policy(TransformersPolicy(network, logprob_chunk=8), load_tokenizer(TOKENIZER), folder)
    return PolicyConfig(path=str(folder), backend="transformers")


def sampled(engine: object) -> int:
    assert hasattr(engine, "backend")
    engine.backend.start(
        Request(
            request_id=0,
            task_id="t",
            prompt=(5, 6, 7),
            seeds=(1, 2),
            sampling=SamplingParams(max_new_tokens=4),
        )
    )
    finished = []
    while engine.backend.num_active:
        finished += engine.backend.step()
    return len(finished)


def test_a_new_lightning_model_needs_no_folder() -> None:
    engine = build_engine(PolicyConfig(architecture=ARCHITECTURE), RolloutConfig())
    assert isinstance(engine.backend, LightningBackend)
    assert sampled(engine) == 2


def test_a_lightning_engine_has_the_learners_dtype(tmp_path: Path) -> None:
    policy = new_lightning_policy(ARCHITECTURE, "bpe1024", seed=1)
    save_policy(policy, load_tokenizer(TOKENIZER), tmp_path)
    config = PolicyConfig(path=str(tmp_path), dtype="bfloat16")
    engine = build_engine(config, RolloutConfig())
    assert isinstance(engine.backend, LightningBackend)
    assert str(engine.backend._model.lm_head.weight.dtype) == "torch.bfloat16"
    assert sampled(engine) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_any_other_model_goes_through_transformers(tmp_path: Path, dtype: str) -> None:
    policy = saved_transformers_model(tmp_path)
    policy.dtype = dtype
    engine = build_engine(policy, RolloutConfig(backend="transformers"))
    assert isinstance(engine.backend, TransformersBackend)
    assert sampled(engine) == 2


def test_an_engine_refuses_a_model_that_it_cannot_run(tmp_path: Path) -> None:
    policy = saved_transformers_model(tmp_path)
    with pytest.raises(ConfigError, match=r"rollout\.backend=lightning"):
        build_engine(policy, RolloutConfig(backend="lightning"))


def test_gpus_that_are_not_there_are_named() -> None:
    config = RolloutConfig(num_gpus=1.0)
    with pytest.raises(ConfigError, match=r"rollout\.num_gpus=1"):
        build_engine(PolicyConfig(architecture=ARCHITECTURE), config)


def test_the_knobs_of_the_lightning_engine_reach_it() -> None:
    config = RolloutConfig(
        prefix_cache_bytes=10**7, weights_in_flight="recompute_state", logprobs="replay"
    )
    backend = build_engine(PolicyConfig(architecture=ARCHITECTURE), config).backend
    assert isinstance(backend, LightningBackend)
    backend.start(
        Request(
            request_id=0,
            task_id="t",
            prompt=(5, 6, 7),
            seeds=(1,),
            sampling=SamplingParams(max_new_tokens=9, max_thinking_tokens=2, stop=("zzz",)),
        )
    )
    finished = [member for _ in range(9) for member in backend.step()]
    assert backend.statistics.prefix_bytes > 0
    assert (backend._recomputes_state, backend._replays) == (True, True)
    assert not all(finished[0].is_sampled)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"prefix_cache_bytes": -1}, r"rollout\.prefix_cache_bytes=-1"),
        ({"weights_in_flight": "drop"}, r"rollout\.weights_in_flight=drop: choose keep_state or"),
        ({"logprobs": "exact"}, r"rollout\.logprobs=exact: choose sampled or replay"),
        (
            {"logprobs": "replay", "backend": "transformers"},
            r"rollout\.logprobs=replay: only rollout\.backend=lightning",
        ),
    ],
)
def test_knobs_that_cannot_work_are_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RolloutConfig(**knobs)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"stop": ["a", ""]}, "stop="),
        ({"max_thinking_tokens": 20, "max_new_tokens": 20}, "max_thinking_tokens=20"),
        ({"max_answer_tokens": -1}, "max_answer_tokens=-1"),
    ],
)
def test_sampling_that_cannot_work_is_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**knobs)
