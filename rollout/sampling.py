"""Draws one token a row from logits and reports the log-probability of what was really drawn.

Everything is done row by row: the same logits, uniform number and settings give the same token and
the same log-probability to the last bit, whatever the other rows hold and however many they are.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cispo.policy.lightning.native.sampling import native_draw, native_uniforms
from rollout.truncation import SamplingRows, draw_truncated

_BLOCK = 128
_ONE, _GOLDEN = np.uint64(1), np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT, _SPARE_BITS = np.uint64(31), np.uint64(11)


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
    z = positions.numpy().view(np.uint64) + _ONE
    z *= _GOLDEN
    z += seeds.numpy().view(np.uint64)
    for shift, factor in _ROUNDS:
        z ^= z >> shift
        z *= factor
    z ^= z >> _LAST_SHIFT
    return torch.from_numpy((z >> _SPARE_BITS) * 2.0**-53)


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
    scaled = logits / settings.temperature[:, None] if settings.has_temperature else logits
    peak = scaled.amax(dim=-1, keepdim=True)
    blocks = _exp_shifted(scaled, peak).view(len(logits), -1, _BLOCK)
    ends = _ends_of_blocks(blocks)
    total = ends[:, -1]
    _require_finite(total)
    drawn = _invert(blocks, ends, noise)
    full = _logprobs(scaled, peak, drawn, total)
    rows = settings.truncated
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


def _require_finite(total: Tensor) -> None:
    if not math.isfinite(total.sum().item()):  # masses are at most 1, so no sum is too large
        raise NonFiniteLogitsError(int((~torch.isfinite(total)).nonzero()[0, 0]))


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


def _ends_of_blocks(blocks: Tensor) -> Tensor:
    """Return the cumulative mass before each block and behind the last, [N, blocks + 1] float64."""
    return F.pad(blocks.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64), (1, 0))


def _invert(blocks: Tensor, ends: Tensor, noise: Tensor) -> Tensor:
    """Return the index [N] at which each row's cumulative mass exceeds its noise.

    Sums of blocks are searched first and one block after it: a cumulative sum over the vocabulary
    in float64 costs ten times as much.
    """
    rows = torch.arange(len(blocks), device=blocks.device)
    target = (noise * ends[:, -1])[:, None]  # less than the last end, as noise is less than 1
    block = torch.searchsorted(ends, target, right=True)[:, 0] - 1
    inner = blocks[rows, block].cumsum(dim=-1, dtype=torch.float64)
    place = torch.searchsorted(inner, target - ends[rows, block, None], right=True)
    # the last one with mass: sums of a block may differ, as they are taken in another order
    last = torch.searchsorted(inner, inner[:, -1:].contiguous())
    return block * _BLOCK + torch.minimum(place, last)[:, 0]
