"""Plays answers from a script, without a model, to test all that surrounds an engine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cispo.errors import ConfigError
from cispo.types import PolicyVersion, StopReason
from cispo.version_runs import VersionRuns, joined_runs
from rollout.backends.base import (
    EngineStatistics,
    Finished,
    Increment,
    Request,
    StopRules,
    Suspended,
    TopLogprobs,
    refuse_features,
)

if TYPE_CHECKING:
    from cispo.weights.buckets import WeightBucket

Script = Callable[[Request, int], Sequence[int]]
"""The tokens, stop token included, that a member of a request answers with."""


@dataclass(slots=True, eq=False)
class _Playing:
    request: Request
    member: int
    answer: Sequence[int]
    version_runs: VersionRuns = ()
    token_ids: list[int] = field(default_factory=list)


class ScriptedBackend:
    """Plays one token a sequence and step; every token is certain, so its log-probability is 0.0.

    Args:
        script: The answers.
        stop: When answers end; there are no streaks, as every token is certain.
        seconds_per_step: Time that a step takes at least.
    """

    def __init__(self, script: Script, stop: StopRules, *, seconds_per_step: float = 0.0) -> None:
        self._script = script
        self._stop = stop
        self._seconds_per_step = seconds_per_step
        self._playing: list[_Playing] = []
        self._increments: list[Increment] = []
        self._version = PolicyVersion(0)
        self._statistics = EngineStatistics()

    @property
    def num_active(self) -> int:
        """Sequences that are running."""
        return len(self._playing)

    @property
    def statistics(self) -> EngineStatistics:
        """Counts since the start."""
        return self._statistics

    def start(self, request: Request) -> None:
        """Accept a request.

        Raises:
            ValueError: The script has an empty answer, or the request sets a budget of thinking.
        """
        refuse_features(request, "scripted", "stop", "max_thinking_tokens", "max_answer_tokens")
        answers = [self._script(request, member) for member in range(len(request.seeds))]
        if not all(answers):
            raise ValueError(f"the script has an empty answer for task {request.task_id}")
        self._statistics.prefill_tokens += len(request.prompt)
        self._playing += [
            _Playing(request, member, answer) for member, answer in enumerate(answers)
        ]

    def abort(self, request_id: int) -> None:
        """Forget a request."""
        self._playing = [p for p in self._playing if p.request.request_id != request_id]
        self._increments = [i for i in self._increments if i.request_id != request_id]

    def suspend(self, request_id: int) -> Suspended:
        """Take a request out.

        Raises:
            ValueError: It is not running.
        """
        mine = [p for p in self._playing if p.request.request_id == request_id]
        if not mine:
            raise ValueError(f"request {request_id} is not running")
        self._playing = [p for p in self._playing if p not in mine]
        return Suspended(request=mine[0].request, state=mine)

    def resume(self, suspended: Suspended) -> None:
        """Go on with a request."""
        self._playing += suspended.state

    def increments(self) -> list[Increment]:
        """Return what streaming requests got since the last call."""
        increments, self._increments = self._increments, []
        return increments

    def step(self) -> list[Finished]:
        """Play one token of every answer."""
        start = time.perf_counter()
        if self._seconds_per_step:
            time.sleep(self._seconds_per_step)
        finished = []
        for playing in self._playing:
            playing.version_runs = joined_runs([*playing.version_runs, (self._version, 1)])
            playing.token_ids.append(playing.answer[len(playing.token_ids)])
            if playing.request.stream:
                self._increments.append(self._increment(playing))
            if reason := self._stop_reason(playing):
                finished.append(self._finish(playing, reason))
        self._statistics.sampled_tokens += len(self._playing)
        self._statistics.decode_steps += bool(self._playing)
        done = {(f.request_id, f.member) for f in finished}
        self._playing = [p for p in self._playing if (p.request.request_id, p.member) not in done]
        self._statistics.busy_seconds += time.perf_counter() - start
        return finished

    def load_weights(self, version: PolicyVersion, buckets: Iterable[WeightBucket]) -> str:
        """Verify the buckets and take the version; there is no model to put them in.

        Raises:
            WeightSyncError: A bucket changed on the way or is missing.
        """
        from cispo.weights.arrival import Arrival  # imports torch, as the buckets did

        arrival = Arrival.of(buckets)
        arrival.hold()
        self._version = version
        return arrival.checksum

    def _stop_reason(self, playing: _Playing) -> StopReason | None:
        if playing.token_ids[-1] in self._stop.token_ids:
            return StopReason.END_OF_TURN
        played = len(playing.token_ids)
        budget = min(len(playing.answer), playing.request.sampling.max_new_tokens)
        return StopReason.LENGTH if played >= budget else None

    def _increment(self, playing: _Playing) -> Increment:
        return Increment(
            request_id=playing.request.request_id,
            member=playing.member,
            token_ids=playing.token_ids[-1:],
            logprobs=[0.0],
            full_logprobs=[0.0],
            top_logprobs=_certain(playing)[-1:] if playing.request.top_logprobs else None,
        )

    def _finish(self, playing: _Playing, reason: StopReason) -> Finished:
        return Finished(
            request_id=playing.request.request_id,
            member=playing.member,
            token_ids=playing.token_ids,
            logprobs=[0.0] * len(playing.token_ids),
            full_logprobs=[0.0] * len(playing.token_ids),
            is_sampled=[True] * len(playing.token_ids),
            top_logprobs=_certain(playing) if playing.request.top_logprobs else None,
            stop_reason=reason,
            version_runs=playing.version_runs,
        )


def _certain(playing: _Playing) -> list[TopLogprobs]:
    return [[(token, 0.0)] for token in playing.token_ids]


def script_from_file(
    path: Path, *, encode: Callable[[str], list[int]], stop_token_id: int
) -> Script:
    """Read answers from JSON: task id to texts, `"*"` for all other tasks; member i takes text i.

    Args:
        path: The file.
        encode: Text to token ids.
        stop_token_id: Ends every answer.

    Raises:
        ConfigError: The file is missing or is no such table.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"policy.path={path}: rollout.backend=scripted needs a JSON file of answers ({error})"
        ) from error
    if not isinstance(table, dict) or not all(isinstance(t, list) and t for t in table.values()):
        raise ConfigError(f"policy.path={path}: each task id needs a list of answers")

    def script(request: Request, member: int) -> Sequence[int]:
        texts = table.get(request.task_id) or table.get("*")
        if texts is None:
            raise ValueError(f"{path} has no answer for task {request.task_id}")
        return [*encode(texts[member % len(texts)]), stop_token_id]

    return script
