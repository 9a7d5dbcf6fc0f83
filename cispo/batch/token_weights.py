"""How tokens share the loss of one optimizer step: the normaliser of every objective, as data."""

from collections import Counter
from collections.abc import Sequence
from typing import assert_never

import numpy as np

from cispo.config import TokenWeighting
from cispo.types import Sample


def num_action_tokens(sample: Sample) -> int:
    """|o_i|, counted without a Python loop over tokens."""
    return int(np.count_nonzero(np.asarray(sample.rollout.action_mask, dtype=np.bool_)))


def token_weights(samples: Sequence[Sample], *, weighting: TokenWeighting) -> list[float]:
    """Weight of each action token of every sample; over a whole update all weights sum to one.

    With N samples of |o_i| action tokens, in P groups g:

    * `PROMPT`: 1 / (P * sum_{j in g} |o_j|), eq. 4 of MiniMax-M1 (arXiv 2506.13585), whose
      denominator stands inside the expectation over prompts.
    * `TOKEN`: 1 / sum_j |o_j| over the whole update, what most code calls DAPO's average.
    * `SAMPLE`: 1 / (N * |o_i|), GRPO.
    * `SAMPLE_TOKEN`: the mean of `SAMPLE` and `TOKEN`.

    The paper answers the collapse of long tails by "combined sample-level loss and token-level
    normalization" (page 12) without a formula. It is read here as both losses in equal parts:
    the sample term stops long negative samples from dominating the gradient, the token term keeps
    the length in the objective. The other reading, samples weighted equally by their summed
    loss and divided by all tokens, is `TOKEN` itself.

    Args:
        samples: All samples of one optimizer step, over all micro-batches and ranks.
        weighting: The average.

    Returns:
        One weight a sample, to be given to each of its action tokens.
    """
    lengths = [num_action_tokens(sample) for sample in samples]
    total = sum(lengths)
    match weighting:
        case TokenWeighting.PROMPT:
            by_group: Counter[int] = Counter()
            for sample, length in zip(samples, lengths, strict=True):
                by_group[sample.group_index] += length
            return [1.0 / (len(by_group) * by_group[sample.group_index]) for sample in samples]
        case TokenWeighting.TOKEN:
            return [1.0 / total] * len(samples)
        case TokenWeighting.SAMPLE:
            return [1.0 / (len(samples) * length) for length in lengths]
        case TokenWeighting.SAMPLE_TOKEN:
            return [0.5 / (len(samples) * length) + 0.5 / total for length in lengths]
        case _:
            assert_never(weighting)
