"""What surrounds correctness in a reward: form, length, and the weighted sum (stdlib only)."""

from collections.abc import Mapping

from rewards.extract import has_form

KNOWN_PARTS = frozenset(
    {
        *("correct", "format", "overlong", "score", "passed_fraction", "grade", "preference"),
        *("applied", "fail_to_pass", "pass_to_pass", "tamper"),
    }
)
"""Parts that may have a weight; `score` is of logic, `passed_fraction` of code, `grade` and
`preference` are of the judge, the last four of swe."""


def format_part(text: str) -> float:
    """Return 1.0 where the text is one thought and then an answer, else 0.0."""
    return float(has_form(text))


def overlong_part(num_tokens: int, *, max_tokens: int, cache_tokens: int) -> float:
    """Return DAPO's penalty for length, eq. 13, in -1..0 (arXiv 2503.14476).

    It is 0 up to `max_tokens - cache_tokens`, falls in a straight line to -1 at `max_tokens`, and
    stays there.

    Args:
        num_tokens: Tokens that the policy sampled.
        max_tokens: The budget L_max.
        cache_tokens: L_cache, the length of the slope; 0 turns the penalty off.
    """
    if cache_tokens == 0:
        return 0.0
    over = num_tokens - (max_tokens - cache_tokens)
    return -min(max(over / cache_tokens, 0.0), 1.0)


def weighted_sum(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the reward; a part without a weight and a weight without its part count nothing."""
    return sum(weight * parts.get(name, 0.0) for name, weight in weights.items())
