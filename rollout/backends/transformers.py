"""Samples from any causal language model through transformers, one batch a request."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cispo.policy.hf import TransformersPolicy
from cispo.types import PolicyVersion
from cispo.weights.buckets import WeightBucket, apply_buckets
from rollout.backends.base import (
    EngineStatistics,
    Finished,
    Increment,
    Request,
    StopRules,
    Suspended,
    refuse_beyond,
    refuse_features,
)
from rollout.sequences import Sequences


@dataclass(slots=True, eq=False)
class _Batch:
    """Members of one request that run together: they are equally long, so nothing is padded.

    Attributes:
        sequences: One row a running member.
        cache: Keys and values of the rows.
        length: Tokens that the cache holds.
    """

    sequences: Sequences
    cache: Any
    length: int


class TransformersBackend:
    """Decodes with the model's own cache; the prompt is computed once and its cache repeated.

    Requests that run at the same time take turns within a step. Batching them together would need
    padding on the left, which transformers computes wrongly for hybrids and with other roundings
    for all others. The head is applied in float32, as the learner does.

    Args:
        policy: A model of this engine's own; its weights are overwritten by `load_weights`.
        stop: When sequences end.
        max_sequences: Sequences that run at once.
    """

    def __init__(self, policy: TransformersPolicy, stop: StopRules, *, max_sequences: int) -> None:
        self._policy = policy.requires_grad_(False).eval()
        self._network = policy.network
        self._max_sequences = max_sequences
        self._widen_head()
        self._new_sequences = functools.partial(
            Sequences,
            vocabulary_size=len(self._head),
            stop=stop,
            device=self._network.device,
        )
        self._batches: list[_Batch] = []
        self._waiting: deque[tuple[Request, range]] = deque()
        self._increments: list[Increment] = []
        self._version = PolicyVersion(0)
        self._statistics = EngineStatistics()

    @property
    def num_active(self) -> int:
        """Sequences that are running or waiting."""
        return self._num_running + sum(len(members) for _, members in self._waiting)

    @property
    def statistics(self) -> EngineStatistics:
        """Counts since the start."""
        return self._statistics

    def start(self, request: Request) -> None:
        """Accept a request; one above `max_sequences` is served in parts.

        Raises:
            ValueError: It exceeds the model's positions.
        """
        refuse_beyond(request, getattr(self._network.config, "max_position_embeddings", None))
        refuse_features(request, "transformers", "stop", "max_thinking_tokens", "max_answer_tokens")
        count = len(request.seeds)
        for first in range(0, count, self._max_sequences):
            members = range(first, min(first + self._max_sequences, count))
            self._waiting.append((request, members))

    def abort(self, request_id: int) -> None:
        """Forget a request."""
        self._waiting = deque(w for w in self._waiting if w[0].request_id != request_id)
        self._batches = [b for b in self._batches if not b.sequences.rows_of(request_id)]
        self._increments = [i for i in self._increments if i.request_id != request_id]

    def increments(self) -> list[Increment]:
        """Return what streaming requests got since the last call."""
        live = [i for batch in self._batches for i in batch.sequences.increments()]
        increments, self._increments = self._increments + live, []
        return increments

    def suspend(self, request_id: int) -> Suspended:
        """Refuse: this engine cannot suspend.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"request {request_id}: rollout.backend=transformers cannot suspend")

    def resume(self, suspended: Suspended) -> None:
        """Refuse: this engine cannot suspend.

        Raises:
            ValueError: Always.
        """
        task = suspended.request.task_id
        raise ValueError(f"task {task}: rollout.backend=transformers cannot resume")

    @torch.no_grad()
    def step(self) -> list[Finished]:
        """Draw a token for every running row, and start waiting requests that fit.

        Raises:
            DivergedError: Logits are not finite; the message names the task.
        """
        if self.num_active == 0:
            return []
        start = time.perf_counter()
        finished = []
        for batch in self._batches:
            finished += self._draw(batch, self._decode(batch))
        while self._waiting and self._fits(self._waiting[0][1]):
            batch, logits = self._prefill(*self._waiting.popleft())
            self._batches.append(batch)
            finished += self._draw(batch, logits)
        self._batches = [batch for batch in self._batches if batch.sequences.num_active]
        self._statistics.decode_steps += 1
        self._statistics.busy_seconds += time.perf_counter() - start
        return finished

    def load_weights(self, version: PolicyVersion, buckets: Sequence[WeightBucket]) -> str:
        """Replace the weights; running sequences keep their cache and go on with the new ones.

        Raises:
            WeightSyncError: The buckets are not the whole model, or changed on the way.
        """
        checksum = apply_buckets(self._policy, buckets)
        self._widen_head()
        self._version = version
        return checksum

    def _widen_head(self) -> None:
        """Hold the head of the present weights in float32: itself, where that is its dtype."""
        head = self._network.get_output_embeddings()
        bias = getattr(head, "bias", None)
        self._head: Tensor = head.weight.detach().float()
        self._head_bias: Tensor | None = None if bias is None else bias.detach().float()

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits [rows, V] after the last position of hidden states [rows, T, d]."""
        return F.linear(hidden[:, -1].float(), self._head, self._head_bias)

    @property
    def _num_running(self) -> int:
        return sum(batch.sequences.num_active for batch in self._batches)

    def _fits(self, members: range) -> bool:
        return self._num_running + len(members) <= self._max_sequences

    def _prefill(self, request: Request, members: range) -> tuple[_Batch, Tensor]:
        """Compute a prompt; returns its batch and logits of the next token, [members, V]."""
        sequences = self._new_sequences(len(members))
        sequences.admit(request, members, self._version)
        prompt = torch.tensor([request.prompt], device=self._network.device)
        output = self._network.base_model(input_ids=prompt, use_cache=True)
        output.past_key_values.batch_repeat_interleave(len(members))
        self._statistics.prefill_tokens += len(request.prompt)
        batch = _Batch(sequences, output.past_key_values, len(request.prompt))
        return batch, self._logits(output.last_hidden_state).expand(len(members), -1)

    def _decode(self, batch: _Batch) -> Tensor:
        """Read the last token of every row; returns logits of the next one, [rows, V]."""
        tokens = batch.sequences.last_tokens[: batch.sequences.num_active, None]
        output = self._network.base_model(
            input_ids=tokens,
            # Given, because transformers' hybrids cannot count what their caches hold.
            position_ids=torch.full_like(tokens, batch.length),
            past_key_values=batch.cache,
            use_cache=True,
        )
        batch.length += 1
        return self._logits(output.last_hidden_state)

    def _draw(self, batch: _Batch, logits: Tensor) -> list[Finished]:
        sequences = batch.sequences
        self._statistics.sampled_tokens += sequences.num_active
        ended = sequences.draw(logits, self._version)
        finished = sequences.finished(ended, self._version)
        self._increments += sequences.increments()
        if ended:
            order = torch.arange(sequences.num_active)
            target, source = sequences.retire(ended)
            order[target] = source
            batch.cache.batch_select_indices(order[: sequences.num_active].to(logits.device))
        return finished
