"""What prompts left behind, for prompts that begin alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from cispo.policy.lightning.pages import PAGE
from cispo.policy.lightning.state import DecodeState, page_count
from cispo.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a prompt, up to a place where reading is cut.

    Attributes:
        length: Its tokens.
        key: Names them and the weights; differs for different ones.
    """

    length: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """What a model knows of a prefix.

    Attributes:
        state: One row.
        hidden: [1, d] after the last token.
    """

    state: DecodeState
    hidden: Tensor

    def again(self) -> Read:
        """Return a snapshot with owners of its own."""
        return Read(self.state.share(_only_row(self.state)), self.hidden)

    def drop(self) -> None:
        """Return the pages."""
        self.state.reset(_only_row(self.state))


@dataclass(frozen=True, slots=True)
class _Entry:
    read: Read
    parents: tuple[bytes, ...]
    nbytes: int


def prefixes(token_ids: Tensor, version: PolicyVersion, *, chunk: int) -> list[Prefix]:
    """Cut tokens [T] after every `chunk` of them and at their end.

    The keys are digests of all tokens before the cut, each computed from the one before.
    """
    found, key = [], version.to_bytes(8, "little")
    numbers = token_ids.cpu().numpy()
    for start in range(0, len(numbers), chunk):
        piece = numbers[start : start + chunk]
        key = blake2b(key + piece.tobytes(), digest_size=16).digest()
        found.append(Prefix(start + len(piece), key))
    return found


class PrefixCache:
    """Keeps what was used last within a number of bytes.

    Prefixes of one another share pages; the longer one is dropped first, so that each entry is
    charged with the pages that it adds.

    Args:
        max_bytes: 0 keeps nothing.

    Attributes:
        num_hits: Prompts that began with a kept prefix.
        num_saved_tokens: Tokens that were not computed again.
        num_evictions: Entries that were dropped for want of room.
        nbytes: Of all entries.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self.num_hits = self.num_saved_tokens = self.num_evictions = self.nbytes = 0

    @property
    def is_on(self) -> bool:
        """Whether anything can be kept."""
        return self._max_bytes > 0

    def find(self, cuts: Sequence[Prefix], *, seen: int) -> tuple[int, Read] | None:
        """Return the longest kept prefix above `seen` tokens: its length, and a snapshot."""
        for cut in reversed(cuts):
            if cut.length <= seen:
                return None
            if (entry := self._entries.get(cut.key)) is not None:
                self._touch(cut.key, entry)
                self.num_hits += 1
                self.num_saved_tokens += cut.length - seen
                return cut.length, entry.read.again()
        return None

    def keep(self, cuts: Sequence[Prefix], read: Read) -> None:
        """Remember what was read of the last of `cuts`; the ones before are its beginnings."""
        key = cuts[-1].key
        begun = cuts[-2].length if len(cuts) > 1 else 0
        pages = int(page_count(read.state.lengths[0])) - begun // PAGE
        nbytes = read.state.linear.nbytes + read.hidden.nbytes
        nbytes += pages * read.state.allocator.page_bytes
        if key in self._entries or nbytes > self._max_bytes:
            return
        entry = _Entry(read.again(), tuple(cut.key for cut in cuts[:-1]), nbytes)
        self._entries[key] = entry
        self.nbytes += nbytes
        self._touch(key, entry)
        while self.nbytes > self._max_bytes:
            self._drop()
            self.num_evictions += 1

    def clear(self) -> None:
        """Forget everything."""
        while self._entries:
            self._drop()

    def _touch(self, key: bytes, entry: _Entry) -> None:
        for used in (key, *reversed(entry.parents)):
            if used in self._entries:
                self._entries.move_to_end(used)

    def _drop(self) -> None:
        _, entry = self._entries.popitem(last=False)
        entry.read.drop()
        self.nbytes -= entry.nbytes


def _only_row(state: DecodeState) -> Tensor:
    return torch.zeros(1, dtype=torch.long, device=state.lengths.device)
