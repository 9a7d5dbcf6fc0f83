"""Log-probabilities as the learner computes them, of what an engine has sampled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cispo.policy.lightning.model import LightningModel
from rollout.sequences import Sequences

_MAX_TOKENS = 16384
_MIN_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Replayed:
    """A sequence to be scored.

    Attributes:
        prompt: What came before.
        token_ids: [T] sampled and forced tokens.
        is_sampled: [T] False where forced.
        temperature: Of the sampling.
    """

    prompt: Sequence[int]
    token_ids: Sequence[int]
    is_sampled: Sequence[bool]
    temperature: float


def replay(model: LightningModel, sequences: Sequences, rows: Iterable[int]) -> None:
    """Replace the log-probabilities of running rows by those that the learner will compute."""
    chosen = list(rows)
    replayed = [
        Replayed(
            prompt=sequences.owners[row].request.prompt,
            token_ids=sequences.token_ids(row),
            is_sampled=sequences.is_sampled(row),
            temperature=sequences.owners[row].request.sampling.temperature,
        )
        for row in chosen
    ]
    for row, logprobs in zip(chosen, replayed_logprobs(model, replayed), strict=True):
        sequences.replace_logprobs(row, logprobs)


def replayed_logprobs(model: LightningModel, sequences: Sequence[Replayed]) -> list[Tensor]:
    """Score sequences with the training form of a model, from their start.

    In float32 on the CPU they are the learner's to the last bit: rows are packed as the learner
    packs them, and a sequence's bits do not depend on what it is packed with.

    Returns:
        [T] float32 of each sequence, in nats, before truncation; 0.0 where forced.
    """
    scores: list[Tensor | None] = [None] * len(sequences)
    for indices in _packs(sequences):
        chosen = [sequences[index] for index in indices]
        for index, logprobs in zip(indices, _score(model, chosen), strict=True):
            scores[index] = logprobs
    return [score for score in scores if score is not None]


def _packs(sequences: Sequence[Replayed]) -> list[list[int]]:
    """Sequences of one temperature that fit a row of bounded length."""
    packs: list[list[int]] = []
    room = 0
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].temperature)
    for index in order:
        sequence = sequences[index]
        length = len(sequence.prompt) + len(sequence.token_ids)
        is_new = not packs or sequences[packs[-1][-1]].temperature != sequence.temperature
        if is_new or length > room:
            packs.append([])
            room = _MAX_TOKENS
        packs[-1].append(index)
        room -= length
    return packs


def _score(model: LightningModel, sequences: Sequence[Replayed]) -> list[Tensor]:
    rows = [[*sequence.prompt, *sequence.token_ids] for sequence in sequences]
    masks = [[*(False for _ in s.prompt), *s.is_sampled] for s in sequences]
    missing = _MIN_TOKENS - sum(map(len, rows))
    if missing > 0:  # products of very few rows round in their own way
        rows.append([0] * missing)
        masks.append([False] * missing)
    device = model.lm_head.weight.device
    # With gradients on, as in the learner, so that the same code runs; no parameter needs one.
    with torch.inference_mode(mode=False), torch.enable_grad():
        ends = torch.tensor([0, *map(len, rows)], device=device).cumsum(0).int()
        scores = model(
            torch.tensor([token for row in rows for token in row], device=device),
            ends,
            torch.tensor([is_action for mask in masks for is_action in mask], device=device),
            temperature=sequences[0].temperature,
        )
    parts = scores.logprobs.split([len(row) for row in rows])
    return [part[len(sequence.prompt) :] for part, sequence in zip(parts, sequences, strict=False)]
