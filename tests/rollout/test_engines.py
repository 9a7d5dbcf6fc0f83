"""Which engine a configuration gets."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from cispo.config import PolicyConfig, RolloutConfig
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

ARCHITECTURE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "rotary_dim": 8,
}
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


def test_a_lightning_folder_is_float32_in_the_engine(tmp_path: Path) -> None:
    policy = new_lightning_policy(ARCHITECTURE, "bpe1024", seed=1)
    save_policy(policy, load_tokenizer(TOKENIZER), tmp_path)
    config = PolicyConfig(path=str(tmp_path), dtype="bfloat16")
    engine = build_engine(config, RolloutConfig())
    assert isinstance(engine.backend, LightningBackend)
    assert str(engine.backend._model.lm_head.weight.dtype) == "torch.float32"
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
