"""Builds the engine that a configuration names, inside the process that will run it."""

import functools
from pathlib import Path
from typing import Any

import torch

from cispo.config import PolicyConfig, RolloutConfig
from cispo.errors import ConfigError
from cispo.policy.base import Policy
from cispo.policy.chat import stop_token_ids
from cispo.policy.hf import TransformersPolicy
from cispo.policy.lightning.model import LightningModel
from cispo.policy.load import (
    bundled_tokenizer,
    load_policy,
    load_tokenizer,
    new_lightning_policy,
)
from cispo.types import UNROUTED
from rollout.backends.base import Backend, StopRules
from rollout.backends.lightning import LightningBackend
from rollout.backends.scripted import ScriptedBackend, script_from_file
from rollout.backends.transformers import TransformersBackend
from rollout.backends.vllm_models import check_vllm, tensor_names
from rollout.driver import Engine
from rollout.scoring import score_tokens
from rollout.token_text import TokenText


def build_engine(policy: PolicyConfig, rollout: RolloutConfig) -> Engine:
    """Build the engine of `rollout.backend` around the model of `policy`.

    Raises:
        ConfigError: The model cannot be loaded, or not by this backend.
    """
    torch.set_num_threads(1)
    if policy.path is None or rollout.backend == "scripted":
        tokenizer = load_tokenizer(str(bundled_tokenizer(policy.tokenizer)))
    else:
        tokenizer = load_tokenizer(policy.path)
    stop = StopRules(
        token_ids=stop_token_ids(tokenizer),
        repetition_tokens=rollout.repetition_tokens,
        repetition_probability=rollout.repetition_probability,
        text=TokenText(tokenizer),
    )
    backend: Backend
    match rollout.backend:
        case "lightning" | "transformers":
            return _model_engine(policy, rollout, stop, tokenizer)
        case "vllm":
            backend = _vllm_backend(policy, rollout, stop)
        case "scripted":
            script = script_from_file(
                Path(_path(policy, rollout)),
                encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
                stop_token_id=min(stop.token_ids),
            )
            backend = ScriptedBackend(script, stop)
        case _:
            raise ConfigError(f"rollout.backend={rollout.backend}: there is no such engine")
    return Engine(backend, tokenizer)


def _model_engine(
    policy: PolicyConfig, rollout: RolloutConfig, stop: StopRules, tokenizer: Any
) -> Engine:
    backend: Backend
    context_length: int | None
    match model := _model(policy, rollout).to(_device(rollout)):
        case LightningModel():
            backend = LightningBackend(
                model,
                stop,
                max_sequences=rollout.max_sequences,
                kernels=policy.kernels,
                prefix_cache_bytes=rollout.prefix_cache_bytes,
                recomputes_state=rollout.weights_in_flight == "recompute_state",
                replays=rollout.logprobs == "replay",
                keeps_routes=_keeps_routes(rollout, model),
            )
            context_length = model.config.max_position_embeddings
        case TransformersPolicy():
            backend = TransformersBackend(model, stop, max_sequences=rollout.max_sequences)
            context_length = getattr(model.network.config, "max_position_embeddings", None)
        case _:
            raise ConfigError(
                f"rollout.backend={rollout.backend}: it cannot run a {type(model).__name__}"
            )
    score = functools.partial(score_tokens, model)
    return Engine(backend, tokenizer, context_length=context_length, score=score)


def _vllm_backend(policy: PolicyConfig, rollout: RolloutConfig, stop: StopRules) -> Backend:
    from rollout.backends.vllm import VllmBackend, start_vllm  # an extra that is rarely installed

    path = _path(policy, rollout)
    check_vllm(path)
    engine = start_vllm(path, dtype=policy.dtype, max_sequences=rollout.max_sequences)
    return VllmBackend(engine, stop, file_names=tensor_names(path))


def _keeps_routes(rollout: RolloutConfig, model: LightningModel) -> bool:
    if rollout.routing_replay is not None:
        return rollout.routing_replay
    has_routers = 1 < model.config.num_local_experts <= UNROUTED
    return has_routers and rollout.logprobs == "sampled"


def _model(policy: PolicyConfig, rollout: RolloutConfig) -> Policy:
    if policy.backend != rollout.backend:
        raise ConfigError(
            f"rollout.backend={rollout.backend}: policy.backend={policy.backend} needs the engine "
            "of the same name"
        )
    dtype = getattr(torch, policy.dtype)  # the engine rounds where the learner does
    if policy.path is None:
        # Any weights will do: the learner's are published before the first rollout.
        return new_lightning_policy(
            policy.architecture, policy.tokenizer, seed=0, dtype=dtype, kernels=policy.kernels
        )
    return load_policy(
        policy.path,
        backend=policy.backend,
        dtype=dtype,
        logprob_chunk=policy.logprob_chunk,
        kernels=policy.kernels,
    )


def _device(rollout: RolloutConfig) -> torch.device:
    if rollout.num_gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"rollout.num_gpus={rollout.num_gpus:g}: the actor sees no CUDA device; set 0 for CPUs"
        )
    return torch.device("cuda")


def _path(policy: PolicyConfig, rollout: RolloutConfig) -> str:
    if policy.path is None:
        raise ConfigError(f"policy.path=null: rollout.backend={rollout.backend} needs one")
    return policy.path
