"""Continuous batching of the lightning hybrid: a row is filled again the moment a sequence ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.state import DecodeState
from cispo.policy.lightning.stepper import make_stepper
from cispo.types import PolicyVersion
from cispo.weights.arrival import apply_buckets
from cispo.weights.buckets import WeightBucket
from rollout.backends.base import (
    EngineStatistics,
    Finished,
    Increment,
    Request,
    StopRules,
    Suspended,
    refuse_beyond,
    refuse_text_rules,
)
from rollout.owners import Interrupted, SavedRow
from rollout.prefix_cache import PrefixCache
from rollout.prompts import PromptReader, Reading
from rollout.replay import replay
from rollout.routes import require_routes
from rollout.sequences import Sequences

_PREFILL_TOKENS = 2048
"""Prompt tokens between two steps of decoding, so that a long prompt stalls nobody."""


class LightningBackend:
    """Decodes up to `max_sequences` sequences at once.

    A prompt is computed once for its group. Tokens and log-probabilities of a rollout depend on the
    weights, the prompt, its seed and the sampling alone; in float32 on the CPU, to the last bit.

    Args:
        model: A model of this engine's own, of the learner's dtype, so that it rounds where the
            learner does; its weights are overwritten by `load_weights`.
        stop: When sequences end.
        max_sequences: Rows.
        kernels: Of the decoding steps; see `policy.kernels`.
        prefix_cache_bytes: Memory for what prompts leave behind; 0 keeps nothing.
        recomputes_state: Whether running sequences are read again by new weights, or go on from
            what the old ones made of them.
        replays: Whether the training form of the model computes the reported log-probabilities.
        keeps_routes: Whether the experts that tokens went to are reported.

    Raises:
        ConfigError: The model has no experts to report, or too many.
    """

    def __init__(
        self,
        model: LightningModel,
        stop: StopRules,
        *,
        max_sequences: int,
        kernels: str = "auto",
        prefix_cache_bytes: int = 0,
        recomputes_state: bool = False,
        replays: bool = False,
        keeps_routes: bool = False,
    ) -> None:
        self._model = model.requires_grad_(False).eval()
        self._stop = stop
        self._recomputes_state = recomputes_state
        self._replays = replays
        device = model.lm_head.weight.device
        self._stepper = make_stepper(model, kernels=kernels)
        num_routes = require_routes(model.config) if keeps_routes else 0
        if keeps_routes:
            shape = (max_sequences, num_routes)
            self._stepper.routes = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._sequences = Sequences(
            max_sequences,
            vocabulary_size=model.config.vocab_size,
            stop=stop,
            num_routes=num_routes,
            device=device,
            kernels=self._stepper.kernels,
        )
        # the compiled step keeps bfloat16 keys and values in float32
        is_native = self._stepper.kernels == "native"
        dtype = torch.float32 if is_native else model.lm_head.weight.dtype
        self._state = DecodeState.empty(model.config, max_sequences, dtype=dtype, device=device)
        self._hidden = torch.zeros(0, model.config.hidden_size, device=device)
        self._cache = PrefixCache(prefix_cache_bytes)
        self._reader = PromptReader(model, self._state.allocator, self._cache)
        self._resumed: deque[tuple[SavedRow, DecodeState]] = deque()
        self._version = PolicyVersion(0)
        self._statistics = EngineStatistics()

    @property
    def num_active(self) -> int:
        """Sequences that are running or waiting."""
        return self._sequences.num_active + self._reader.num_waiting + len(self._resumed)

    @property
    def statistics(self) -> EngineStatistics:
        """Counts since the start."""
        statistics = self._statistics
        statistics.prefix_hits = self._cache.num_hits
        statistics.prefix_saved_tokens = self._cache.num_saved_tokens
        statistics.prefix_evictions = self._cache.num_evictions
        statistics.prefix_bytes = self._cache.nbytes
        statistics.pages_used = self._state.allocator.num_used
        return statistics

    def start(self, request: Request) -> None:
        """Accept a request.

        Raises:
            ValueError: It exceeds the model's positions, or needs texts without a tokenizer.
        """
        refuse_beyond(request, self._model.config.max_position_embeddings)
        refuse_text_rules(request, self._stop)
        self._reader.add(Reading(request))

    @torch.inference_mode()
    def abort(self, request_id: int) -> None:
        """Forget a request."""
        self._reader.remove(request_id)
        self._resumed = deque(r for r in self._resumed if not _is_of(r[0], request_id))
        self._retire(self._sequences.forget(request_id))

    @torch.inference_mode()
    def suspend(self, request_id: int) -> Suspended:
        """Take a request out with its states, which any engine of the same model can go on from.

        Raises:
            ValueError: It is not running.
        """
        rows = self._sequences.rows_of(request_id)
        waiting = self._reader.remove(request_id)
        resumed = [r for r in self._resumed if _is_of(r[0], request_id)]
        owners = [self._sequences.owners[row] for row in rows]
        owners += [saved.owner for saved, _ in resumed]
        requests = [owner.request for owner in owners] + [reading.request for reading in waiting]
        if not requests:
            raise ValueError(f"request {request_id} is not running")
        if self._replays:
            replay(self._model, self._sequences, rows)
        interrupted: list[tuple[SavedRow, DecodeState | None]] = [*resumed]
        for row in rows:
            state = self._state.take(self._index([row]))
            interrupted.append((self._sequences.save(row), state))
        self._resumed = deque(r for r in self._resumed if r not in resumed)
        self._retire(rows)
        next_member = len(requests[0].seeds)
        for reading in waiting:
            if reading.saved is not None:
                interrupted.append((reading.saved, None))
            else:
                next_member = reading.next_member
        return Suspended(
            request=requests[0], state=Interrupted(next_member, self._version, interrupted)
        )

    @torch.inference_mode()
    def resume(self, suspended: Suspended) -> None:
        """Go on with a request, before those that wait; its rows read their last token first."""
        state: Interrupted = suspended.state
        request = suspended.request
        if state.next_member < len(request.seeds):
            self._reader.add(Reading(request, next_member=state.next_member), first=True)
        is_outdated = self._recomputes_state and state.version != self._version
        for saved, seen in state.rows:
            if seen is None or is_outdated:
                self._reader.add(Reading(request, saved), first=True)
            else:
                self._resumed.append((saved, seen))

    @torch.inference_mode()
    def increments(self) -> list[Increment]:
        """Return what streaming requests got since the last call."""
        return self._sequences.increments()

    @torch.inference_mode()
    def step(self) -> list[Finished]:
        """Read last tokens and a part of waiting prompts, and draw a token for every row.

        Raises:
            DivergedError: Logits are not finite; the message names the task.
        """
        if self.num_active == 0:
            return []
        start = time.perf_counter()
        self._restore()
        self._decode()
        self._statistics.prefill_tokens += self._reader.read(
            num_free=self._sequences.num_free, max_tokens=_PREFILL_TOKENS
        )
        self._admit()
        finished = self._draw() if self._sequences.num_active else []
        self._statistics.busy_seconds += time.perf_counter() - start
        return finished

    @torch.inference_mode()
    def load_weights(self, version: PolicyVersion, buckets: Iterable[WeightBucket]) -> str:
        """Replace the weights; running sequences go on with the new ones.

        Raises:
            WeightSyncError: The buckets are not the whole model, or changed on the way.
        """
        if self._replays:  # the weights that sampled these tokens are about to go
            replay(self._model, self._sequences, range(self._sequences.num_active))
        checksum = apply_buckets(self._model, buckets)
        self._stepper.refresh()
        self._version = version
        self._reader.start_over(version)
        if self._recomputes_state:
            self._read_again()
        return checksum

    def _restore(self) -> None:
        """Give rows to resumed sequences; their last token is still to be read."""
        while self._resumed and self._sequences.num_free:
            saved, state = self._resumed.popleft()
            row = self._sequences.restore(saved)
            self._state.write(self._index([row]), state, self._index([0]))

    def _decode(self) -> None:
        """Read the last token of every running row."""
        num_active = self._sequences.num_active
        if num_active == 0:
            self._hidden = self._hidden[:0]
            return
        tokens = self._sequences.last_tokens[:num_active]
        # not copied: a large copy would leave torch's threads spinning beside the kernels' for 6 ms
        self._hidden = self._stepper.step(tokens, self._state)
        if self._stepper.routes is not None:
            self._sequences.route(self._stepper.routes[:num_active])

    def _admit(self) -> None:
        """Give free rows to sequences whose prompts are read."""
        hidden = [self._hidden]
        for reading in self._reader.ready(self._sequences.num_free):
            first = self._sequences.num_active
            if reading.saved is not None:
                # its tokens were read as a prompt, perhaps by other weights than chose experts
                self._sequences.forget_routes(self._sequences.restore(reading.saved))
                count = 1
            else:
                count = min(reading.remaining, self._sequences.num_free)
                members = range(reading.next_member, reading.next_member + count)
                self._sequences.admit(reading.request, members)
                reading.next_member = members.stop
            assert reading.read is not None
            rows = self._index(range(first, first + count))
            self._state.write(rows, reading.read.state, torch.zeros_like(rows))
            hidden.append(reading.read.hidden.float().expand(count, -1))
            if reading.saved is not None or reading.remaining == 0:
                self._reader.leave(reading)
        if len(hidden) > 1:
            self._hidden = torch.cat(hidden)

    def _draw(self) -> list[Finished]:
        """Draw a token for every row, and drop the rows that end with it."""
        num_active = self._sequences.num_active
        logits = self._stepper.logits(self._hidden)
        ended = self._sequences.draw(logits, self._version)
        if ended and self._replays:
            replay(self._model, self._sequences, ended)
        finished = self._sequences.finished(ended)
        self._retire(ended)
        self._statistics.sampled_tokens += num_active
        self._statistics.decode_steps += 1
        return finished

    def _retire(self, rows: Sequence[int]) -> None:
        if rows:
            self._state.reset(self._index(rows))
            target, source = (m.to(self._hidden.device) for m in self._sequences.retire(rows))
            self._state.move(target, source)

    def _read_again(self) -> None:
        """Let all running sequences wait until the new weights have read them."""
        rows = range(self._sequences.num_active)
        saved = [self._sequences.save(row) for row in rows] + [s for s, _ in self._resumed]
        self._resumed.clear()
        self._retire(rows)
        self._reader.add(*(Reading(s.owner.request, s) for s in saved), first=True)

    def _index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(list(rows), dtype=torch.long, device=self._hidden.device)


def _is_of(saved: SavedRow, request_id: int) -> bool:
    return saved.owner.request.request_id == request_id
