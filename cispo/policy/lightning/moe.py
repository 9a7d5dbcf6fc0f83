"""The feed-forward half of a layer: experts behind a float32 router."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cispo.policy.lightning.experts import Experts, Routing
from cispo.policy.precision import widened
from cispo.types import UNROUTED


def route(logits: Tensor, *, top_k: int, given: Tensor | None = None) -> Routing:
    """Softmax over all experts in float32, keep the `top_k` likeliest, renormalise them.

    Args:
        logits: [N, E].
        top_k: Experts a token.
        given: [N, top_k] uint8 experts to keep instead, except where they are `UNROUTED`. Their
            probabilities are the router's all the same, and so are its gradients.
    """
    probabilities = torch.softmax(widened(logits), dim=-1)
    weights, experts = torch.topk(probabilities, top_k, dim=-1)
    if given is not None:
        experts = torch.where(given == UNROUTED, experts, given.long())
        weights = probabilities.gather(1, experts)
    chosen = experts.view(-1)
    counts = chosen.new_zeros(logits.shape[1]).scatter_add_(0, chosen, torch.ones_like(chosen))
    return Routing(experts, weights / weights.sum(-1, keepdim=True), probabilities, counts)


class MixtureOfExperts(nn.Module):
    """Router and experts; with one expert there is no router."""

    def __init__(
        self,
        num_experts: int,
        *,
        top_k: int,
        hidden_size: int,
        intermediate_size: int,
        kernels: str = "auto",
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.experts = Experts(num_experts, hidden_size, intermediate_size, kernels=kernels)
        self.gate = Router(hidden_size, num_experts) if num_experts > 1 else None

    def forward(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Routing | None]:
        """Run tokens x [N, d]; return the output and, where there is a router, what it chose.

        Args:
            x: The tokens.
            given: Experts that were chosen already; see `route`.
        """
        routing = None if self.gate is None else route(self.gate(x), top_k=self.top_k, given=given)
        return self.experts(x, routing), routing


class Router(nn.Module):
    """Logits of the experts, in float32 at least whatever the model's dtype.

    Attributes:
        exact: [E, d] float32 in the place of a narrower `weight`, which then only carries the
            gradient; None where `weight` is meant.
    """

    def __init__(self, hidden_size: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))
        self.exact: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens x [N, d] to logits [N, E]."""
        weight = widened(self.weight)
        if self.exact is not None:
            weight = self.exact + (weight - weight.detach())
        return F.linear(widened(x), weight)
