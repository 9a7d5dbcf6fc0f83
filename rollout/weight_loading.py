"""Gives all actors of a roster new weights; those that start later get them before they serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING

from cispo.errors import WeightTransferError
from cispo.lost_actors import is_lost
from cispo.types import PolicyVersion
from rollout.roster import Member, Roster

if TYPE_CHECKING:
    from cispo.weights.collective import Meeting
    from cispo.weights.outlet import Ticket
    from cispo.weights.sync import Fetch

_log = logging.getLogger(__name__)


async def load_weights(
    roster: Roster, version: PolicyVersion, tickets: Sequence[Ticket]
) -> dict[str, str]:
    """Let every actor fetch the weights; see `cispo.weights.sync.WeightReceiver`.

    Raises:
        WeightSyncError: What arrived is not what was sent.
        RolloutError: No actor is left.
    """

    async def fetch() -> Sequence[Ticket]:
        return tickets

    roster.announce(version, fetch)
    return await _load(roster, {})


async def hear_weights(
    roster: Roster, version: PolicyVersion, meeting: Meeting, names: Sequence[str], fetch: Fetch
) -> dict[str, str]:
    """Let actors receive a broadcast; see `cispo.weights.sync.WeightReceiver`.

    Raises:
        WeightSyncError: What arrived is not what was sent.
        RolloutError: No actor is left.
    """
    ranks = {name: rank for rank, name in enumerate(names, start=1)}
    members = [member for member in roster.members if member.name in ranks]
    calls = {m: roster.hear(m, version, meeting, ranks[m.name]) for m in members}
    heard = await _outcomes(roster, calls)
    roster.announce(version, fetch)
    return await _load(roster, heard)


async def _load(roster: Roster, checksums: dict[str, str]) -> dict[str, str]:
    """Let actors without a checksum fetch the weights; returns all checksums, one at least."""
    while True:
        await roster.least_loaded()
        missing = [member for member in roster.members if member.name not in checksums]
        checksums |= await _outcomes(roster, {m: roster.load(m) for m in missing})
        if checksums:
            return checksums


async def _outcomes(roster: Roster, calls: Mapping[Member, Awaitable[str]]) -> dict[str, str]:
    """Wait for all; returns the checksums of those that got the weights, by name."""
    results = await asyncio.gather(*calls.values(), return_exceptions=True)
    checksums: dict[str, str] = {}
    for member, result in zip(calls, results, strict=True):
        if isinstance(result, str):
            checksums[member.name] = result
        elif is_lost(result):
            roster.lose(member, result)
        elif isinstance(result, WeightTransferError):
            _log.warning("%s missed the broadcast of weights: %s", member.name, result)
        else:
            raise result
    return checksums
