"""The policy pi as the learner sees it: log-probabilities of the actions in a packed row."""

from typing import NamedTuple

from torch import Tensor, nn


class RouterLoad(NamedTuple):
    """How the T tokens of a packed row use the experts of L layers.

    Attributes:
        counts: [L, E] int64 tokens that each expert got; a token counts once for each of its k.
        entropy: [L] mean entropy of the router's probabilities, in nats.
    """

    counts: Tensor
    entropy: Tensor


class TokenScores(NamedTuple):
    """What the policy says of the T tokens of a packed row.

    Attributes:
        logprobs: [T] float32, log pi(token | its sequence before it) in nats; 0.0 off the mask.
        entropy: [T] float32, entropy in nats of the distribution of each action; 0.0 off the mask,
            and without a gradient.
        aux_loss: Scalar balance loss of the experts, mean over layers, unweighted; 0.0 without.
        router_load: How the experts were used; None in a model without routers.
    """

    logprobs: Tensor
    entropy: Tensor
    aux_loss: Tensor
    router_load: RouterLoad | None = None


class Policy(nn.Module):
    """A causal language model that scores packed rows.

    Attributes:
        aux_loss_coef: Weight that the model's own config.json gives to `TokenScores.aux_loss`.
        pads_rows: Whether it pads the sequences of a row to the longest of them.
    """

    aux_loss_coef: float = 0.0
    pads_rows: bool = False

    def forward(
        self,
        token_ids: Tensor,
        cu_seqlens: Tensor,
        action_mask: Tensor,
        *,
        temperature: float = 1.0,
        routed_experts: Tensor | None = None,
    ) -> TokenScores:
        """Score the action tokens of sequences that lie end to end in one row.

        Args:
            token_ids: [T] int64.
            cu_seqlens: [S + 1] int32, starts of the sequences and the end T.
            action_mask: [T] bool; a sequence's first token is never an action.
            temperature: The logits are divided by this, as they were in sampling.
            routed_experts: [T, M] uint8 experts that tokens go to, whatever the routers' first
                choice; see `cispo.types.Rollout`. None lets the routers choose.

        Raises:
            ValueError: The routed experts are not this model's.
        """
        raise NotImplementedError
