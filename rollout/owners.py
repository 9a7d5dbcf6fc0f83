"""Whose tokens the rows of an engine hold, with a row and without one."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from cispo.policy.lightning.state import DecodeState
from cispo.types import PolicyVersion
from rollout.backends.base import Request, TopLogprobs


@dataclass(slots=True, eq=False)
class Owner:
    """Whose tokens a row holds.

    Attributes:
        request: The request.
        member: Which of its members.
        version_starts: Each version of the weights with the first token that it sampled.
        num_streamed: Tokens that were handed out as increments.
        num_replayed: Tokens whose log-probabilities were replaced by `replace_logprobs`.
        top_logprobs: A list a token, where the request asks for them.
        texts: Texts that end the sequence or its thoughts.
    """

    request: Request
    member: int
    version_starts: list[tuple[int, int]] = field(default_factory=list)
    num_streamed: int = 0
    num_replayed: int = 0
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    texts: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class SavedRow:
    """A sequence without a row, that can be given one again.

    Attributes:
        owner: Whose it is.
        columns: Its value in every column.
        records: Its sampled tokens and their log-probabilities.
    """

    owner: Owner
    columns: list[Tensor]
    records: list[Tensor]

    @property
    def token_ids(self) -> list[int]:
        """What was sampled so far."""
        ids: list[int] = self.records[0].tolist()
        return ids


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What a suspended request takes along.

    Attributes:
        next_member: The first member that had no row yet.
        version: The engine's weights.
        rows: Sequences, and what each has read of all its tokens but the last one; None where that
            has to be computed again.
    """

    next_member: int
    version: PolicyVersion
    rows: list[tuple[SavedRow, DecodeState | None]]
