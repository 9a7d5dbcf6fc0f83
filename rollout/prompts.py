"""Reads waiting prompts in pieces, a bounded number of tokens between two steps of decoding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.pages import PAGE, PageAllocator
from cispo.policy.lightning.state import DecodeState
from cispo.types import PolicyVersion
from rollout.backends.base import Request
from rollout.owners import SavedRow
from rollout.prefix_cache import Prefix, PrefixCache, Read, prefixes

_PIECE = 512
"""Tokens of a prompt that are computed at once, roughly."""


@dataclass(slots=True, eq=False)
class Reading:
    """A request with members that have no row yet, because their tokens are not read.

    Attributes:
        request: The request.
        saved: The sequence that goes on after its own tokens; None for members that begin.
        next_member: The first member without a row, where members begin.
        cuts: Where the tokens are cut, under the present weights.
        num_read: Tokens that were read.
        read: What they left; None before.
    """

    request: Request
    saved: SavedRow | None = None
    next_member: int = 0
    cuts: list[Prefix] = field(default_factory=list)
    num_read: int = 0
    read: Read | None = None

    @property
    def remaining(self) -> int:
        """Rows that it still needs."""
        return 1 if self.saved is not None else len(self.request.seeds) - self.next_member

    @property
    def is_ready(self) -> bool:
        """Whether all tokens are read."""
        return bool(self.cuts) and self.num_read == self.cuts[-1].length

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All that has to be read."""
        sampled = () if self.saved is None else self.saved.token_ids
        return (*self.request.prompt, *sampled)

    def forget(self) -> None:
        """Drop what was read."""
        if self.read is not None:
            self.read.drop()
        self.read, self.num_read, self.cuts = None, 0, []


class PromptReader:
    """Prompts in the order in which they came; those that fit free rows are read together.

    A prompt is cut at places that are counted from its own start, so that what it leaves behind
    depends on its tokens alone, whatever is read with it and whether a part of it was kept.

    Args:
        model: Reads.
        allocator: Pages of the rows that will go on.
        cache: Keeps what was read.
    """

    def __init__(self, model: LightningModel, allocator: PageAllocator, cache: PrefixCache) -> None:
        self._model = model
        self._allocator = allocator
        self._cache = cache
        unit = math.lcm(PAGE, model.config.block_size)
        self._chunk = max(1, _PIECE // unit) * unit
        self._device = model.lm_head.weight.device
        self._waiting: list[Reading] = []
        self.version = PolicyVersion(0)

    @property
    def num_waiting(self) -> int:
        """Sequences without a row."""
        return sum(reading.remaining for reading in self._waiting)

    def add(self, *readings: Reading, first: bool = False) -> None:
        """Let requests wait, behind all others or before them."""
        self._waiting = [*readings, *self._waiting] if first else [*self._waiting, *readings]

    def remove(self, request_id: int) -> list[Reading]:
        """Take out what waits of a request; what was read of it is dropped."""
        removed = [r for r in self._waiting if r.request.request_id == request_id]
        for reading in removed:
            reading.forget()
        self._waiting = [r for r in self._waiting if r.request.request_id != request_id]
        return removed

    def start_over(self, version: PolicyVersion) -> None:
        """Drop all that other weights have read."""
        self._cache.clear()
        for reading in self._waiting:
            reading.forget()
        self.version = version

    def read(self, *, num_free: int, max_tokens: int) -> int:
        """Read prompts that could get one of the free rows.

        Args:
            num_free: Rows.
            max_tokens: Tokens to compute at most; a single piece may exceed it.

        Returns:
            Tokens that were computed.
        """
        computed = 0
        while pieces := self._next_pieces(num_free, max_tokens - computed, is_first=computed == 0):
            self._compute(pieces)
            computed += sum(piece.stop - piece.start for _, piece in pieces)
        return computed

    def ready(self, num_free: int) -> Iterator[Reading]:
        """Yield the prompts that are read, in order, while there are free rows; see `leave`."""
        for reading in list(self._waiting):
            if num_free <= 0:
                return
            if reading.is_ready:
                num_free -= reading.remaining
                yield reading

    def leave(self, reading: Reading) -> None:
        """Let go of a prompt whose members have got their rows."""
        reading.forget()
        self._waiting.remove(reading)

    def _next_pieces(
        self, num_free: int, max_tokens: int, *, is_first: bool
    ) -> list[tuple[Reading, slice]]:
        """Choose one piece of each prompt, as far as rows and tokens go."""
        pieces: list[tuple[Reading, slice]] = []
        begun: set[bytes] = set()
        for reading in self._waiting:
            if num_free <= 0:
                break
            num_free -= reading.remaining
            cut = self._next_cut(reading)
            if cut is None or cut.key in begun:  # the same piece is read by another one
                continue
            max_tokens -= cut.length - reading.num_read
            if max_tokens < 0 and (pieces or not is_first):
                break
            pieces.append((reading, slice(reading.num_read, cut.length)))
            if self._cache.is_on:
                begun.add(cut.key)
        return pieces

    def _next_cut(self, reading: Reading) -> Prefix | None:
        """Where the next piece of a prompt ends, after what is kept; None where all is read."""
        if not reading.cuts:
            tokens = torch.tensor(reading.token_ids)
            reading.cuts = prefixes(tokens, self.version, chunk=self._chunk)
        if (found := self._cache.find(reading.cuts, seen=reading.num_read)) is not None:
            if reading.read is not None:
                reading.read.drop()
            reading.num_read, reading.read = found
        left = (cut for cut in reading.cuts if cut.length > reading.num_read)
        return next(left, None)

    def _compute(self, pieces: Sequence[tuple[Reading, slice]]) -> None:
        state = DecodeState.empty(
            self._model.config, len(pieces), allocator=self._allocator, device=self._device
        )
        for row, (reading, _) in enumerate(pieces):
            if reading.read is not None:
                state.write(_index(row, state), reading.read.state, _index(0, state))
                reading.read.drop()
        tokens = [token for reading, piece in pieces for token in reading.token_ids[piece]]
        ends = torch.tensor([0, *(piece.stop - piece.start for _, piece in pieces)]).cumsum(0)
        hidden, _ = self._model.prefill(
            torch.tensor(tokens, device=self._device), ends.to(self._device), state
        )
        for row, (reading, piece) in enumerate(pieces):
            reading.read = Read(state.share(_index(row, state)), hidden[row : row + 1].clone())
            reading.num_read = piece.stop
            if self._cache.is_on:
                cuts = [cut for cut in reading.cuts if cut.length <= piece.stop]
                self._cache.keep(cuts, reading.read)
        state.reset(torch.arange(len(pieces), device=self._device))


def _index(row: int, state: DecodeState) -> Tensor:
    return torch.tensor([row], device=state.lengths.device)
