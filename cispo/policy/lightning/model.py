"""The lightning hybrid: chunked form for training and prefill, recurrent form for decoding."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cispo.policy.base import Policy, TokenScores
from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.layer import LightningLayer, Packing
from cispo.policy.lightning.layout import positions
from cispo.policy.lightning.norm import RmsNorm
from cispo.policy.lightning.rotary import rotation
from cispo.policy.lightning.softmax import window_of
from cispo.policy.lightning.state import DecodeState
from cispo.policy.logprobs import ChunkedHead

_INVARIANT_ROWS = 16
"""From this many rows on, a float32 product on CPU gives a row the same bits in any company."""


class LightningStack(nn.Module):
    """Embedding, layers and final norm; gives parameters the released checkpoint's names."""

    def __init__(self, config: LightningConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = [LightningLayer(config, index) for index in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, token_ids: Tensor, packing: Packing, *, return_memory: bool = False
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, ...]]]:
        """Run packed tokens [T] through the layers.

        Returns:
            Residual stream [T, d] before the final norm, mean balance loss, and the layers'
            memories if wanted.
        """
        x = self.embed_tokens(token_ids)
        losses, memories = [], []
        for layer in self.layers:
            x, loss, memory = layer(x, packing, return_memory=return_memory)
            if loss is not None:
                losses.append(loss)
            memories.append(memory)
        aux_loss = torch.stack(losses).mean() if losses else x.new_zeros((), dtype=torch.float32)
        return x, aux_loss, memories


class LightningModel(Policy):
    """The hybrid with its head: a policy for the learner, prefill and decode for the engine.

    Args:
        config: Sizes and constants.
        logprob_chunk: Positions whose logits exist at once in `forward`.
    """

    def __init__(self, config: LightningConfig, *, logprob_chunk: int = 1024) -> None:
        super().__init__()
        self.config = config
        self.logprob_chunk = logprob_chunk
        self.aux_loss_coef = config.router_aux_loss_coef if config.num_local_experts > 1 else 0.0
        self.model = LightningStack(config)
        self.lm_head = ChunkedHead(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = nn.Parameter(self.model.embed_tokens.weight)
            self.model.embed_tokens.weight = self.lm_head.weight

    def forward(
        self,
        token_ids: Tensor,
        cu_seqlens: Tensor,
        action_mask: Tensor,
        *,
        temperature: float = 1.0,
    ) -> TokenScores:
        """Score the action tokens of a packed row; see `Policy.forward`."""
        hidden, aux_loss = self.hidden(token_ids, cu_seqlens)
        logprobs, entropy = self.lm_head(
            hidden, token_ids, action_mask, chunk=self.logprob_chunk, temperature=temperature
        )
        return TokenScores(logprobs, entropy, aux_loss)

    def hidden(self, token_ids: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
        """Final-normed hidden states [T, d] of packed sequences, and the experts' balance loss."""
        x, aux_loss, _ = self.model(token_ids, Packing(cu_seqlens, self.config))
        return self.model.norm(x), aux_loss

    @torch.no_grad()
    def prefill(self, token_ids: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, DecodeState]:
        """Read packed prompts at once.

        Returns:
            Final-normed hidden states [S, d] of the prompts' last tokens, and the state after each
            prompt.
        """
        num_sequences = len(cu_seqlens) - 1
        if len(token_ids) < _INVARIANT_ROWS:
            token_ids = F.pad(token_ids, (0, _INVARIANT_ROWS - len(token_ids)))
            cu_seqlens = torch.cat((cu_seqlens, cu_seqlens.new_tensor([_INVARIANT_ROWS])))
        packing = Packing(cu_seqlens, self.config)
        x, _, memories = self.model(token_ids, packing, return_memory=True)
        lengths = cu_seqlens.long().diff()
        state = DecodeState.empty(
            self.config, len(lengths), int(lengths.max()), dtype=x.dtype, device=x.device
        )
        state.lengths.copy_(lengths)
        sequence = torch.repeat_interleave(torch.arange(len(lengths), device=x.device), lengths)
        place = positions(cu_seqlens)
        linear = full = 0
        for memory in memories:
            if len(memory) == 1:
                state.linear[linear].copy_(memory[0])
                linear += 1
            else:
                state.keys[full][sequence, :, place] = memory[0]
                state.values[full][sequence, :, place] = memory[1]
                full += 1
        last = self.model.norm(x.index_select(0, cu_seqlens[1:].long() - 1))
        rows = torch.arange(num_sequences, device=x.device)
        return last[:num_sequences], state if num_sequences == len(lengths) else state.take(rows)

    @torch.no_grad()
    def decode(self, token_ids: Tensor, state: DecodeState) -> Tensor:
        """Read one more token of each of the first N rows of the state, which is updated in place.

        With at least 16 rows, a row's bits depend neither on N nor on the other rows (float32 on
        CPU; products over more than 512 inputs need MKL_CBWR=AUTO,STRICT in the environment).

        Args:
            token_ids: [N] int64.
            state: At least N rows; its buffers grow where they are full.

        Returns:
            Final-normed hidden states [N, d].
        """
        N = len(token_ids)
        lengths = state.lengths[:N]
        window, by = 0, None
        if state.keys.shape[0]:
            window = window_of(int(lengths.max()))
            state.reserve(window)
            by = rotation(lengths, rotary_dim=self.config.rotary_dim, theta=self.config.rope_theta)
        x = self.model.embed_tokens(token_ids)
        linear = full = 0
        for layer in self.model.layers:
            assert isinstance(layer, LightningLayer)
            if layer.is_linear:
                x = layer.step_linear(x, state.linear[linear, :N])
                linear += 1
            else:
                assert by is not None
                buffers = state.keys[full, :N], state.values[full, :N]
                x = layer.step_full(x, by, *buffers, lengths, window)
                full += 1
        lengths.add_(1)
        hidden: Tensor = self.model.norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Head in float32: hidden [N, d] -> [N, V]."""
        return F.linear(hidden.float(), self.lm_head.weight.float())

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
