"""Seconds of decoding steps, updates and publishes on a described machine (stdlib only).

Each is a roofline: the slower of computing and of reading memory, or of sending, at the fractions
that the machine's description says are achieved, and a constant for what no arithmetic shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cispo.config.machine import MachineConfig
from cispo.plan.architecture import Architecture
from cispo.plan.flops import cost

_OPTIMIZER_BYTES = 28
"""Read and written of a parameter in a step: gradient, master and two moments in, the last three
out."""


def decode_step_seconds(
    architecture: Architecture,
    machine: MachineConfig,
    *,
    num_sequences: int,
    context_tokens: float,
    number_bytes: int,
    num_devices: int,
) -> float:
    """Seconds in which an engine's sequences each get one token.

    A step reads the weights that its tokens meet, the states, which it also writes, and keys and
    values; few sequences of a mixture of experts do not meet all of them.
    """
    d = architecture.hidden_size
    idle = sum(
        block.count
        * (block.feed_forward.experts + block.feed_forward.shared
           - block.feed_forward.touched_experts(num_sequences))
        * block.feed_forward.expert_parameters(d)
        for block in architecture.blocks
    )  # fmt: skip
    embedding = 0 if architecture.is_tied else architecture.vocab_size * d
    read = number_bytes * (architecture.parameters - idle - embedding)
    read += num_sequences * (
        2 * architecture.state_bytes()
        + context_tokens * architecture.cache_bytes_per_token(number_bytes)
    )
    operations = num_sequences * cost(architecture).marginal(context_tokens)
    speed = machine.decode_fraction * num_devices
    return machine.step_seconds + max(
        read / (machine.memory_bytes_per_second * speed),
        operations / (machine.flops_per_second * speed),
    )


def prefill_seconds(
    architecture: Architecture, machine: MachineConfig, *, prompt_tokens: int, num_devices: int
) -> float:
    """Seconds in which an engine reads one prompt."""
    speed = machine.flops_per_second * machine.prefill_fraction * num_devices
    return cost(architecture).total(prompt_tokens) / speed


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnTime:
    """Seconds of an iteration's updates.

    Attributes:
        compute: Forward and backward passes.
        communication: Weights gathered and gradients reduced, which go on beside them.
        optimizer: Optimizer steps.
        constant: What passes cost besides.
        num_passes: Passes of all updates.
    """

    compute: float
    communication: float
    optimizer: float
    constant: float
    num_passes: int

    @property
    def total(self) -> float:
        """The slower of the first two, and the rest."""
        return max(self.compute, self.communication) + self.optimizer + self.constant


def learn_time(
    architecture: Architecture,
    machine: MachineConfig,
    *,
    lengths: Sequence[float],
    num_rollouts: int,
    num_updates: int,
    micro_batch_tokens: int,
    num_ranks: int,
    devices_per_rank: float,
    sequence_parallel: int,
    zero_stage: int,
    recompute_layers: bool,
    number_bytes: int,
    is_offloaded: bool,
) -> LearnTime:
    """Seconds of an iteration's updates.

    Args:
        architecture: The policy.
        machine: The machine.
        lengths: Equally likely lengths of a rollout, prompt included.
        num_rollouts: That an iteration learns from.
        num_updates: Of an iteration.
        micro_batch_tokens: Of one pass of the ranks that share a row.
        num_ranks: R.
        devices_per_rank: Cores of a rank, or 1 GPU.
        sequence_parallel: Ranks that share a row.
        zero_stage: See `cispo.plan.memory.learner_memory`.
        recompute_layers: Whether layers run forward twice.
        number_bytes: Of a weight.
        is_offloaded: Whether the optimizer steps in the host's memory.
    """
    forward = cost(architecture)
    mean_operations = sum(map(forward.total, lengths)) / len(lengths)
    operations = (4 if recompute_layers else 3) * mean_operations * num_rollouts
    speed = machine.flops_per_second * machine.learn_fraction * num_ranks * devices_per_rank
    tokens = sum(lengths) / len(lengths) * num_rollouts / num_updates
    rows = num_ranks // sequence_parallel
    per_update = max(1, math.ceil(tokens / (micro_batch_tokens * rows)))
    passes = per_update * num_updates
    size = number_bytes * architecture.parameters
    sent = {
        # A ring sends what it reduces twice. Stage 1 gathers the new weights once an update.
        0: 2 * 4 * architecture.parameters * num_updates,
        1: (size + 2 * size) * num_updates,
        2: size * passes + size * num_updates,
        3: 3 * size * passes,
    }[zero_stage]
    link = machine.link_bytes_per_second * machine.link_fraction
    divided = num_ranks if zero_stage >= 1 else 1
    # Offloaded, a host's processors work through the share of all its ranks.
    bandwidth = machine.memory_bytes_per_second * (0.02 if is_offloaded else 1.0)
    return LearnTime(
        compute=operations / speed,
        communication=sent / link if num_ranks > 1 else 0.0,
        optimizer=num_updates * _OPTIMIZER_BYTES * architecture.parameters / divided / bandwidth,
        constant=machine.pass_seconds * passes,
        num_passes=passes,
    )


def publish_seconds(
    architecture: Architecture,
    machine: MachineConfig,
    *,
    number_bytes: int,
    num_engines: int,
    transport: str,
) -> float:
    """Seconds from the last update until all engines have the weights.

    A broadcast and a shared file cost one copy; the object store passes a copy on from engine to
    engine, so that the number of those who have it doubles.
    """
    copies = 1 if transport != "object_store" else math.ceil(math.log2(1 + num_engines))
    link = machine.link_bytes_per_second * machine.link_fraction
    return machine.publish_seconds + copies * architecture.weight_bytes(number_bytes) / link
