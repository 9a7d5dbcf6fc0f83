"""Layers whose activations are computed again in the backward pass instead of being kept."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from cispo.policy.lightning.balance import Balance

_KEPT = [
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]
"""Softmax attention, whose time is quadratic in the length and whose output is not."""


def recomputed(layer: nn.Module, x: Tensor, packing: object) -> tuple[Tensor, Balance | None]:
    """Call a `LightningLayer`, keeping x and the output of softmax attention for the backward pass.

    The backward pass then calls it again, with the same bits. Under ZeRO 3, where a parameter is
    there only while its module runs, the second call has a graph and a backward pass of its own
    (torch's reentrant form), softmax attention included.
    """

    def run(x: Tensor) -> tuple[Tensor, ...]:
        y, balance = layer(x, packing)
        return y, *(balance or ())

    if any(hasattr(parameter, "ds_id") for parameter in layer.parameters()):
        y, *balance = checkpoint(run, x, use_reentrant=True, preserve_rng_state=False)
    else:
        y, *balance = checkpoint(
            run,
            x,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing in a layer is random
            context_fn=partial(create_selective_checkpoint_contexts, _KEPT),
        )
    return y, Balance(*balance) if balance else None
