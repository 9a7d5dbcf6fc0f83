"""Samples through vLLM's engine, for softmax models on GPUs.

Not verified on a GPU. What was, on CPU with vLLM 0.32: log-probabilities of sampled tokens agree
with those of transformers to 1e-6, `reload_weights` replaces weights exactly, and models with
lightning attention cannot be loaded at all (vLLM dropped them after 0.23).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cispo.errors import WeightSyncError
from cispo.types import PolicyVersion, StopReason
from cispo.version_runs import VersionRuns, joined_runs
from cispo.weights.arrival import Arrival
from cispo.weights.buckets import WeightBucket
from rollout.backends.base import (
    EngineStatistics,
    Finished,
    Increment,
    Request,
    StopRules,
    refuse_features,
)

_LEARNER_PREFIX = "network."
"""What the learner's names of a transformers model's parameters begin with, and vLLM's do not."""


@dataclass(slots=True)
class _Running:
    request: Request
    member: int
    version_runs: VersionRuns = ()
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    streak: int = 0


class VllmBackend:
    """Continuous batching by vLLM in this process; members of a group share its prefix cache.

    Seeds fix a rollout's noise, but not its bits: those depend on the batch, as vLLM's kernels do.
    The repetition stop looks at probabilities after truncation, the only ones that vLLM reports.

    Args:
        path: Hugging Face folder or hub id.
        dtype: `float32` or `bfloat16`.
        stop: When sequences end.
        max_sequences: Sequences that run at once.
    """

    def __init__(self, path: str, stop: StopRules, *, dtype: str, max_sequences: int) -> None:
        # In this process, so that weights are handed over without being serialised.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        import vllm

        self._vllm = vllm
        self._engine: Any = vllm.LLMEngine.from_engine_args(
            vllm.EngineArgs(
                model=path,
                dtype=dtype,
                max_num_seqs=max_sequences,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",
            )
        )
        self._stop = stop
        self._log_threshold = math.log(stop.repetition_probability)
        self._running: dict[str, _Running] = {}
        self._version = PolicyVersion(0)
        self._statistics = EngineStatistics()

    @property
    def num_active(self) -> int:
        """Sequences that are running or waiting."""
        return len(self._running)

    @property
    def statistics(self) -> EngineStatistics:
        """Counts since the start; a cached prompt is counted once a group."""
        return self._statistics

    def start(self, request: Request) -> None:
        """Accept a request.

        Raises:
            ValueError: vLLM refuses it, or it asks for what is not passed on to vLLM.
        """
        refuse_features(
            request,
            "vllm",
            "stop",
            "max_thinking_tokens",
            "max_answer_tokens",
            "stream",
            "top_logprobs",
        )
        for member, seed in enumerate(request.seeds):
            name = f"{request.request_id}/{member}"
            params = self._vllm.SamplingParams(
                temperature=request.sampling.temperature,
                top_p=request.sampling.top_p,
                top_k=request.sampling.top_k,
                min_p=request.sampling.min_p,
                max_tokens=request.sampling.max_new_tokens,
                seed=seed,
                logprobs=0,
                stop_token_ids=sorted(self._stop.token_ids),
                detokenize=False,
                output_kind=self._vllm.sampling_params.RequestOutputKind.DELTA,
            )
            prompt = {"prompt_token_ids": list(request.prompt)}
            self._engine.add_request(name, prompt, params)
            self._running[name] = _Running(request, member)
        self._statistics.prefill_tokens += len(request.prompt)

    def abort(self, request_id: int) -> None:
        """Forget a request."""
        names = [n for n, r in self._running.items() if r.request.request_id == request_id]
        self._engine.abort_request(names)
        for name in names:
            del self._running[name]

    def increments(self) -> list[Increment]:
        """Return nothing: streaming requests are refused."""
        return []

    def step(self) -> list[Finished]:
        """Let the engine take one step."""
        start = time.perf_counter()
        finished = []
        for output in self._engine.step():
            running = self._running.get(output.request_id)
            if running is None:
                continue
            completion = output.outputs[0]
            self._record(running, completion)
            if reason := self._stop_reason(running, completion):
                if not output.finished:
                    self._engine.abort_request([output.request_id])
                del self._running[output.request_id]
                finished.append(self._finish(running, reason))
        self._statistics.decode_steps += 1
        self._statistics.busy_seconds += time.perf_counter() - start
        return finished

    def load_weights(self, version: PolicyVersion, buckets: Iterable[WeightBucket]) -> str:
        """Replace the weights and forget cached prompts; the new ones read running sequences again.

        vLLM forgets what is cached only when nothing runs on it, and says no more than False else.

        Raises:
            WeightSyncError: The buckets are not all, or changed on the way, or vLLM keeps what the
                old weights cached.
        """
        arrival = Arrival.of(buckets)
        arrival.hold()  # vLLM would go on with the half of a broken export
        tensors = [
            (name.removeprefix(_LEARNER_PREFIX), tensor)
            for bucket in arrival
            for name, tensor in bucket.tensors()
        ]
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
        if not self._engine.reset_prefix_cache(reset_running_requests=True):
            raise WeightSyncError(f"vLLM keeps prompts of weights before policy version {version}")
        self._version = version
        return arrival.checksum

    def _record(self, running: _Running, completion: Any) -> None:
        new = (self._version, len(completion.token_ids))
        running.version_runs = joined_runs([*running.version_runs, new])
        for token, choices in zip(completion.token_ids, completion.logprobs, strict=True):
            logprob = float(choices[token].logprob)
            running.token_ids.append(token)
            running.logprobs.append(logprob)
            running.streak = running.streak + 1 if logprob > self._log_threshold else 0
        self._statistics.sampled_tokens += len(completion.token_ids)

    def _stop_reason(self, running: _Running, completion: Any) -> StopReason | None:
        if completion.finish_reason == "stop":
            return StopReason.END_OF_TURN
        if 0 < self._stop.repetition_tokens <= running.streak:
            return StopReason.REPETITION
        return StopReason.LENGTH if completion.finish_reason is not None else None

    def _finish(self, running: _Running, reason: StopReason) -> Finished:
        return Finished(
            request_id=running.request.request_id,
            member=running.member,
            token_ids=running.token_ids,
            logprobs=running.logprobs,
            full_logprobs=running.logprobs,
            is_sampled=[True] * len(running.token_ids),
            stop_reason=reason,
            version_runs=running.version_runs,
        )
