"""The policy pi as the learner sees it: log-probabilities of the actions in a packed row."""

from typing import NamedTuple

from torch import Tensor, nn

from cispo.errors import ConfigError
from cispo.policy.ranks import Ranks


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

    def share_rows(self, ranks: Ranks) -> None:
        """From now on compute rows together with other ranks, each of them a piece.

        All of them then call `forward` with the same row. It returns the scores of the whole row on
        each; from the loss of these each gets its part of the gradient, and the sum over the ranks
        is the whole.

        Raises:
            ConfigError: The policy cannot, or not with so many ranks.
        """
        raise ConfigError(
            f"learner.sequence_parallel={ranks.size}: policy.backend=lightning can, not a "
            f"{type(self).__name__}; set it to 1"
        )
