"""The lightning hybrid: chunked form for training and prefill, recurrent form for decoding."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cispo.policy.base import Policy, RouterLoad, TokenScores
from cispo.policy.lightning.balance import Balance, balance_loss, over_ranks, stacked
from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.layer import LightningLayer, Packing
from cispo.policy.lightning.layout import pad_rows
from cispo.policy.lightning.norm import RmsNorm
from cispo.policy.lightning.piece_scores import score_row
from cispo.policy.lightning.prefill import Prefill, plan_prefill
from cispo.policy.lightning.recompute import recomputed
from cispo.policy.lightning.state import DecodeState
from cispo.policy.logprobs import ChunkedHead
from cispo.policy.precision import widened
from cispo.policy.ranks import Ranks

_INVARIANT_ROWS = 16
"""From this many rows on, a float32 product on CPU gives a row the same bits in any company."""


class LightningStack(nn.Module):
    """Embedding, layers and final norm; gives parameters the released checkpoint's names.

    Attributes:
        recompute_layers: Whether training keeps only each layer's input and computes the rest again
            in the backward pass: a third more time, a fraction of the memory, the same bits.
    """

    def __init__(self, config: LightningConfig, *, kernels: str = "auto") -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        indices = range(config.num_hidden_layers)
        layers = [LightningLayer(config, index, kernels=kernels) for index in indices]
        self.layers = nn.ModuleList(layers)
        self.norm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps, kernels=kernels)
        self.recompute_layers = False

    def forward(self, token_ids: Tensor, packing: Packing) -> tuple[Tensor, list[Balance]]:
        """Run packed tokens [T] through the layers.

        Returns:
            Residual stream [T, d] before the final norm, and the balance of each layer's router.
        """
        x = widened(self.embed_tokens(token_ids))
        balances = []
        is_recomputed = self.recompute_layers and torch.is_grad_enabled()
        for layer in self.layers:
            x, balance = recomputed(layer, x, packing) if is_recomputed else layer(x, packing)
            if balance is not None:
                balances.append(balance)
        return x, balances

    def prefill(self, token_ids: Tensor, plan: Prefill, linear: Tensor, pages: Tensor) -> Tensor:
        """Run packed tokens [T] that continue states [L_linear, S, H, D, D] and pages."""
        x = widened(self.embed_tokens(token_ids))
        states, layers_of_pages = iter(linear), iter(pages)
        for layer in self.layers:
            assert isinstance(layer, LightningLayer)
            if layer.is_linear:
                x = layer.prefill_linear(x, plan, next(states))
            else:
                x = layer.prefill_full(x, plan, next(layers_of_pages))
        return x


class LightningModel(Policy):
    """The hybrid with its head: a policy for the learner, prefill and decode for the engine.

    Args:
        config: Sizes and constants.
        logprob_chunk: Positions whose logits exist at once in `forward`.
        kernels: Of all layers and the head; see `policy.kernels`.
    """

    def __init__(
        self, config: LightningConfig, *, logprob_chunk: int = 1024, kernels: str = "auto"
    ) -> None:
        super().__init__()
        self.config = config
        self.logprob_chunk = logprob_chunk
        self.aux_loss_coef = config.router_aux_loss_coef if config.num_local_experts > 1 else 0.0
        self.model = LightningStack(config, kernels=kernels)
        self.lm_head = ChunkedHead(config.hidden_size, config.vocab_size, kernels=kernels)
        self.ranks: Ranks | None = None
        if config.tie_word_embeddings:
            self.lm_head.weight = nn.Parameter(self.model.embed_tokens.weight)
            self.model.embed_tokens.weight = self.lm_head.weight

    def share_rows(self, ranks: Ranks) -> None:
        """Compute a piece of every row from now on; see `Policy.share_rows`."""
        self.config.require_shareable(ranks.size)
        self.ranks = ranks

    def forward(
        self,
        token_ids: Tensor,
        cu_seqlens: Tensor,
        action_mask: Tensor,
        *,
        temperature: float = 1.0,
        routed_experts: Tensor | None = None,
    ) -> TokenScores:
        """Score the action tokens of a packed row; see `Policy.forward`."""
        packing = Packing(cu_seqlens, self.config, routed_experts, self.ranks)
        hidden, balances = self._hidden(token_ids, packing)
        score = (
            self.lm_head if packing.row is None else partial(score_row, self.lm_head, packing.row)
        )
        logprobs, entropy = score(
            hidden, token_ids, action_mask, chunk=self.logprob_chunk, temperature=temperature
        )
        if not balances:
            return TokenScores(logprobs, entropy, logprobs.new_zeros(()))
        balance, T = stacked(balances), len(token_ids)
        if self.ranks is not None:
            balance = over_ranks(balance, self.ranks)
        aux_loss = balance_loss(balance, num_tokens=T).mean()
        load = RouterLoad(balance.counts, balance.entropy / T)
        return TokenScores(logprobs, entropy, aux_loss, load)

    def hidden(
        self, token_ids: Tensor, cu_seqlens: Tensor, routed_experts: Tensor | None = None
    ) -> tuple[Tensor, list[Balance]]:
        """Final-normed hidden states [T, d] of packed sequences, and the routers' balances.

        Where ranks share the row, those of this rank's piece.
        """
        packing = Packing(cu_seqlens, self.config, routed_experts, self.ranks)
        return self._hidden(token_ids, packing)

    def _hidden(self, token_ids: Tensor, packing: Packing) -> tuple[Tensor, list[Balance]]:
        x, balances = self.model(packing.own(token_ids), packing)
        return self.model.norm(x), balances

    @torch.no_grad()
    def prefill(
        self, token_ids: Tensor, cu_seqlens: Tensor, state: DecodeState | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Read packed tokens that begin or continue sequences.

        What a sequence gets depends on its own tokens and on where they are cut, to the last bit
        (float32 on CPU). Where each cut is a multiple of `block_size` and of 64, lightning layers
        compute the same chunks as without cuts.

        Args:
            token_ids: [T] int64.
            cu_seqlens: [S + 1] boundaries; no sequence is empty.
            state: Its first S rows have seen what comes before, and are updated; None begins.

        Returns:
            Final-normed hidden states [S, d] of the last tokens, and the state.
        """
        counts = cu_seqlens.long().diff()
        S = len(counts)
        if state is None:
            dtype, device = self.lm_head.weight.dtype, token_ids.device
            state = DecodeState.empty(self.config, S, dtype=dtype, device=device)
        state.reserve(S, counts)
        last = cu_seqlens[1:].long() - 1
        num_padding = max(0, _INVARIANT_ROWS - len(token_ids))
        linear = state.linear[:, :S]
        if num_padding:
            token_ids = F.pad(token_ids, (0, num_padding))
            cu_seqlens = torch.cat((cu_seqlens, cu_seqlens.new_tensor([_INVARIANT_ROWS])))
            linear = F.pad(linear, (0, 0, 0, 0, 0, 0, 0, 1))
        plan = plan_prefill(cu_seqlens, state, self.config, num_padding=num_padding)
        x = self.model.prefill(token_ids, plan, linear, state.pages)
        if num_padding:
            state.linear[:, :S] = linear[:, :S]
        state.lengths[:S] += counts
        return self.model.norm(x.index_select(0, last)), state

    def logits(self, hidden: Tensor) -> Tensor:
        """Head in float32: hidden [N, d] -> [N, V]; a row's bits are its own."""
        rows = pad_rows(hidden.float(), _INVARIANT_ROWS)
        return F.linear(rows, self.lm_head.weight.float())[: len(hidden)]

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw new weights: the same seed gives the same weights.

        Matrices get a standard deviation of 1/sqrt(inputs), embedding and head `initializer_range`.
        DeepNorm's further gain of (8 L)^(-1/4) halved the learning speed of a model of 4 layers.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
                continue
            is_vocabulary = "embed_tokens" in name or "lm_head" in name
            std = self.config.initializer_range if is_vocabulary else parameter.shape[-1] ** -0.5
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.copy_(drawn.mul_(std))
