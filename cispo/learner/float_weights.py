"""Weights that stay float32 in a bfloat16 model, although DeepSpeed rounds every parameter."""

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param
from torch import Tensor

from cispo.policy.base import Policy
from cispo.policy.lightning.moe import Router


class FloatWeights:
    """The routers of a bfloat16 policy, computed with DeepSpeed's float32 masters of them.

    DeepSpeed makes one dtype of all parameters, and MiniMax-M1 keeps its routers in float32: a
    choice between nearly even experts hangs on the last bits. So `Router.exact` holds the master
    and the rounded parameter carries the gradient only.

    Args:
        policy: A policy that DeepSpeed has not seen yet.
    """

    def __init__(self, policy: Policy) -> None:
        parameters = dict(policy.named_parameters())
        is_mixed = any(p.dtype == torch.bfloat16 for p in parameters.values())
        self._routers = {
            f"{name}.weight": module
            for name, module in policy.named_modules()
            if is_mixed and isinstance(module, Router) and module.weight.dtype == torch.float32
        }
        self._initial = {
            name: router.weight.detach().clone() for name, router in self._routers.items()
        }

    def adopt(self) -> None:
        """Give DeepSpeed's masters the values that it rounded; call once, when the engine is up."""
        for name, router in self._routers.items():
            safe_set_full_fp32_param(router.weight, self._initial[name].to(router.weight.device))
        self._initial = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the masters, after each step and each restore; all ranks must take part."""
        for router in self._routers.values():
            router.exact = safe_get_full_fp32_param(router.weight)

    def by_name(self) -> dict[str, Tensor]:
        """The float32 weights by the names of their parameters."""
        return {
            name: router.exact for name, router in self._routers.items() if router.exact is not None
        }
