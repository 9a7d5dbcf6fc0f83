"""Memory of one device by phase: what an engine and what a learner's rank hold (stdlib only).

Bytes are those of tensors. A library's own share (CUDA's context, fragments) is left to the margin
of the machine's description.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cispo.config.learner import Offload
from cispo.plan.architecture import Architecture, Block
from cispo.plan.layers import Lightning

PAGE_TOKENS = 64
"""Tokens of a page of keys and values, see `cispo.policy.lightning.pages`."""

_BUCKET_NUMBERS = 500_000_000
"""Numbers that ZeRO reduces or gathers at a time, see `cispo.learner.engine`."""

_WIDE = 4
"""Bytes of a float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one process holds at its peak.

    Attributes:
        parts: Bytes on the device by what they are.
        host_parts: Bytes in the host's memory.
    """

    parts: Mapping[str, float]
    host_parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Bytes on the device."""
        return sum(self.parts.values())

    @property
    def host_total(self) -> float:
        """Bytes in the host's memory."""
        return sum(self.host_parts.values())

    @property
    def largest(self) -> str:
        """The part on the device that takes most."""
        return max(self.parts, key=lambda name: self.parts[name])


def engine_memory(
    architecture: Architecture,
    *,
    number_bytes: int,
    num_devices: int,
    max_sequences: int,
    context_tokens: float,
    process_bytes: float = 0.0,
) -> Memory:
    """What a device of an engine holds while all its sequences run.

    Args:
        architecture: The policy.
        number_bytes: Of a weight, and of keys and values.
        num_devices: Devices that share an engine's weights and caches evenly.
        max_sequences: Sequences at once.
        context_tokens: Of a running sequence on average, prompt included.
        process_bytes: What is there besides tensors.
    """
    pages = -(-context_tokens // PAGE_TOKENS) * PAGE_TOKENS
    weights = architecture.weight_bytes(number_bytes)
    return Memory(
        parts={
            "weights": weights / num_devices,
            "lightning states": max_sequences * architecture.state_bytes() / num_devices,
            "keys and values": max_sequences
            * pages
            * architecture.cache_bytes_per_token(number_bytes)
            / num_devices,
            "logits": 2 * _WIDE * max_sequences * architecture.vocab_size / num_devices,
            "process": process_bytes,
        },
        host_parts={"weights on their way": weights / num_devices},
    )


def most_sequences(
    architecture: Architecture,
    *,
    number_bytes: int,
    num_devices: int,
    context_tokens: float,
    device_bytes: float,
) -> int:
    """Sequences of this length that fit beside the weights; 0 where not even these fit."""
    one, two = (
        engine_memory(
            architecture,
            number_bytes=number_bytes,
            num_devices=num_devices,
            max_sequences=count,
            context_tokens=context_tokens,
        ).total
        for count in (0, 1)
    )
    return max(0, int((device_bytes - one) // (two - one)))


def learner_memory(
    architecture: Architecture,
    *,
    number_bytes: int,
    num_ranks: int,
    zero_stage: int,
    offload: str,
    row_tokens: float,
    sequence_parallel: int,
    recompute_layers: bool,
    logprob_chunk: int,
    process_bytes: float = 0.0,
    activation_factor: float = 1.0,
) -> Memory:
    """What a rank holds at the peak of an optimizer step.

    Args:
        architecture: The policy.
        number_bytes: Of a weight: 2 with float32 masters beside it, or 4.
        num_ranks: R, over which ZeRO divides.
        zero_stage: 0 divides nothing, 1 the optimizer, 2 gradients too, 3 weights too.
        offload: See `Offload`.
        row_tokens: Of one forward and backward pass of the ranks that share a row.
        sequence_parallel: Ranks that share a row.
        recompute_layers: Whether only the inputs of layers are kept.
        logprob_chunk: Tokens that go through the head at once.
        process_bytes: What is there besides tensors.
        activation_factor: Memory taken for each byte of activations.
    """
    parameters = architecture.parameters
    divided = {stage: parameters / (num_ranks if zero_stage >= stage else 1) for stage in (1, 2, 3)}
    has_masters = zero_stage >= 1 or number_bytes < _WIDE
    adam = (2 + has_masters) * _WIDE * divided[1]
    gradients = _WIDE * divided[2]
    weights = number_bytes * divided[3]
    parts = {"weights": weights, "gradients": gradients, "optimizer": adam}
    host: dict[str, float] = {}
    if offload != Offload.NONE:
        host["optimizer"] = parts.pop("optimizer")
        host["gradients"] = _WIDE * divided[1]
        if zero_stage >= 2:
            del parts["gradients"]
    if offload == Offload.OPTIMIZER_AND_WEIGHTS:
        host["weights"] = parts.pop("weights")
    bucket = min(_BUCKET_NUMBERS, parameters)
    if zero_stage >= 1:
        parts["buckets"] = 2.0 * number_bytes * bucket
    if zero_stage == 3:
        # One layer that computes, and the next one that arrives meanwhile.
        parts["gathered layers"] = 2.0 * number_bytes * architecture.largest_layer_parameters()
    tokens = row_tokens / sequence_parallel
    kept = activation_bytes_per_token(
        architecture, number_bytes=number_bytes, recompute_layers=recompute_layers
    )
    parts["activations"] = activation_factor * tokens * kept
    logits = 2.0 * _WIDE * min(logprob_chunk, tokens) * architecture.vocab_size
    if recompute_layers:  # logits are gone before a layer is computed again
        logits = max(0.0, logits - tokens * _largest_kept(architecture, number_bytes))
    parts["logits"] = logits
    parts["process"] = process_bytes
    return Memory(parts=parts, host_parts=host)


def activation_bytes_per_token(
    architecture: Architecture, *, number_bytes: int, recompute_layers: bool
) -> float:
    """Bytes of a token that are kept for the backward pass at its peak, in all layers."""
    d = architecture.hidden_size
    rest = 2.0 * _WIDE * d
    if not recompute_layers:
        return rest + sum(
            block.count * kept_bytes_per_token(block, d, number_bytes)
            for block in architecture.blocks
        )
    inputs = _WIDE * d * architecture.num_layers
    outputs = sum(
        block.count * (number_bytes * attention.width)
        for block, attention in architecture.softmax_blocks()
    )
    return rest + inputs + outputs + _largest_kept(architecture, number_bytes)


def _largest_kept(architecture: Architecture, number_bytes: int) -> float:
    """Bytes of a token that autograd keeps of the layer that keeps most."""
    d = architecture.hidden_size
    return max(kept_bytes_per_token(block, d, number_bytes) for block in architecture.blocks)


def kept_bytes_per_token(block: Block, hidden: int, number_bytes: int) -> float:
    """Bytes of a token that autograd keeps of one layer, in our implementation of the hybrid.

    Float32 are what norms normalised and the inputs of silu and sigmoid; in the weights' dtype are
    all operands of products. Plain networks keep one tensor inside, routed ones two, their inputs
    and their outputs. Layers of other libraries keep about as much with fused kernels, and more
    without. A few numbers of bookkeeping a token are left out.
    """
    attention, feed = block.attention, block.feed_forward
    width = attention.width
    norms = 2 * hidden * (_WIDE + number_bytes)
    if number_bytes < _WIDE:
        norms += hidden * number_bytes  # a rounded copy
    if isinstance(attention, Lightning):
        # q, k and v before and after silu; the gate, what the inner norm normalised, its output.
        own = 3 * width * (_WIDE + number_bytes) + 2 * width * _WIDE + width * number_bytes
    else:
        # q, k, v, the output by heads and by tokens, and the normalisers.
        own = (3 * width + attention.cached_numbers) * number_bytes + attention.heads * _WIDE
    networks = (feed.chosen + feed.shared) * 2 * feed.width * number_bytes
    if feed.has_router:
        networks += feed.chosen * (feed.width + 2 * hidden) * number_bytes
    return float(norms + own + networks)
