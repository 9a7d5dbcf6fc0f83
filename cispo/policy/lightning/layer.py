"""One layer of the hybrid: attention and experts around their normalised inputs."""

import torch
from torch import Tensor, nn

from cispo.policy.lightning.balance import Balance, balance_of
from cispo.policy.lightning.chunks import chunk_layout
from cispo.policy.lightning.config import FULL, LINEAR, LightningConfig
from cispo.policy.lightning.experts import Routing
from cispo.policy.lightning.layout import bucket_layout, positions
from cispo.policy.lightning.linear import LightningAttention
from cispo.policy.lightning.moe import MixtureOfExperts
from cispo.policy.lightning.norm import RmsNorm
from cispo.policy.lightning.prefill import Prefill
from cispo.policy.lightning.rotary import rotation
from cispo.policy.lightning.shared_row import share_row
from cispo.policy.lightning.softmax import SoftmaxAttention
from cispo.policy.lightning.ulysses import heads_of_a_rank
from cispo.policy.precision import widened
from cispo.policy.ranks import Ranks


class Packing:
    """Layouts and rotations of one packed row, shared by all layers.

    Where ranks share the row, chunks, rotation and routes are those of this rank's piece, and the
    buckets those of the whole row with the heads of one rank.

    Attributes:
        row: The row that ranks share, or None.
        chunks: For lightning layers; missing where there are none, as are the others.
        queries: Buckets of the softmax layers' query heads.
        keys: Buckets of their key and value heads.
        rotation: Of every token at its place in its sequence.
        routes: [T, L, k] uint8 experts that are chosen already, or None.

    Raises:
        ValueError: The routed experts are not those of a model of this configuration.
    """

    def __init__(
        self,
        cu_seqlens: Tensor,
        config: LightningConfig,
        routed_experts: Tensor | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.row = None if ranks is None else share_row(cu_seqlens, ranks)
        self.routes = None if routed_experts is None else self.own(_routes(routed_experts, config))
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        if LINEAR in config.layer_types:
            starts = cu_seqlens if self.row is None else cu_seqlens.new_tensor(self.row.boundaries)
            self.chunks = chunk_layout(starts, block=config.block_size, num_heads=heads)
        if FULL in config.layer_types:
            if ranks is not None:
                heads, kv_heads = heads_of_a_rank(heads, kv_heads, ranks.size)
            self.queries = bucket_layout(cu_seqlens, num_heads=heads)
            is_grouped = kv_heads != heads
            self.keys = (
                bucket_layout(cu_seqlens, num_heads=kv_heads) if is_grouped else self.queries
            )
            self.rotation = rotation(
                self.own(positions(cu_seqlens)),
                rotary_dim=config.rotary_dim,
                theta=config.rope_theta,
            )

    def own(self, of_tokens: Tensor) -> Tensor:
        """What this rank computes with of a tensor [T, ...]: all of it, or its piece."""
        return of_tokens if self.row is None else of_tokens[self.row.tokens]


class LightningLayer(nn.Module):
    """x' = norm(x), x <- alpha x' + beta sublayer(x'), first with attention, then with experts."""

    def __init__(self, config: LightningConfig, layer: int, *, kernels: str = "auto") -> None:
        super().__init__()
        eps = config.rms_norm_eps
        self.input_layernorm = RmsNorm(config.hidden_size, eps=eps, kernels=kernels)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, eps=eps, kernels=kernels)
        self.layer = layer
        self.is_linear = config.layer_types[layer] == LINEAR
        self.self_attn: LightningAttention | SoftmaxAttention
        if self.is_linear:
            self.self_attn = LightningAttention(config, layer, kernels=kernels)
            factors = (config.linear_attn_alpha_factor, config.linear_attn_beta_factor)
        else:
            self.self_attn = SoftmaxAttention(config)
            factors = (config.full_attn_alpha_factor, config.full_attn_beta_factor)
        self.attention_factors = factors
        self.expert_factors = (config.mlp_alpha_factor, config.mlp_beta_factor)
        self.block_sparse_moe = MixtureOfExperts(
            config.num_local_experts,
            top_k=config.num_experts_per_tok,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            kernels=kernels,
        )

    def forward(self, x: Tensor, packing: Packing) -> tuple[Tensor, Balance | None]:
        """Run packed tokens x [T, d]; return the residual stream and the balance of its router.

        Where ranks share the row, these are the tokens of this rank's piece.
        """
        normed = self.input_layernorm(x)
        if self.is_linear:
            y, _ = self.self_attn(normed, packing.chunks, row=packing.row)
        else:
            y = self.self_attn(normed, packing.rotation, packing.queries, packing.keys, packing.row)
        given = None if packing.routes is None else packing.routes[:, self.layer]
        x, routing = self._feed_forward(_residual(normed, y, self.attention_factors), given)
        return x, None if routing is None else balance_of(routing)

    def prefill_linear(self, x: Tensor, plan: Prefill, state: Tensor) -> Tensor:
        """Read packed tokens x [T, d] with a lightning layer; updates states [S, H, D, D]."""
        normed = self.input_layernorm(x)
        assert isinstance(self.self_attn, LightningAttention)
        y, after = self.self_attn(normed, plan.chunks, initial_state=state, return_state=True)
        state.copy_(after)
        return self._feed_forward(_residual(normed, y, self.attention_factors))[0]

    def prefill_full(self, x: Tensor, plan: Prefill, pages: Tensor) -> Tensor:
        """Read packed tokens x [T, d] with a softmax layer; see `SoftmaxAttention.prefill`."""
        normed = self.input_layernorm(x)
        assert isinstance(self.self_attn, SoftmaxAttention)
        y = self.self_attn.prefill(normed, plan, pages)
        return self._feed_forward(_residual(normed, y, self.attention_factors))[0]

    def _feed_forward(
        self, x: Tensor, given: Tensor | None = None
    ) -> tuple[Tensor, Routing | None]:
        normed = self.post_attention_layernorm(x)
        y, routing = self.block_sparse_moe(normed, given)
        return _residual(normed, y, self.expert_factors), routing


def _residual(normed: Tensor, y: Tensor, factors: tuple[float, float]) -> Tensor:
    """DeepNorm's sum alpha x' + beta y, whose first term is the normalised input and not x."""
    alpha, beta = factors
    y = widened(y)
    return torch.add(y if beta == 1.0 else y * beta, normed, alpha=alpha)


def _routes(routed_experts: Tensor, config: LightningConfig) -> Tensor:
    """[T, M] experts by layer, [T, L, k]."""
    width = routed_experts.shape[1]
    if width != config.num_routes or width == 0:
        raise ValueError(
            f"{width} routed experts a token, but the model has {config.num_routes}: "
            "the rollouts come from another one"
        )
    return routed_experts.view(-1, config.num_hidden_layers, config.num_experts_per_tok)
