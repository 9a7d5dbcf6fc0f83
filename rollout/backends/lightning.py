"""Continuous batching of the lightning hybrid: a row is filled again the moment a sequence ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.state import DecodeState
from cispo.policy.lightning.stepper import make_stepper
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

_PREFILL_TOKENS = 8192
"""Prompts of up to this many tokens together, or one longer prompt, are computed at once."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request with members that have no row yet.

    Attributes:
        request: The request.
        next_member: Its first member without a row.
        hidden: [1, d] after the prompt, once that is computed.
        state: Of one row, after the prompt.
    """

    request: Request
    next_member: int = 0
    hidden: Tensor | None = None
    state: DecodeState | None = None

    @property
    def remaining(self) -> int:
        return len(self.request.seeds) - self.next_member

    def forget(self) -> None:
        """Drop what was computed, and return its pages."""
        if self.state is not None:
            self.state.reset(torch.zeros(1, dtype=torch.long, device=self.state.lengths.device))
        self.hidden = self.state = None


class LightningBackend:
    """Decodes up to `max_sequences` sequences at once.

    A prompt is computed once for its group. Tokens and log-probabilities of a rollout depend on the
    weights, the prompt, its seed and the sampling alone; in float32 on the CPU, to the last bit.

    Args:
        model: A float32 model of this engine's own; its weights are overwritten by `load_weights`.
        stop: When sequences end.
        max_sequences: Rows.
    """

    def __init__(self, model: LightningModel, stop: StopRules, *, max_sequences: int) -> None:
        self._model = model.requires_grad_(False).eval()
        device = model.lm_head.weight.device
        self._sequences = Sequences(
            max_sequences, vocabulary_size=model.config.vocab_size, stop=stop, device=device
        )
        self._stepper = make_stepper(model)
        num_rows = max(max_sequences, self._stepper.min_rows)
        dtype = model.lm_head.weight.dtype
        self._state = DecodeState.empty(model.config, num_rows, dtype=dtype, device=device)
        self._hidden = torch.zeros(num_rows, model.config.hidden_size, dtype=dtype, device=device)
        self._tokens = torch.zeros(num_rows, dtype=torch.int64, device=device)
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
            ValueError: It exceeds the model's positions.
        """
        refuse_beyond(request, self._model.config.max_position_embeddings)
        refuse_features(request, "lightning", "stop", "max_thinking_tokens", "max_answer_tokens")
        self._waiting.append(_Waiting(request))

    @torch.inference_mode()
    def abort(self, request_id: int) -> None:
        """Forget a request."""
        for waiting in [w for w in self._waiting if w.request.request_id == request_id]:
            self._waiting.remove(waiting)
            waiting.forget()
        self._retire(self._sequences.forget(request_id))

    def increments(self) -> list[Increment]:
        """Return what streaming requests got since the last call."""
        return self._sequences.increments()

    def suspend(self, request_id: int) -> Suspended:
        """Refuse: this engine cannot suspend.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"request {request_id}: rollout.backend=lightning cannot suspend")

    def resume(self, suspended: Suspended) -> None:
        """Refuse: this engine cannot suspend.

        Raises:
            ValueError: Always.
        """
        task = suspended.request.task_id
        raise ValueError(f"task {task}: rollout.backend=lightning cannot resume")

    @torch.inference_mode()
    def step(self) -> list[Finished]:
        """Read the last tokens, admit waiting sequences, and draw a token for every row.

        Raises:
            DivergedError: Logits are not finite; the message names the task.
        """
        if self.num_active == 0:
            return []
        start = time.perf_counter()
        self._decode()
        self._admit()
        num_active = self._sequences.num_active
        logits = self._stepper.logits(self._hidden[: max(num_active, self._stepper.min_rows)])
        ended = self._sequences.draw(logits[:num_active], self._version)
        finished = self._sequences.finished(ended, self._version)
        self._retire(ended)
        self._statistics.sampled_tokens += num_active
        self._statistics.decode_steps += 1
        self._statistics.busy_seconds += time.perf_counter() - start
        return finished

    @torch.inference_mode()
    def load_weights(self, version: PolicyVersion, buckets: Sequence[WeightBucket]) -> str:
        """Replace the weights; running sequences keep their state and go on with the new ones.

        Raises:
            WeightSyncError: The buckets are not the whole model, or changed on the way.
        """
        checksum = apply_buckets(self._model, buckets)
        self._stepper.refresh()
        for waiting in self._waiting:  # what the old weights made of a prompt is wrong for new ones
            waiting.forget()
        self._version = version
        return checksum

    def _decode(self) -> None:
        """Read the last token of every running row."""
        num_active = self._sequences.num_active
        if num_active == 0:
            return
        num_rows = max(num_active, self._stepper.min_rows)
        self._state.lengths[num_active:num_rows] = 0
        self._tokens[:num_active] = self._sequences.last_tokens[:num_active]
        self._state.reserve(num_active)
        self._hidden[:num_rows] = self._stepper.step(self._tokens[:num_rows], self._state)

    def _admit(self) -> None:
        """Give free rows to waiting sequences, in the order of their requests."""
        while self._waiting and self._sequences.num_free:
            waiting = self._waiting[0]
            if waiting.state is None:
                self._prefill()
            count = min(waiting.remaining, self._sequences.num_free)
            members = range(waiting.next_member, waiting.next_member + count)
            rows = self._sequences.admit(waiting.request, members, self._version)
            assert waiting.hidden is not None
            assert waiting.state is not None
            self._hidden[rows] = waiting.hidden
            self._state.write(
                torch.arange(rows.start, rows.stop, device=self._tokens.device),
                waiting.state,
                self._tokens.new_zeros(count),
            )
            waiting.next_member = members.stop
            if waiting.remaining == 0:
                self._waiting.popleft().forget()

    def _prefill(self) -> None:
        """Compute together the prompts that will get a row now, the first waiting one at least."""
        chosen: list[_Waiting] = []
        num_tokens = num_rows = 0
        for waiting in self._waiting:
            num_tokens += len(waiting.request.prompt)
            if chosen and (num_tokens > _PREFILL_TOKENS or num_rows >= self._sequences.num_free):
                break
            chosen.append(waiting)
            num_rows += waiting.remaining
        prompts = [torch.tensor(waiting.request.prompt) for waiting in chosen]
        ends = torch.tensor([0, *map(len, prompts)]).cumsum(0)
        device = self._tokens.device
        state = DecodeState.empty(
            self._model.config, len(chosen), allocator=self._state.allocator, device=device
        )
        hidden, _ = self._model.prefill(torch.cat(prompts).to(device), ends.to(device), state)
        for index, waiting in enumerate(chosen):
            waiting.hidden = hidden[index : index + 1]
            waiting.state = state.share(torch.tensor([index], device=device))
        state.reset(torch.arange(len(chosen), device=device))
        self._statistics.prefill_tokens += int(ends[-1])

    def _retire(self, rows: Sequence[int]) -> None:
        if rows:
            device = self._tokens.device
            self._state.reset(torch.tensor(rows, device=device))
            target, source = (m.to(device) for m in self._sequences.retire(rows))
            self._state.move(target, source)
