"""What an update measures over its action tokens, as sums that micro-batches and ranks can add."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cispo.batch.packing import Batch
from cispo.learner.routers import router_metrics
from cispo.policy.base import TokenScores

BIN_NATS = 0.01
"""Width of a bin of log(pi/mu): quantiles of the ratio are exact to one percent of their value."""

REACH_BINS = 500
"""Bins on each side of 0, hence quantiles between exp(-5) and exp(5)."""

INERT = 1e-6
"""A ratio this close to one leaves every clip without effect."""

SUMS = (
    "tokens",
    "actions",
    "loss",
    "aux_loss",
    "weight",
    "weight_squared",
    "capped",
    "floored",
    "positive",
    "negative",
    "capped_positive",
    "capped_negative",
    "inert",
    "entropy",
    "k1",
    "k3",
    "corrected",
    "correction",
    "correction_capped",
    "fresh",
    "gap",
    "p",
    "q",
    "pp",
    "qq",
    "pq",
)
MAXIMA = ("log_ratio", "negative_log_ratio", "gap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Sums, maxima and a histogram over action tokens.

    Attributes:
        sums: [len(SUMS)] float64.
        maxima: [len(MAXIMA)] float64; -inf where nothing was seen.
        histogram: [2 * REACH_BINS + 1] float64, tokens by log(pi/mu); the outer bins are open.
        expert_counts: [L, E] float64, tokens that each expert of each layer got, prompts included;
            L is 0 in a model without routers.
        router_entropy: [L] float64, entropy of each router's probabilities, summed over tokens.
    """

    sums: Tensor
    maxima: Tensor
    histogram: Tensor
    expert_counts: Tensor
    router_entropy: Tensor

    @staticmethod
    def empty(device: torch.device, *, routers: tuple[int, int] = (0, 0)) -> "Statistics":
        """Statistics of no tokens, in a model with L routers to E experts each."""
        return Statistics(
            sums=torch.zeros(len(SUMS), dtype=torch.float64, device=device),
            maxima=torch.full((len(MAXIMA),), -math.inf, dtype=torch.float64, device=device),
            histogram=torch.zeros(2 * REACH_BINS + 1, dtype=torch.float64, device=device),
            expert_counts=torch.zeros(routers, dtype=torch.float64, device=device),
            router_entropy=torch.zeros(routers[0], dtype=torch.float64, device=device),
        )

    def add(self, other: "Statistics") -> None:
        """Count the other's tokens as well, in place."""
        self.sums.add_(other.sums)
        torch.maximum(self.maxima, other.maxima, out=self.maxima)
        self.histogram.add_(other.histogram)
        self.expert_counts.add_(other.expert_counts)
        self.router_entropy.add_(other.router_entropy)


@torch.no_grad()
def measure(
    batch: Batch,
    scores: TokenScores,
    weights: Tensor,
    *,
    loss: Tensor,
    aux_loss: Tensor,
    ratio_max: float,
    ratio_min: float,
    fresh_version: int | None,
    correction_max: float | None = None,
) -> Statistics:
    """Measure one micro-batch; a sequence with token weights of zero is not there.

    Args:
        batch: The batch.
        scores: The policy's log-probabilities and entropies of it.
        weights: [T] the objective's clipped ratios.
        loss: Its share of the objective's loss.
        aux_loss: Its share of the experts' balance loss.
        ratio_max: A weight at this bound, where the token's ratio is not, counts as capped.
        ratio_min: A weight at this bound, where the token's ratio is not, counts as floored.
        fresh_version: Version of the policy as it stands, whose tokens show the mismatch between
            engine and learner. None once the policy has moved on.
        correction_max: Upper bound of anchor/mu; None where nothing is corrected by it.
    """
    is_counted = batch.token_weights != 0
    logprobs = scores.logprobs.detach()[is_counted]
    behaviour = batch.behaviour_logprobs[is_counted]
    load = scores.router_load
    num_layers, num_experts = (0, 0) if load is None else load.counts.shape
    statistics = Statistics.empty(batch.token_ids.device, routers=(num_layers, num_experts))
    if logprobs.numel() == 0:
        return statistics
    if load is not None:
        statistics.expert_counts.copy_(load.counts)
        statistics.router_entropy.copy_(load.entropy * batch.num_tokens)
    anchor = batch.anchor[is_counted]
    log_ratios = logprobs - anchor
    values = _ratio_values(
        log_ratios,
        weights[is_counted],
        batch.advantages[is_counted],
        ratio_max=ratio_max,
        ratio_min=ratio_min,
    )
    values["entropy"] = scores.entropy.detach()[is_counted]
    log_gaps = logprobs - behaviour
    values |= {"k1": -log_gaps, "k3": log_gaps.expm1() - log_gaps}
    if correction_max is not None:
        corrections = (anchor - behaviour).exp()
        values["corrected"] = torch.ones_like(corrections)
        values["correction"] = corrections.clamp(max=correction_max)
        values["correction_capped"] = corrections > correction_max
    statistics.maxima[:2] = torch.stack([log_ratios.max(), (-log_ratios).max()])
    if fresh_version is not None:
        lengths = batch.cu_seqlens.diff().long()
        is_fresh = (batch.versions == fresh_version).repeat_interleave(lengths)[is_counted]
        values |= _gap_values(logprobs, behaviour, is_fresh)
        statistics.maxima[2] = torch.where(is_fresh, log_gaps.abs(), -math.inf).max()
    values |= {"loss": loss, "aux_loss": aux_loss, "tokens": torch.tensor(batch.num_tokens)}
    for name, value in values.items():
        statistics.sums[SUMS.index(name)] = value.sum(dtype=torch.float64)
    statistics.histogram.add_(_histogram(log_ratios))
    return statistics


def _histogram(log_ratios: Tensor) -> Tensor:
    # A NaN has no bin, and the step that shows one is refused before anyone reads this.
    bins = (log_ratios / BIN_NATS).round().clamp(-REACH_BINS, REACH_BINS).nan_to_num()
    return bins.add(REACH_BINS).long().bincount(minlength=2 * REACH_BINS + 1)


def _ratio_values(
    log_ratios: Tensor, weights: Tensor, advantages: Tensor, *, ratio_max: float, ratio_min: float
) -> dict[str, Tensor]:
    ratios = log_ratios.exp()
    is_bounded = weights != ratios
    is_capped = is_bounded & (weights >= ratio_max)
    is_positive, is_negative = advantages > 0, advantages < 0
    return {
        "actions": torch.ones_like(ratios),
        "weight": weights,
        "weight_squared": weights.square(),
        "capped": is_capped,
        "floored": is_bounded & (weights <= ratio_min),
        "positive": is_positive,
        "negative": is_negative,
        "capped_positive": is_capped & is_positive,
        "capped_negative": is_capped & is_negative,
        "inert": (ratios - 1.0).abs() < INERT,
    }


def _gap_values(logprobs: Tensor, behaviour: Tensor, is_fresh: Tensor) -> dict[str, Tensor]:
    p = torch.where(is_fresh, logprobs.double().exp(), 0.0)
    q = torch.where(is_fresh, behaviour.double().exp(), 0.0)
    return {
        "fresh": is_fresh,
        "gap": torch.where(is_fresh, (logprobs - behaviour).abs(), 0.0),
        "p": p,
        "q": q,
        "pp": p * p,
        "qq": q * q,
        "pq": p * q,
    }


def metrics(statistics: Statistics) -> dict[str, float]:
    """Turn the statistics of a whole update into numbers by name, listed in docs/metrics.md."""
    s = dict(zip(SUMS, statistics.sums.tolist(), strict=True))
    top = dict(zip(MAXIMA, statistics.maxima.tolist(), strict=True))
    n = s["actions"]
    numbers = {
        "learn/loss": s["loss"],
        "learn/tokens": s["tokens"],
        "learn/action_tokens": n,
        "learn/aux_loss": s["aux_loss"],
        "weight/mean": s["weight"] / n,
        "weight/effective_sample_fraction": _share(s["weight"] ** 2, n * s["weight_squared"]),
        "weight/capped_fraction": s["capped"] / n,
        "weight/floored_fraction": s["floored"] / n,
        "weight/capped_positive_fraction": _share(s["capped_positive"], s["positive"]),
        "weight/capped_negative_fraction": _share(s["capped_negative"], s["negative"]),
        "ratio/inert_fraction": s["inert"] / n,
        "ratio/min": _exp(-top["negative_log_ratio"]),
        "ratio/max": _exp(top["log_ratio"]),
        "entropy/mean_nats": s["entropy"] / n,
        "kl/k1_nats": s["k1"] / n,
        "kl/k3_nats": s["k3"] / n,
    }
    for percent in (1, 10, 50, 90, 99):
        numbers[f"ratio/p{percent:02d}"] = _ratio_quantile(statistics.histogram, percent / 100)
    if s["corrected"]:
        numbers["correction/mean"] = s["correction"] / s["corrected"]
        numbers["correction/capped_fraction"] = s["correction_capped"] / s["corrected"]
    if s["fresh"]:
        numbers["mismatch/mean_nats"] = s["gap"] / s["fresh"]
        numbers["mismatch/max_nats"] = top["gap"]
        numbers["mismatch/tokens"] = s["fresh"]
        numbers["mismatch/probability_correlation"] = _correlation(s)
    return numbers | router_metrics(
        statistics.expert_counts, statistics.router_entropy / s["tokens"]
    )


def _ratio_quantile(histogram: Tensor, share: float) -> float:
    counts = histogram.cumsum(0)
    index = int(torch.searchsorted(counts, share * counts[-1]).item())
    return math.exp((min(index, 2 * REACH_BINS) - REACH_BINS) * BIN_NATS)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700.0 else math.inf


def _correlation(s: dict[str, float]) -> float:
    """Pearson's r of the token probabilities of learner and engine; 1 where both are constant."""
    n = s["fresh"]
    spread_p = n * s["pp"] - s["p"] ** 2
    spread_q = n * s["qq"] - s["q"] ** 2
    if spread_p <= 0.0 or spread_q <= 0.0:
        return 1.0
    return (n * s["pq"] - s["p"] * s["q"]) / math.sqrt(spread_p * spread_q)
