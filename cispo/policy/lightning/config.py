"""The architecture of a lightning-attention hybrid, read from and written to config.json."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from cispo.config.require import require
from cispo.errors import ConfigError
from cispo.policy.lightning.decay import RELEASED, TRANSFORMERS

LINEAR = "linear_attention"
FULL = "full_attention"
MODEL_TYPE = "minimax_m1"

_OUR_NAMES = {
    "attn_type_list": "layer_types",
    "layernorm_full_attention_alpha": "full_attn_alpha_factor",
    "layernorm_full_attention_beta": "full_attn_beta_factor",
    "layernorm_linear_attention_alpha": "linear_attn_alpha_factor",
    "layernorm_linear_attention_beta": "linear_attn_beta_factor",
    "layernorm_mlp_alpha": "mlp_alpha_factor",
    "layernorm_mlp_beta": "mlp_beta_factor",
    "cispo_slope_rule": "slope_rule",
}
"""Names in the released checkpoint's config.json and ours, which are those of transformers."""

_FIXED = {
    "hidden_act": "silu",
    "postnorm": True,
    "shared_intermediate_size": 0,
    "sliding_window": None,
}
"""Fields of config.json of which only one value is implemented."""

_IGNORED = frozenset(
    {
        "architectures", "model_type", "auto_map", "torch_dtype", "dtype", "transformers_version",
        "bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "attention_dropout",
        "output_router_logits", "router_jitter_noise", "shared_moe_mode", "_name_or_path",
    }
)  # fmt: skip
"""Fields of config.json that change nothing in this implementation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LightningConfig:
    """Sizes and constants of a lightning hybrid.

    Attributes:
        vocab_size: V, rows of the embedding and of the head.
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside one expert.
        num_hidden_layers: L.
        num_attention_heads: H.
        num_key_value_heads: Key and value heads of the softmax layers; divides H.
        head_dim: D.
        layer_types: One of `linear_attention` and `full_attention` a layer.
        rotary_dim: Leading dimensions of a head that the softmax layers rotate; even, at most D.
        rope_theta: Base of the rotary angles.
        slope_rule: `released` or `transformers`: whose slopes the lightning layers forget by.
        num_local_experts: Experts a layer; 1 is a plain feed-forward layer without a router.
        num_experts_per_tok: Experts that a token passes through.
        full_attn_alpha_factor: Weight of the normalised input in a softmax layer's residual sum.
        full_attn_beta_factor: Weight of the softmax sublayer in that sum.
        linear_attn_alpha_factor: The same for lightning layers.
        linear_attn_beta_factor: The same for lightning layers.
        mlp_alpha_factor: The same for the experts.
        mlp_beta_factor: The same for the experts.
        rms_norm_eps: Epsilon of the norms outside lightning attention, whose own is fixed at 1e-6.
        block_size: Tokens of a chunk of lightning attention; changes speed, not results.
        max_position_embeddings: Longest sequence.
        tie_word_embeddings: Whether the head is the embedding.
        router_aux_loss_coef: Weight of the experts' balance loss.
        initializer_range: Standard deviation of new embeddings and head.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layer_types: tuple[str, ...]
    rotary_dim: int
    rope_theta: float = 10_000_000.0
    slope_rule: str = RELEASED
    num_local_experts: int = 1
    num_experts_per_tok: int = 1
    full_attn_alpha_factor: float = 1.0
    full_attn_beta_factor: float = 1.0
    linear_attn_alpha_factor: float = 1.0
    linear_attn_beta_factor: float = 1.0
    mlp_alpha_factor: float = 1.0
    mlp_beta_factor: float = 1.0
    rms_norm_eps: float = 1e-5
    block_size: int = 64
    max_position_embeddings: int = 1_048_576
    tie_word_embeddings: bool = False
    router_aux_loss_coef: float = 0.001
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                    "num_attention_heads", "num_key_value_heads", "head_dim", "block_size",
                    "num_local_experts", "max_position_embeddings"):  # fmt: skip
            value = getattr(self, key)
            require(isinstance(value, int) and value >= 1, key, value, "must be a number >= 1")
        require(
            self.num_attention_heads % self.num_key_value_heads == 0,
            "num_key_value_heads",
            self.num_key_value_heads,
            f"must divide num_attention_heads={self.num_attention_heads}",
        )
        require(
            len(self.layer_types) == self.num_hidden_layers,
            "layer_types",
            list(self.layer_types),
            f"needs one entry for each of num_hidden_layers={self.num_hidden_layers}",
        )
        require(
            set(self.layer_types) <= {LINEAR, FULL},
            "layer_types",
            list(self.layer_types),
            f"choose {LINEAR} or {FULL}",
        )
        require(
            0 <= self.rotary_dim <= self.head_dim and self.rotary_dim % 2 == 0,
            "rotary_dim",
            self.rotary_dim,
            f"must be even and at most head_dim={self.head_dim}",
        )
        require(
            self.slope_rule in (RELEASED, TRANSFORMERS),
            "slope_rule",
            self.slope_rule,
            f"choose {RELEASED} or {TRANSFORMERS}",
        )
        require(
            1 <= self.num_experts_per_tok <= self.num_local_experts,
            "num_experts_per_tok",
            self.num_experts_per_tok,
            f"must lie in 1..num_local_experts={self.num_local_experts}",
        )

    @property
    def num_routes(self) -> int:
        """Experts that a token passes through in all layers together; 0 without routers."""
        return self.num_hidden_layers * self.num_experts_per_tok * (self.num_local_experts > 1)

    def require_shareable(self, num_ranks: int) -> None:
        """Check that so many ranks can compute rows together; see `cispo.policy.ranks`.

        Raises:
            ConfigError: They cannot divide the heads of the softmax layers.
        """
        require(
            FULL not in self.layer_types or self.num_attention_heads % num_ranks == 0,
            "learner.sequence_parallel",
            num_ranks,
            f"must divide the policy's num_attention_heads={self.num_attention_heads}, because "
            "ranks share out the heads of softmax layers",
        )

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], *, where: str = "policy.architecture."
    ) -> "LightningConfig":
        """Read the fields of a config.json, in transformers' or in the released checkpoint's names.

        Args:
            values: The fields.
            where: What an error puts before the field's name.

        Raises:
            ConfigError: A field is missing, unknown, said twice in different ways, or has a value
                that is not implemented.
        """
        ours: dict[str, Any] = {}
        known = {f.name for f in fields(cls)}
        for key, value in values.items():
            if key in _IGNORED:
                continue
            if key in _FIXED:
                only = f"only {_FIXED[key]} is implemented"
                require(value == _FIXED[key], where + key, value, only)
                continue
            name = _OUR_NAMES.get(key, key)
            if name not in known:
                raise ConfigError(f"{where}{key}={value}: there is no such field")
            if key == "attn_type_list":
                value = [FULL if kind else LINEAR for kind in value]
            value = tuple(value) if name == "layer_types" else value
            require(ours.get(name, value) == value, where + key, value, "two fields contradict")
            ours[name] = value
        required = {f.name for f in fields(cls) if f.default is MISSING}
        if missing := sorted(required - ours.keys()):
            raise ConfigError(f"{where.rstrip('. :')} lacks {', '.join(missing)}")
        try:
            return cls(**ours)
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Write the fields as the released checkpoint's config.json names them."""
        theirs = {ours: released for released, ours in _OUR_NAMES.items()}
        named = {theirs.get(f.name, f.name): getattr(self, f.name) for f in fields(self)}
        named["attn_type_list"] = [int(kind == FULL) for kind in self.layer_types]
        if self.slope_rule == RELEASED:
            del named[theirs["slope_rule"]]
        released = {"architectures": ["MiniMaxM1ForCausalLM"], "model_type": MODEL_TYPE}
        return {**released, **_FIXED, **named}
