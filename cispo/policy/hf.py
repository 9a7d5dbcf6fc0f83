"""Any other causal language model of transformers as a policy."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cispo.errors import ConfigError
from cispo.policy.base import Policy, TokenScores
from cispo.policy.logprobs import action_logprobs

_CHANGED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Fields of config.json by which a model changes what its head returns."""


class TransformersPolicy(Policy):
    """A causal language model whose head is applied to action tokens only.

    Attributes:
        network: The model of transformers.
        logprob_chunk: Positions whose logits exist at once.
        kernels: What reads the logits; see `PolicyConfig`.

    Raises:
        ConfigError: The model changes its logits after the head, which would be ignored here.
    """

    pads_rows = True

    def __init__(self, network: Any, *, logprob_chunk: int, kernels: str = "auto") -> None:
        super().__init__()
        for field in _CHANGED_LOGITS:
            if getattr(network.config.get_text_config(), field, None) not in (None, 1.0):
                raise ConfigError(
                    f"policy.path: the model's config.json sets {field}, which is not supported"
                )
        self.network = network
        self.logprob_chunk, self.kernels = logprob_chunk, kernels
        self._is_recomputing = False

    def recompute_layers(self) -> None:
        """Keep only the inputs of layers from now on, and compute the rest again when needed.

        Raises:
            ConfigError: The model's layers cannot, or drop activations at random in training.
        """
        config = self.network.config.get_text_config().to_dict()
        for field, value in config.items():
            if value and field.endswith(("dropout", "pdrop")):
                raise ConfigError(
                    f"policy.recompute_layers=true: the model's config.json sets {field}={value}; "
                    "set it to 0.0 there, which is what the learner does in any case"
                )
        if not self._layers():
            raise ConfigError(
                f"policy.recompute_layers=true: {type(self.network).__name__} cannot; set it to "
                "false"
            )
        self._is_recomputing = True

    def forward(
        self,
        token_ids: Tensor,
        cu_seqlens: Tensor,
        action_mask: Tensor,
        *,
        temperature: float = 1.0,
        routed_experts: Tensor | None = None,
    ) -> TokenScores:
        """Score the action tokens of a packed row; see `Policy.forward`.

        The row is unpacked to one padded batch: right padding is exact for causal models, without
        an argument that only some of them take.
        """
        if routed_experts is not None:
            raise ValueError("a model of transformers cannot be told which experts to use")
        if self._is_recomputing and torch.is_grad_enabled():
            self._begin_recomputing()
        starts = cu_seqlens.long()
        lengths = starts.diff()
        inside = torch.arange(int(lengths.max()), device=token_ids.device)
        is_token = inside < lengths.view(-1, 1)
        place = torch.where(is_token, starts[:-1].view(-1, 1) + inside, 0)
        padded = self.network.base_model(
            input_ids=token_ids[place], attention_mask=is_token.long(), use_cache=False
        ).last_hidden_state
        head = self.network.get_output_embeddings()
        logprobs, entropy = action_logprobs(
            padded[is_token],
            head.weight,
            token_ids,
            action_mask,
            chunk=self.logprob_chunk,
            temperature=temperature,
            bias=getattr(head, "bias", None),
            kernels=self.kernels,
        )
        return TokenScores(logprobs, entropy, logprobs.new_zeros(()))

    def _begin_recomputing(self) -> None:
        # ZeRO 3 has parameters only while their module runs, so the second pass needs a graph of
        # its own. The learner never sets training mode, without which transformers recomputes
        # nothing: a layer's own flag changes nothing else where there is no dropout.
        is_partitioned = any(hasattr(p, "ds_id") for p in self.network.parameters())
        for layer in self._layers():
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(
                checkpoint, use_reentrant=is_partitioned, preserve_rng_state=False
            )
            layer.training = True

    def _layers(self) -> list[Any]:
        """Those that can be computed again."""
        from transformers.modeling_layers import GradientCheckpointingLayer  # takes seconds

        modules = self.network.modules()
        return [layer for layer in modules if isinstance(layer, GradientCheckpointingLayer)]


def load_transformers(
    path: str, *, dtype: torch.dtype, logprob_chunk: int, kernels: str = "auto"
) -> TransformersPolicy:
    """Load a folder or hub id through `AutoModelForCausalLM`.

    Raises:
        ConfigError: There is no such model, or its log-probabilities would be wrong.
    """
    from transformers import AutoModelForCausalLM  # takes seconds, which no other policy needs

    try:
        network = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy.path={path}: transformers cannot load it: {error}") from error
    return TransformersPolicy(network, logprob_chunk=logprob_chunk, kernels=kernels)


def save_transformers(policy: TransformersPolicy, folder: Path) -> None:
    """Write config.json and safetensors."""
    policy.network.save_pretrained(folder)
