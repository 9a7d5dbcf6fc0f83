"""Draws one token a row from logits and reports the log-probability of what was really drawn.

Everything is done row by row: the same logits, uniform number and settings give the same token and
the same log-probability to the last bit, whatever the other rows hold and however many they are.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cispo.policy.lightning.native.sampling import native_draw, native_uniforms
from rollout.truncation import SamplingRows, draw_truncated

_BLOCK = 128
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class NonFiniteLogitsError(FloatingPointError):
    """A row of logits is not a distribution.

    Attributes:
        row: The first such row.
    """

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


class Drawn(NamedTuple):
    """One sampled token a row.

    Attributes:
        token_ids: [N] int64.
        logprobs: [N] float32 in nats, of the distribution after temperature and truncation,
            renormalised.
        full_logprobs: [N] float32 in nats, after temperature and before truncation; `full_logprobs
            - logprobs` is the log of the mass that truncation kept.
    """

    token_ids: Tensor
    logprobs: Tensor
    full_logprobs: Tensor


def uniforms(seeds: Tensor, positions: Tensor, *, kernels: str = "torch") -> Tensor:
    """Return one number in [0, 1) a row, a pure function of the row's seed and position.

    It is the SplitMix64 generator of Steele, Lea and Flood (2014) read at an arbitrary position, so
    that no generator state has to follow a sequence around.

    Args:
        seeds: [N] int64.
        positions: [N] int64, >= 0.
        kernels: `native` computes the same numbers faster.

    Returns:
        [N] float64 with 53 random bits.
    """
    if kernels == "native":
        return native_uniforms(seeds, positions)
    counter = positions.numpy().astype(np.uint64) + np.uint64(1)
    z = seeds.numpy().view(np.uint64) + counter * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def sample(
    logits: Tensor, noise: Tensor, settings: SamplingRows, *, kernels: str = "torch"
) -> Drawn:
    """Draw one token a row by inverting its cumulative distribution.

    Temperature comes first; then top-k by rank, top-p on what top-k left (renormalised), and min-p
    relative to the likeliest token. Each keeps a prefix of the ranking, so the shortest one counts.

    Args:
        logits: [N, V] float32; -inf forbids a token.
        noise: [N] float64 in [0, 1), one a row, on the logits' device.
        settings: One row each, on the logits' device.
        kernels: `native` draws with compiled code, on CPU; the same tokens but for rounding.

    Raises:
        NonFiniteLogitsError: A row has a NaN or no finite largest logit.
    """
    if kernels == "native":
        *drawn, bad_row = native_draw(logits, noise, *settings)
        if bad_row >= 0:
            raise NonFiniteLogitsError(bad_row)
        return Drawn(*drawn)
    return _sample_by_torch(logits, noise, settings)


def likeliest(logits: Tensor, temperature: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities and ids, both [N, count], of the likeliest tokens, descending.

    Args:
        logits: [N, V] float32.
        temperature: [N] float32.
        count: At most V are returned.
    """
    logprobs = (logits / temperature[:, None]).log_softmax(dim=-1)
    values, ids = logprobs.topk(min(count, logits.shape[1]), dim=-1)
    return values, ids


def _sample_by_torch(logits: Tensor, noise: Tensor, settings: SamplingRows) -> Drawn:
    scaled, peak = _scaled(logits, settings.temperature)
    drawn, total = _invert(_exp_shifted(scaled, peak), noise)
    finite = torch.isfinite(total)
    if not bool(finite.all()):
        raise NonFiniteLogitsError(int((~finite).nonzero()[0, 0]))
    full = _logprobs(scaled, peak, drawn, total)
    rows = _truncated_rows(settings)
    if len(rows) == 0:
        logprobs = full.clamp_(max=0.0).float()
        return Drawn(drawn, logprobs, logprobs)
    of, kept_logprobs = settings.rows(rows), full.clone()
    scaled, peak = scaled[rows], peak[rows]
    mass = _exp_shifted(scaled, peak)[:, : logits.shape[1]]
    drawn[rows], kept = draw_truncated(mass, total[rows], noise[rows], of)
    full[rows] = _logprobs(scaled, peak, drawn[rows], total[rows])
    kept_logprobs[rows] = full[rows] - (kept / total[rows]).log()
    return Drawn(drawn, kept_logprobs.clamp_(max=0.0).float(), full.clamp_(max=0.0).float())


def _truncated_rows(settings: SamplingRows) -> Tensor:
    truncates = (settings.top_p < 1.0) | (settings.top_k > 0) | (settings.min_p > 0.0)
    return truncates.nonzero()[:, 0]


def _scaled(logits: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits over temperature [N, V], and the highest ones [N, 1]."""
    if bool((temperature != 1.0).any()):
        logits = logits / temperature[:, None]
    return logits, logits.amax(dim=-1, keepdim=True)


def _logprobs(scaled: Tensor, peak: Tensor, token_ids: Tensor, total: Tensor) -> Tensor:
    return (scaled.gather(1, token_ids[:, None]) - peak)[:, 0].double() - total.log()


def _exp_shifted(logits: Tensor, peak: Tensor) -> Tensor:
    """Return exp(logits - peak), zero-padded to a whole number of blocks: [N, blocks * _BLOCK]."""
    rows, vocabulary = logits.shape
    width = -(-vocabulary // _BLOCK) * _BLOCK
    if width == vocabulary:
        return (logits - peak).exp_()
    mass = logits.new_full((rows, width), float("-inf"))
    torch.sub(logits, peak, out=mass[:, :vocabulary])
    return mass.exp_()


def _invert(mass: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the drawn index [N] and the total mass [N] of each row, in float64.

    Sums of blocks are searched first and one block after it: a cumulative sum over the vocabulary
    in float64 costs ten times as much.
    """
    rows = torch.arange(mass.shape[0], device=mass.device)
    blocks = mass.view(mass.shape[0], mass.shape[1] // _BLOCK, _BLOCK)
    ends = blocks.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    total = ends[:, -1]
    target = noise * total
    block = _first_above(ends, target)
    start = torch.where(block > 0, ends[rows, (block - 1).clamp_min(0)], 0.0)
    inner = blocks[rows, block].cumsum(dim=-1, dtype=torch.float64)
    return block * _BLOCK + _first_above(inner, target - start), total


def _first_above(ends: Tensor, target: Tensor) -> Tensor:
    """Return the first index [N] whose cumulative mass exceeds the target; it has mass itself."""
    last = (ends < ends[:, -1:]).sum(dim=-1)
    return torch.minimum((ends <= target[:, None]).sum(dim=-1), last)
