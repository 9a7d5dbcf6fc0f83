"""What an iteration's groups say in numbers, listed in docs/metrics.md (stdlib only).

Rewards, lengths and verdicts are described over all groups that were sampled, dropped ones
included: over the delivered groups alone dynamic sampling would hide the tasks that are always or
never solved.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from cispo.drops import DropReason
from cispo.length_bias import describe_judge
from cispo.types import Graded, Group, Metrics, PolicyVersion, Rollout, Sample, StopReason, Ungraded

_QUANTILES = (50, 90, 99)
_PASS_RATE_BINS = ("0", "0_to_25", "25_to_50", "50_to_75", "75_to_100", "100")


def describe(
    groups: Sequence[Group],
    samples: Sequence[tuple[Sample, ...]],
    learned: Sequence[Metrics],
    *,
    version: PolicyVersion,
    dropped: Mapping[str, Sequence[Group]],
) -> dict[str, float]:
    """Describe one iteration.

    Args:
        groups: The groups that were delivered.
        samples: Their samples, one tuple a group.
        learned: The learner's metrics, one mapping an update.
        version: Policy version at which the learning began.
        dropped: Groups without signal that were passed over, by `DropReason`.

    Returns:
        Numbers by name. A number without data (the mean length of no right answer) is left out.
    """
    everything = in_task_order(groups, dropped)
    flat = tuple(chain.from_iterable(samples))
    return {
        **_rewards(everything),
        **_pass_rates(everything),
        **_lengths(everything),
        **_stops(everything),
        **_verdicts(everything),
        **describe_judge(everything),
        **{f"drops/{r}_groups": float(len(dropped.get(r, ()))) for r in DropReason},
        **_staleness(flat, version),
        **_texts(everything),
        "rollout/learned_tokens": float(sum(len(s.rollout.token_ids) for s in flat)),
        "learn/samples": float(len(flat)),
        "learn/updates": float(len(learned)),
        **_learned(learned),
    }


def speeds(metrics: Metrics, times: Metrics, *, sampling_seconds: float) -> dict[str, float]:
    """Relate an iteration's tokens to the time that sampling and learning took.

    Args:
        metrics: What `describe` returned.
        times: `time/learn_seconds` among them.
        sampling_seconds: Time in which at least one task was being sampled.
    """
    speed = {"time/rollout_busy_seconds": sampling_seconds}
    if sampling_seconds > 0:
        sampled = metrics["rollout/sampled_tokens"]
        speed["time/rollout_tokens_per_second"] = sampled / sampling_seconds
    if times.get("time/learn_seconds", 0.0) > 0:
        learned = metrics["rollout/learned_tokens"]
        speed["time/learner_tokens_per_second"] = learned / times["time/learn_seconds"]
    return speed


def in_task_order(
    groups: Sequence[Group], dropped: Mapping[str, Sequence[Group]]
) -> tuple[Group, ...]:
    """Merge delivered and dropped groups in the order of their tasks."""
    return tuple(sorted(chain(groups, *dropped.values()), key=lambda group: group.index))


def _rewards(groups: Sequence[Group]) -> dict[str, float]:
    verdicts = [(group.task.source, verdict) for group in groups for _, verdict in group.graded]
    rewards = [verdict.reward for _, verdict in verdicts]
    parts: defaultdict[str, list[float]] = defaultdict(list)
    accuracy: defaultdict[str, list[float]] = defaultdict(list)
    for source, verdict in verdicts:
        accuracy[f"accuracy/source/{source}"].append(verdict.parts["correct"])
        for name, value in verdict.parts.items():
            parts[f"reward/part/{name}"].append(value)
    described = {name: _mean(values) for name, values in sorted({**parts, **accuracy}.items())}
    if rewards:
        mean = _mean(rewards)
        described["reward/mean"] = mean
        described["reward/std"] = math.sqrt(_mean([(r - mean) ** 2 for r in rewards]))
        described["accuracy/mean"] = described["reward/part/correct"]
    return described


def _pass_rates(groups: Sequence[Group]) -> dict[str, float]:
    rates = [
        _mean([float(verdict.parts["correct"] >= 1.0) for _, verdict in group.graded])
        for group in groups
        if group.graded
    ]
    bins = Counter(_pass_rate_bin(rate) for rate in rates)
    return {f"groups/pass_{b}_fraction": bins[b] / len(rates) for b in _PASS_RATE_BINS if rates}


def _pass_rate_bin(rate: float) -> str:
    if rate == 1.0:
        return "100"
    return _PASS_RATE_BINS[math.ceil(rate * 4)]


def _lengths(groups: Sequence[Group]) -> dict[str, float]:
    lengths = sorted(r.num_action_tokens for group in groups for r in group.rollouts)
    described = {
        "length/mean_tokens": _mean(lengths),
        "length/max_tokens": float(lengths[-1]),
        "length/prompt_mean_tokens": _mean(
            [len(r.token_ids) - r.num_action_tokens for group in groups for r in group.rollouts]
        ),
    }
    for percent in _QUANTILES:
        described[f"length/p{percent}_tokens"] = float(nearest_rank(lengths, percent))
    judged = [pair for group in groups for pair in group.graded]
    for name, is_correct in (("correct", True), ("wrong", False)):
        chosen = [
            length for length, right in map(_length_and_success, judged) if right is is_correct
        ]
        if chosen:
            described[f"length/{name}_mean_tokens"] = _mean(chosen)
    return described


def nearest_rank(ascending: Sequence[int], percent: int) -> int:
    """The smallest of the values that this share of them does not exceed."""
    return ascending[math.ceil(percent / 100 * len(ascending)) - 1]


def _length_and_success(pair: tuple[Rollout, Graded]) -> tuple[int, bool]:
    rollout, verdict = pair
    return rollout.num_action_tokens, verdict.parts["correct"] >= 1.0


def _stops(groups: Sequence[Group]) -> dict[str, float]:
    reasons = Counter(r.stop_reason for group in groups for r in group.rollouts)
    return {f"stop/{reason}_fraction": reasons[reason] / reasons.total() for reason in StopReason}


def _texts(groups: Sequence[Group]) -> dict[str, float]:
    """Describe what was sampled, and what the repetition stop spared: the rest of the budgets."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    sampled = sum(rollout.num_action_tokens for rollout in rollouts)
    saved = sum(
        rollout.token_budget - rollout.num_action_tokens
        for rollout in rollouts
        if rollout.stop_reason is StopReason.REPETITION and rollout.token_budget is not None
    )
    return {
        "rollout/sampled_tokens": float(sampled),
        "rollout/perplexity": perplexity(rollouts),
        "rollout/repetition_saved_tokens": float(saved),
        "rollout/repetition_saved_fraction": saved / (sampled + saved),
        "rollout/interrupted_fraction": _mean(
            [_is_interrupted(r) for g in groups for r in g.rollouts if not g.task.is_agentic] or [0]
        ),
    }


def perplexity(rollouts: Sequence[Rollout]) -> float:
    """How undecided mu was: exp of the mean of -log mu over the rollouts' action tokens."""
    num_tokens = sum(rollout.num_action_tokens for rollout in rollouts)
    nats = -math.fsum(math.fsum(rollout.behaviour_logprobs) for rollout in rollouts)
    return math.exp(nats / num_tokens)


def _is_interrupted(rollout: Rollout) -> bool:
    """Whether the engine forced tokens into it: some after the first that was sampled."""
    mask = rollout.action_mask
    return not all(mask[mask.index(True) :])


def _verdicts(groups: Sequence[Group]) -> dict[str, float]:
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    missing = sum(isinstance(verdict, Ungraded) for verdict in verdicts)
    return {
        "verdict/rollouts": float(len(verdicts)),
        "verdict/invalid_rollouts": float(missing),
        "verdict/invalid_fraction": missing / len(verdicts),
    }


def _staleness(samples: Sequence[Sample], version: PolicyVersion) -> dict[str, float]:
    ages = [version - sample.rollout.oldest_version for sample in samples]
    if not ages:
        return {}
    rollouts = [sample.rollout for sample in samples]
    described = {
        "staleness/mean": _mean(ages),
        "staleness/max": float(max(ages)),
        "staleness/mixed_fraction": _mean([r.oldest_version < r.newest_version for r in rollouts]),
    }
    by_token = [(version - one, count) for r in rollouts for one, count in r.version_runs]
    if by_token:
        total = sum(age * count for age, count in by_token)
        described["staleness/token_mean"] = total / sum(count for _, count in by_token)
    return described


def _learned(learned: Sequence[Metrics]) -> dict[str, float]:
    """Average over updates, but keep extremes; a mismatch exists before the first update only."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for metrics in learned:
        for name, value in metrics.items():
            values[name].append(value)
    over_updates: dict[str, Callable[[list[float]], float]] = {"min": min, "max": max}
    return {
        name: numbers[0]
        if name.startswith("mismatch/")
        else over_updates.get(name.rpartition("/")[2], _mean)(numbers)
        for name, numbers in values.items()
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
