"""Models that vLLM cannot run are refused before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cispo.config import PolicyConfig, RolloutConfig, RunConfig, SamplingConfig, TasksConfig
from cispo.errors import ConfigError
from rollout.backends.vllm_models import refuse_model, tensor_names


@pytest.mark.parametrize("name", ["MiniMaxM1ForCausalLM", "MiniMaxText01ForCausalLM"])
def test_lightning_attention_needs_an_older_vllm(name: str) -> None:
    fields = {"architectures": [name]}
    for old in ("0.22.1", "0.23.0"):
        refuse_model(fields, old, path="m1")
    for new in ("0.23.1", "0.32.0+cpu", "1.0"):
        with pytest.raises(ConfigError, match=rf"cannot run {name} of m1.*<=0\.23\.0"):
            refuse_model(fields, new, path="m1")


def test_other_models_run_with_any() -> None:
    for fields in ({"architectures": ["Qwen3ForCausalLM"]}, {"architectures": None}, {}):
        refuse_model(fields, "0.32.0", path="x")


def test_a_lightning_policy_is_refused_by_its_configuration() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.backend=vllm: .*use rollout=lightning"):
        RunConfig(
            policy=PolicyConfig(backend="lightning"),
            rollout=RolloutConfig(backend="vllm"),
            tasks=TasksConfig(path="tasks.jsonl"),
        )


def test_names_of_tensors_are_read_from_all_files(tmp_path: Path) -> None:
    for file, name in (("a", "model.x"), ("b", "lm_head.weight")):
        tensors = {name: torch.zeros(2)}
        save_file(tensors, tmp_path / f"{file}.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert tensor_names(str(tmp_path)) == {"model.x", "lm_head.weight"}


def test_a_hub_id_has_no_names() -> None:
    assert tensor_names("org/model") is None


@pytest.mark.parametrize("asked", [{"stop": ["\n"]}, {"max_thinking_tokens": 8}])
def test_sampling_that_vllm_is_not_asked_for_is_refused(asked: dict[str, Any]) -> None:
    (key,) = asked
    with pytest.raises(ConfigError, match=rf"rollout\.sampling\.{key}=.*rollout=transformers"):
        RolloutConfig(backend="vllm", sampling=SamplingConfig(**asked))
