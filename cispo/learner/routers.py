"""How a mixture of experts was used over a whole update, as numbers by name."""

from torch import Tensor


def router_metrics(counts: Tensor, entropy: Tensor) -> dict[str, float]:
    """Describe the load of experts.

    Args:
        counts: [L, E] tokens that each expert got, by layer; no layer without a token.
        entropy: [L] mean entropy of each router's probabilities, in nats.

    Returns:
        The numbers under `moe/` of docs/metrics.md; of a model without routers (L = 0), none.
    """
    if counts.numel() == 0:
        return {}
    num_experts = counts.shape[1]
    ratios = (counts.amax(1) / counts.sum(1) * num_experts).tolist()
    entropies = entropy.tolist()
    numbers = {
        "moe/load_max_ratio": max(ratios),
        "moe/empty_experts_fraction": (counts == 0).double().mean().item(),
        "moe/router_entropy_nats": sum(entropies) / len(entropies),
    }
    for layer, (ratio, nats) in enumerate(zip(ratios, entropies, strict=True)):
        numbers[f"moe/load_max_ratio/{layer}"] = ratio
        numbers[f"moe/router_entropy_nats/{layer}"] = nats
    return numbers
