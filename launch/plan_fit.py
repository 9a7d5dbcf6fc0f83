"""Refuses a run whose parts do not fit the machine, and says what would."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cispo.config import Offload
from cispo.config.plan import PlanConfig
from cispo.errors import ConfigError
from cispo.plan.architecture import Architecture
from cispo.plan.memory import Memory, engine_memory, learner_memory, most_sequences

_MOST_DEVICES = 64
"""Of one engine that are thought of."""


def number_bytes_of(cfg: PlanConfig) -> int:
    """Bytes of a weight."""
    return 2 if cfg.policy.dtype == "bfloat16" else 4


def check_devices(cfg: PlanConfig) -> None:
    """Refuse a run that reserves other devices than the machine has.

    Raises:
        ConfigError: With what to set.
    """
    for key, count in (("rollout", cfg.rollout.num_gpus), ("learner", cfg.learner.num_gpus)):
        if cfg.machine.is_gpu and count == 0:
            raise ConfigError(
                f"{key}.num_gpus=0: machine {cfg.machine.name} has GPUs; set {key}.num_gpus=1, or "
                "machine=cpu2"
            )
        if not cfg.machine.is_gpu and count > 0:
            raise ConfigError(
                f"{key}.num_gpus={count}: machine {cfg.machine.name} has no GPU; choose "
                "machine=h100, or the like"
            )
    if cfg.machine.is_gpu and cfg.learner.num_gpus != 1:
        raise ConfigError(f"learner.num_gpus={cfg.learner.num_gpus}: a rank computes on one GPU")


def engine_of(cfg: PlanConfig, architecture: Architecture, context: float) -> Memory:
    """Memory of one device of an engine, or of the engine where devices are cores."""
    return engine_memory(
        architecture,
        number_bytes=number_bytes_of(cfg),
        num_devices=max(1, round(cfg.rollout.num_gpus)) if cfg.machine.is_gpu else 1,
        max_sequences=cfg.rollout.max_sequences,
        context_tokens=context,
        process_bytes=0.0 if cfg.machine.is_gpu else cfg.machine.process_bytes,
    )


def learner_of(cfg: PlanConfig, architecture: Architecture, **changes: Any) -> Memory:
    """Memory of one rank, with some of `learner`'s keys, or `recompute_layers`, changed."""
    recompute = changes.pop("recompute_layers", cfg.policy.recompute_layers)
    learner = replace(cfg.learner, **changes)
    longest = cfg.assume.prompt_tokens + cfg.rollout.sampling.max_new_tokens
    return learner_memory(
        architecture,
        number_bytes=number_bytes_of(cfg),
        num_ranks=learner.num_ranks,
        zero_stage=learner.zero_stage if learner.backend == "deepspeed" else 0,
        offload=learner.offload,
        row_tokens=max(learner.micro_batch_tokens, longest),
        sequence_parallel=learner.sequence_parallel,
        recompute_layers=recompute,
        logprob_chunk=cfg.policy.logprob_chunk,
        activation_factor=1.0 if recompute else cfg.machine.activation_factor,
        process_bytes=0.0 if cfg.machine.is_gpu else cfg.machine.process_bytes,
    )


def check_fit(
    cfg: PlanConfig,
    architecture: Architecture,
    engine: Memory,
    learner: Memory,
    *,
    context_tokens: float,
) -> None:
    """Refuse what does not fit a device, or its host.

    Raises:
        ConfigError: With the numbers, the part that takes most, and what would fit.
    """
    usable = cfg.machine.usable_bytes
    if not cfg.machine.is_gpu:
        engines, ranks = cfg.rollout.num_actors, cfg.learner.num_ranks
        each_engine, each_rank = (one.total + one.host_total for one in (engine, learner))
        needed = engines * each_engine + ranks * each_rank
        if needed > usable:
            raise ConfigError(
                f"machine={cfg.machine.name}: {engines} engines of {_gb(each_engine)} (most of it "
                f"{engine.largest}) and {ranks} ranks of {_gb(each_rank)} (most of it "
                f"{learner.largest}) need {_gb(needed)} of {_gb(usable)}; lower "
                "rollout.max_sequences or learner.micro_batch_tokens, or take a larger machine"
            )
        return
    if engine.total > usable:
        raise ConfigError(_engine_refusal(cfg, architecture, engine, context_tokens))
    if not _rank_fits(cfg, learner):
        raise ConfigError(_learner_refusal(cfg, architecture, learner))


def fitting_sequences(
    cfg: PlanConfig, architecture: Architecture, *, context_tokens: float, num_gpus: int
) -> int:
    """Sequences that an engine of so many GPUs could run at once."""
    return most_sequences(
        architecture,
        number_bytes=number_bytes_of(cfg),
        num_devices=num_gpus,
        context_tokens=context_tokens,
        device_bytes=cfg.machine.usable_bytes,
    )


def _engine_refusal(
    cfg: PlanConfig, architecture: Architecture, engine: Memory, context_tokens: float
) -> str:
    devices = max(1, round(cfg.rollout.num_gpus))
    fitting = {
        count: fitting_sequences(cfg, architecture, context_tokens=context_tokens, num_gpus=count)
        for count in (devices, *(2**power for power in range(_MOST_DEVICES.bit_length())))
        if count >= devices
    }
    advice = [f"rollout.max_sequences={fitting[devices]}"] if fitting[devices] else []
    enough = [count for count, fits in fitting.items() if fits >= cfg.rollout.max_sequences]
    advice += [f"rollout.num_gpus={min(enough)}"] if enough else []
    return (
        f"rollout.max_sequences={cfg.rollout.max_sequences}: a GPU of an engine needs "
        f"{_gb(engine.total)} of {_gb(cfg.machine.usable_bytes)}, most of it {engine.largest} "
        f"({_gb(engine.parts[engine.largest])}); {_set_one_of(advice)}"
    )


def _learner_refusal(cfg: PlanConfig, architecture: Architecture, learner: Memory) -> str:
    fitting = [
        words
        for words, changes in _changes(cfg, architecture)
        if _rank_fits(cfg, learner_of(cfg, architecture, **changes))
    ]
    return (
        f"learner.zero_stage={cfg.learner.zero_stage}: a rank needs {_gb(learner.total)} of "
        f"{_gb(cfg.machine.usable_bytes)}, most of it {learner.largest} "
        f"({_gb(learner.parts[learner.largest])}), and {_gb(learner.host_total)} of its host; "
        f"{_set_one_of(fitting)}"
    )


def _changes(cfg: PlanConfig, architecture: Architecture) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings that take less memory, mild ones first."""
    learner = cfg.learner
    if cfg.policy.backend == "lightning" and not cfg.policy.recompute_layers:
        yield "policy.recompute_layers=true", {"recompute_layers": True}
    longest = cfg.assume.prompt_tokens + cfg.rollout.sampling.max_new_tokens
    for tokens in (learner.micro_batch_tokens // 2, learner.micro_batch_tokens // 4):
        if tokens >= longest:
            yield f"learner.micro_batch_tokens={tokens}", {"micro_batch_tokens": tokens}
    if learner.backend == "deepspeed":
        for stage in range(learner.zero_stage + 1, 4):
            yield f"learner.zero_stage={stage}", {"zero_stage": stage}
        if learner.zero_stage >= 1 and learner.offload == Offload.NONE:
            yield "learner.offload=optimizer", {"offload": Offload.OPTIMIZER}
    heads = min(attention.heads for _, attention in architecture.softmax_blocks())
    size = learner.sequence_parallel * 2
    while cfg.policy.backend == "lightning" and learner.num_ranks % size == 0 == heads % size:
        yield f"learner.sequence_parallel={size}", {"sequence_parallel": size}
        size *= 2
    for factor in (2, 4, 8, 16):
        ranks = learner.num_ranks * factor
        yield f"learner.num_ranks={ranks}", {"num_ranks": ranks}
    if learner.backend == "deepspeed":
        ranks = max(learner.num_ranks, cfg.machine.devices_per_host)
        for factor in (1, 2, 4, 8, 16, 32):
            wide = {"num_ranks": ranks * factor, "zero_stage": 3, "recompute_layers": True}
            words = f"learner.zero_stage=3 learner.num_ranks={ranks * factor}"
            yield f"{words} policy.recompute_layers=true", wide


def _rank_fits(cfg: PlanConfig, learner: Memory) -> bool:
    on_host = learner.host_total * cfg.machine.devices_per_host
    host = cfg.machine.host_memory_bytes * (1 - cfg.machine.memory_margin)
    return learner.total <= cfg.machine.usable_bytes and on_host <= host


def _set_one_of(advice: list[str]) -> str:
    if not advice:
        return "no single setting makes it fit; take more or larger devices, or a smaller model"
    return "what would fit: " + " | ".join(advice[:3])


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
