"""What is kept of single tokens: their text, log-probability and ratio, up to a number a file."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from cispo.tracking.pieces import numbers
from cispo.types import Lesson, Rollout


class TokenRecord:
    """Describes the tokens of one file's rollouts, in turn, until their number is used up.

    Args:
        max_tokens: From a rollout's first action token on, tool outputs included.
        pieces: Texts of token ids; None shows the ids.
    """

    def __init__(
        self, max_tokens: int, pieces: Callable[[Sequence[int]], Sequence[str]] | None = None
    ) -> None:
        self._left = max_tokens
        self._pieces = pieces or numbers

    def of(self, rollout: Rollout, lesson: Lesson | None = None) -> dict[str, Any] | None:
        """Describe a rollout's tokens, the first of them where not all fit, or None.

        Returns:
            `pieces`; `logprobs`, log mu in nats, null where the policy did not sample; `ratios`,
            pi/mu after the iteration's updates, as far as the lesson has been measured; and
            `num_left_out`.
        """
        start = rollout.action_mask.index(True)
        length = len(rollout.token_ids)
        end = min(length, start + self._left)
        if end == start:
            return None
        self._left -= end - start
        mask = rollout.action_mask[start:end]
        behaviour = rollout.behaviour_logprobs[start:end]
        found: dict[str, Any] = {
            "pieces": list(self._pieces(rollout.token_ids[start:end])),
            "logprobs": [round(p, 4) if m else None for p, m in zip(behaviour, mask, strict=True)],
            "num_left_out": length - end,
        }
        measured = lesson.logprobs[start:end] if lesson else ()
        if len(measured) > 0:
            found["ratios"] = [
                _ratio(pi, mu) if is_action else None
                for pi, mu, is_action in zip(measured, behaviour, mask, strict=False)  # may be cut
            ]
        return found


def _ratio(pi: float, mu: float) -> float | None:
    nats = float(pi) - mu
    return float(f"{math.exp(min(nats, 50.0)):.4g}") if math.isfinite(nats) else None
