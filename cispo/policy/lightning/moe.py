"""The feed-forward half of a layer: experts behind a float32 router, and how evenly they work."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cispo.policy.lightning.experts import Experts, Routing
from cispo.types import UNROUTED


class Balance(NamedTuple):
    """How evenly the experts of one layer share N tokens.

    Attributes:
        loss: See `balance_loss`.
        counts: [E] int64 tokens that each expert got.
        entropy: Mean entropy of the router's probabilities, in nats; log E where it is undecided.
    """

    loss: Tensor
    counts: Tensor
    entropy: Tensor


def route(logits: Tensor, *, top_k: int, given: Tensor | None = None) -> Routing:
    """Softmax over all experts in float32, keep the `top_k` likeliest, renormalise them.

    Args:
        logits: [N, E].
        top_k: Experts a token.
        given: [N, top_k] uint8 experts to keep instead, except where they are `UNROUTED`. Their
            probabilities are the router's all the same, and so are its gradients.
    """
    probabilities = torch.softmax(logits.float(), dim=-1)
    weights, experts = torch.topk(probabilities, top_k, dim=-1)
    if given is not None:
        experts = torch.where(given == UNROUTED, experts, given.long())
        weights = probabilities.gather(1, experts)
    chosen = experts.view(-1)
    counts = chosen.new_zeros(logits.shape[1]).scatter_add_(0, chosen, torch.ones_like(chosen))
    return Routing(experts, weights / weights.sum(-1, keepdim=True), probabilities, counts)


def balance_loss(routing: Routing) -> Tensor:
    """GShard's balance loss E sum_e f_e m_e: 1 where experts share evenly, E where one gets all.

    f_e is the share of assignments that expert e received, m_e its mean probability, both over the
    tokens of one packed row, prompts included. A product of means is not the mean of products, so
    the loss of an update depends on which sequences share a row, as everywhere in the field where
    it is taken per micro-batch. It is well defined all the same: rows are a function of the samples
    and of `micro_batch_tokens`, and rows count by their tokens (`cispo.learner.accumulate`).
    """
    num_experts = len(routing.counts)
    share = routing.counts / routing.experts.numel()
    return num_experts * torch.dot(share, routing.probabilities.mean(0))


def balance_of(routing: Routing) -> Balance:
    """Measure how evenly a router sends its tokens."""
    entropy = torch.special.entr(routing.probabilities.detach()).sum(-1).mean()
    return Balance(balance_loss(routing), routing.counts, entropy)


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
    """Logits of the experts, in float32 whatever the model's dtype."""

    def __init__(self, hidden_size: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens x [N, d] to logits [N, E]."""
        return F.linear(x.float(), self.weight.float())
