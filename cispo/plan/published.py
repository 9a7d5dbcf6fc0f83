"""MiniMax-M1 and the models that its paper compares it with (stdlib only).

Sources: MiniMax-M1's config.json; DeepSeek-V3's inference/configs/config_671B.json (R1 has the same
layers); Qwen3-235B-A22B's config.json.
"""

from dataclasses import replace

from cispo.plan.architecture import Architecture, Block
from cispo.plan.layers import FeedForward, Latent, Lightning, Softmax

_M1_EXPERTS = FeedForward(width=9216, experts=32, chosen=2)
_M1_LIGHTNING = Lightning(heads=64, head_dim=128)
_M1_SOFTMAX = Softmax(heads=64, kv_heads=8, head_dim=128)

M1 = Architecture(
    name="MiniMax-M1",
    vocab_size=200_064,
    hidden_size=6144,
    blocks=(
        Block(count=70, attention=_M1_LIGHTNING, feed_forward=_M1_EXPERTS),
        Block(count=10, attention=_M1_SOFTMAX, feed_forward=_M1_EXPERTS),
    ),
    quoted_active_parameters=45.9e9,
)

_R1_ATTENTION = Latent(
    heads=128, query_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128
)
_R1_DENSE = FeedForward(width=18432)
_R1_EXPERTS = FeedForward(width=2048, experts=256, chosen=8, shared=1, has_correction=True)

R1 = Architecture(
    name="DeepSeek-R1",
    vocab_size=129_280,
    hidden_size=7168,
    blocks=(
        Block(count=3, attention=_R1_ATTENTION, feed_forward=_R1_DENSE),
        Block(count=58, attention=_R1_ATTENTION, feed_forward=_R1_EXPERTS),
    ),
    quoted_active_parameters=37e9,
)

QWEN3_235B = Architecture(
    name="Qwen3-235B-A22B",
    vocab_size=151_936,
    hidden_size=4096,
    blocks=(
        Block(
            count=94,
            attention=Softmax(heads=64, kv_heads=4, head_dim=128, has_head_norms=True),
            feed_forward=FeedForward(width=1536, experts=128, chosen=8),
        ),
    ),
    quoted_active_parameters=22e9,
)

M1_AS_DRAWN = replace(
    M1,
    blocks=(replace(M1.blocks[0], count=72), replace(M1.blocks[1], count=8)),
)
"""As figure 1 of the paper counts it: one softmax layer in ten instead of one in eight."""

R1_AS_DRAWN = replace(
    R1,
    blocks=(
        # 9 x 2,048 = 18,432: three layers too many with experts are dense networks counted twice.
        Block(count=3, attention=_R1_ATTENTION, feed_forward=replace(_R1_DENSE, width=2 * 18432)),
        R1.blocks[1],
    ),
)
"""As figure 1 counts it: three dense feed-forward networks, and experts in all 61 layers."""
