"""What is handed out of a row: its tokens while it runs, and the whole of it at its end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cispo.types import StopReason
from cispo.version_runs import sampled_runs
from rollout.backends.base import Finished, Increment
from rollout.owners import Owner
from rollout.records import Records
from rollout.sampling import likeliest


def record_likeliest(
    owners: Sequence[Owner], logits: Tensor, temperature: Tensor, rows: Sequence[int]
) -> None:
    """Keep the likeliest tokens of the rows whose requests want to know them.

    Args:
        owners: Of N rows.
        logits: [N, V].
        temperature: [N].
        rows: Those whose requests do.
    """
    wanted = [owners[row].request.top_logprobs for row in rows]
    index = torch.tensor(rows, device=logits.device)
    values, ids = likeliest(logits[index], temperature[index], max(wanted))
    lists = zip(rows, wanted, ids.tolist(), values.tolist(), strict=True)
    for row, count, tokens, logprobs in lists:
        owners[row].top_logprobs.append(list(zip(tokens, logprobs, strict=True))[:count])


def next_increment(owner: Owner, records: Records, row: int, *, count: int) -> Increment | None:
    """Return what a row with `count` tokens has that was not handed out, if it streams."""
    new = slice(owner.num_streamed, count)
    if not owner.request.stream or new.start >= new.stop:
        return None
    owner.num_streamed = count
    token_ids, logprobs, full_logprobs = records.read(row, new)
    return Increment(
        request_id=owner.request.request_id,
        member=owner.member,
        token_ids=token_ids,
        logprobs=logprobs,
        full_logprobs=full_logprobs,
        top_logprobs=owner.top_logprobs[new] if owner.request.top_logprobs else None,
    )


def finished_member(
    owner: Owner,
    records: Records,
    row: int,
    *,
    is_sampled: list[bool],
    reason: StopReason,
) -> Finished:
    """Return all of a row."""
    token_ids, logprobs, full_logprobs = records.read(row, slice(len(is_sampled)))
    return Finished(
        request_id=owner.request.request_id,
        member=owner.member,
        token_ids=token_ids,
        logprobs=logprobs,
        full_logprobs=full_logprobs,
        is_sampled=is_sampled,
        top_logprobs=owner.top_logprobs if owner.request.top_logprobs else None,
        routed_experts=records.routes(row, len(is_sampled)),
        stop_reason=reason,
        version_runs=sampled_runs(owner.version_starts, is_sampled),
    )
