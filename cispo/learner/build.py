"""Builds the policy that a configuration describes."""

import torch

from cispo.config import PolicyConfig
from cispo.policy.base import Policy
from cispo.policy.hf import TransformersPolicy
from cispo.policy.lightning.model import LightningModel
from cispo.policy.load import load_policy, new_lightning_policy


def build_policy(config: PolicyConfig, *, seed: int) -> Policy:
    """Load the policy, or make a new one where the configuration has an architecture and no path.

    Raises:
        ConfigError: There is no model at the path, or its configuration is wrong.
    """
    policy = _load_or_make(config, seed=seed)
    if isinstance(policy, LightningModel):
        policy.model.recompute_layers = config.recompute_layers
    elif config.recompute_layers:
        assert isinstance(policy, TransformersPolicy)
        policy.recompute_layers()
    return policy


def _load_or_make(config: PolicyConfig, *, seed: int) -> Policy:
    dtype: torch.dtype = getattr(torch, config.dtype)
    if config.path is not None:
        return load_policy(
            config.path,
            backend=config.backend,
            dtype=dtype,
            logprob_chunk=config.logprob_chunk,
            kernels=config.kernels,
        )
    return new_lightning_policy(
        config.architecture,
        config.tokenizer,
        seed=seed,
        dtype=dtype,
        logprob_chunk=config.logprob_chunk,
        kernels=config.kernels,
    )
