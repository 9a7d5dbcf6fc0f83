"""The lightning-attention sublayer: projections, decays, inner norm and output gate."""

from torch import Tensor, nn
from torch.nn import functional as F

from cispo.policy.lightning.attention import lightning_attention
from cispo.policy.lightning.chunks import ChunkLayout
from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.decay import layer_slopes
from cispo.policy.lightning.norm import GatedRmsNorm
from cispo.policy.lightning.passed_state import with_passed_state
from cispo.policy.lightning.projection import Projection
from cispo.policy.lightning.shared_row import SharedRow

_INNER_NORM_EPS = 1e-6
"""The released checkpoint's class default; not `rms_norm_eps` of its config.json."""


class LightningAttention(nn.Module):
    """W_o (sigmoid(W_g x) * RMSNorm(attention(silu(W_qkv x)))); no rotation, no 1/sqrt(D)."""

    def __init__(self, config: LightningConfig, layer: int, *, kernels: str = "auto") -> None:
        super().__init__()
        self.kernels = kernels
        self.num_heads, self.head_dim = config.num_attention_heads, config.head_dim
        width, inner = config.hidden_size, self.num_heads * self.head_dim
        self.qkv_proj = Projection(width, 3 * inner)
        self.output_gate = Projection(width, inner)
        self.norm = GatedRmsNorm(inner, eps=_INNER_NORM_EPS, kernels=kernels)
        self.out_proj = Projection(inner, width)
        self.slopes = layer_slopes(
            self.num_heads,
            layer=layer,
            num_layers=config.num_hidden_layers,
            rule=config.slope_rule,
        )

    def forward(
        self,
        x: Tensor,
        layout: ChunkLayout,
        *,
        initial_state: Tensor | None = None,
        return_state: bool = False,
        row: SharedRow | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend over packed x [T, d] from states [S, H, D, D]; see `lightning_attention`.

        With a shared row x is this rank's piece, and the states come from the other ranks.
        """
        qkv = self._qkv(x).view(len(x), self.num_heads, 3, self.head_dim)
        if row is not None:
            qkv, initial_state = with_passed_state(qkv, self.slopes, row)
        o, state = lightning_attention(
            qkv,
            self.slopes,
            layout,
            initial_state=initial_state,
            return_state=return_state,
            kernels=self.kernels,
        )
        return self.out_proj(self.norm(o.flatten(1), self.output_gate(x))), state

    def _qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values, rounded to the weights' dtype: they are operands."""
        return F.silu(self.qkv_proj(x)).to(self.qkv_proj.weight.dtype)
