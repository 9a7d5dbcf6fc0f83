"""Samples from any causal language model through transformers, with continuous batching."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cispo.policy.hf import TransformersPolicy
from cispo.types import PolicyVersion
from cispo.weights.arrival import apply_buckets
from cispo.weights.buckets import WeightBucket
from rollout.backends.base import (
    EngineStatistics,
    Finished,
    Increment,
    Request,
    StopRules,
    refuse_beyond,
    refuse_text_rules,
)
from rollout.backends.padded import PaddedDecoder, can_pad
from rollout.backends.turns import TurnDecoder
from rollout.sequences import Sequences


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request with members that have no row yet.

    Attributes:
        request: The request.
        next_member: Its first member without a row.
        cache: What the model keeps of the prompt, once that is read.
        hidden: [1, d] after the prompt.
    """

    request: Request
    next_member: int = 0
    cache: Any = None
    hidden: Tensor | None = None

    @property
    def remaining(self) -> int:
        return len(self.request.seeds) - self.next_member


class TransformersBackend:
    """Decodes with the model's own cache; a prompt is computed once for its group.

    Rows of different lengths share a batch where the model can be padded, which softmax models can
    and hybrids cannot; otherwise groups take turns. The head is applied in float32, as the learner
    does.

    Args:
        policy: A model of this engine's own; its weights are overwritten by `load_weights`.
        stop: When sequences end.
        max_sequences: Sequences that run at once.
        pads: Whether rows are padded; None asks the model.
    """

    def __init__(
        self,
        policy: TransformersPolicy,
        stop: StopRules,
        *,
        max_sequences: int,
        pads: bool | None = None,
    ) -> None:
        self._policy = policy.requires_grad_(False).eval()
        self._network = policy.network
        self._stop = stop
        self._widen_head()
        self._sequences = Sequences(
            max_sequences,
            vocabulary_size=len(self._head),
            stop=stop,
            device=self._network.device,
        )
        pads = can_pad(self._network) if pads is None else pads
        self._decoder: PaddedDecoder | TurnDecoder = (
            PaddedDecoder(self._network, max_sequences) if pads else TurnDecoder(self._network)
        )
        self._waiting: deque[_Waiting] = deque()
        self._version = PolicyVersion(0)
        self._statistics = EngineStatistics()

    @property
    def num_active(self) -> int:
        """Sequences that are running or waiting."""
        return self._sequences.num_active + sum(waiting.remaining for waiting in self._waiting)

    @property
    def statistics(self) -> EngineStatistics:
        """Counts since the start."""
        return self._statistics

    def start(self, request: Request) -> None:
        """Accept a request.

        Raises:
            ValueError: It exceeds the model's positions, or needs texts without a tokenizer.
        """
        refuse_beyond(request, getattr(self._network.config, "max_position_embeddings", None))
        refuse_text_rules(request, self._stop)
        self._waiting.append(_Waiting(request))

    def abort(self, request_id: int) -> None:
        """Forget a request."""
        self._waiting = deque(w for w in self._waiting if w.request.request_id != request_id)
        self._retire(self._sequences.forget(request_id))

    def increments(self) -> list[Increment]:
        """Return what streaming requests got since the last call."""
        return self._sequences.increments()

    @torch.no_grad()
    def step(self) -> list[Finished]:
        """Read last tokens, start waiting sequences, and draw a token for every row.

        Raises:
            DivergedError: Logits are not finite; the message names the task.
        """
        if self.num_active == 0:
            return []
        start = time.perf_counter()
        hidden = []
        if running := self._sequences.num_active:
            hidden.append(self._decoder.decode(self._sequences.last_tokens[:running]))
        hidden += self._admit()
        logits = F.linear(torch.cat(hidden).float(), self._head, self._head_bias)
        self._statistics.sampled_tokens += len(logits)
        ended = self._sequences.draw(logits, self._version)
        finished = self._sequences.finished(ended)
        self._retire(ended)
        self._statistics.decode_steps += 1
        self._statistics.busy_seconds += time.perf_counter() - start
        return finished

    def load_weights(self, version: PolicyVersion, buckets: Iterable[WeightBucket]) -> str:
        """Replace the weights; running sequences keep their cache and go on with the new ones.

        Raises:
            WeightSyncError: The buckets are not the whole model, or changed on the way.
        """
        checksum = apply_buckets(self._policy, buckets)
        self._widen_head()
        for waiting in self._waiting:
            waiting.cache = waiting.hidden = None
        self._version = version
        return checksum

    def _widen_head(self) -> None:
        """Hold the head of the present weights in float32: itself, where that is its dtype."""
        head = self._network.get_output_embeddings()
        bias = getattr(head, "bias", None)
        self._head: Tensor = head.weight.detach().float()
        self._head_bias: Tensor | None = None if bias is None else bias.detach().float()

    def _admit(self) -> list[Tensor]:
        """Give free rows to waiting sequences in order; returns their hidden states [rows, d]."""
        hidden = []
        while self._waiting and self._sequences.num_free:
            waiting = self._waiting[0]
            if waiting.cache is None:
                self._read(waiting)
            assert waiting.hidden is not None
            count = min(waiting.remaining, self._sequences.num_free)
            members = range(waiting.next_member, waiting.next_member + count)
            rows = self._sequences.admit(waiting.request, members)
            waiting.next_member = members.stop
            is_last = waiting.remaining == 0
            cache = waiting.cache if is_last else copy.deepcopy(waiting.cache)
            self._decoder.add(range(rows.start, rows.stop), cache, len(waiting.request.prompt))
            hidden.append(waiting.hidden.expand(count, -1))
            if is_last:
                self._waiting.popleft()
        return hidden

    def _read(self, waiting: _Waiting) -> None:
        """Compute a prompt, by itself: padding it would change its bits."""
        prompt = torch.tensor([waiting.request.prompt], device=self._network.device)
        output = self._network.base_model(input_ids=prompt, use_cache=True)
        waiting.cache, waiting.hidden = output.past_key_values, output.last_hidden_state[:, -1]
        self._statistics.prefill_tokens += len(waiting.request.prompt)

    def _retire(self, rows: Sequence[int]) -> None:
        if rows:
            self._decoder.retire(list(rows), *self._sequences.retire(rows))
