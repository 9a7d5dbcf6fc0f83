"""Samples through vLLM's engine, for softmax models on GPUs.

Not verified on a GPU. What was, on CPU with vLLM 0.32 in float32: the contract of all engines, with
log-probabilities of sampled tokens within 2e-5 of the learner's, 2e-6 on average
(`tests/contracts/test_vllm_backend.py`). Lightning attention cannot be loaded, see `vllm_models`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cispo.errors import DivergedError, WeightSyncError
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
    refuse_beyond,
    refuse_features,
)

_LEARNER_PREFIX = "network."
"""What the learner's names of a transformers model's parameters begin with, and vLLM's do not."""

_TIED = frozenset(("lm_head.weight",))
"""Tensors of files that a learner may not have, because they are another one's."""

_ON_CPUS = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
"""Variables that only vLLM's builds for CPUs read: no pinning to cores, a cache of 1 GiB."""


@dataclass(slots=True)
class _Running:
    request: Request
    member: int
    version_runs: VersionRuns = ()
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    streak: int = 0


def start_vllm(path: str, *, dtype: str, max_sequences: int) -> Any:
    """Start vLLM's engine around a model, in this process; takes from half a minute to several.

    Args:
        path: Hugging Face folder or hub id.
        dtype: `float32` or `bfloat16`.
        max_sequences: Sequences that run at once.
    """
    # In this process, so that weights are handed over without being serialised.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in _ON_CPUS.items():
        os.environ.setdefault(name, value)
    import torch
    import vllm

    return vllm.LLMEngine.from_engine_args(
        vllm.EngineArgs(
            model=path,
            dtype=dtype,
            max_num_seqs=max_sequences,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,  # tokens go in and come out
            # On GPUs vLLM would run a step ahead, and hand out tokens that older weights drew.
            async_scheduling=False,
            enforce_eager=not torch.cuda.is_available(),  # CPUs would compile for minutes
        )
    )


class VllmBackend:
    """Continuous batching by vLLM in this process; members of a group share its prefix cache.

    Seeds fix a rollout's noise, but not its bits: those depend on the batch, as vLLM's kernels do.
    The repetition stop looks at probabilities after truncation, the only ones that vLLM reports.

    Args:
        engine: What `start_vllm` started.
        stop: When sequences end. The model's own end of text is none, unless it is among these.
        file_names: Names of the model's tensors in its files, by which vLLM takes new weights; None
            where they are not known.
    """

    def __init__(
        self, engine: Any, stop: StopRules, *, file_names: frozenset[str] | None = None
    ) -> None:
        import vllm

        self._vllm = vllm
        self._engine = engine
        self._stop = stop
        self._file_names = file_names
        self._max_length: int = engine.vllm_config.model_config.max_model_len
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
        refuse_beyond(request, self._max_length)
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
                ignore_eos=True,
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
        self._refuse_other_names(name for bucket in arrival for name in bucket.names)
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

    def _refuse_other_names(self, names: Iterable[str]) -> None:
        """Refuse weights that vLLM would pass over, or keep from before, without an error."""
        if self._file_names is None:
            return
        sent = {name.removeprefix(_LEARNER_PREFIX) for name in names}
        strange, absent = sent - self._file_names, self._file_names - sent - _TIED
        if strange or absent:
            raise WeightSyncError(
                f"rollout.backend=vllm: {len(strange)} of the learner's parameters are not among "
                f"the tensors of the model's files ({', '.join(sorted(strange)[:3]) or 'none'}), "
                f"{len(absent)} of those are not among the learner's "
                f"({', '.join(sorted(absent)[:3]) or 'none'}); choose rollout=transformers"
            )

    def _record(self, running: _Running, completion: Any) -> None:
        new = (self._version, len(completion.token_ids))
        running.version_runs = joined_runs([*running.version_runs, new])
        for token, choices in zip(completion.token_ids, completion.logprobs, strict=True):
            logprob = float(choices[token].logprob)
            if not math.isfinite(logprob):
                raise DivergedError(
                    f"task {running.request.task_id}, rollout {running.member}: the "
                    f"log-probability of token {len(running.token_ids)} is {logprob} under weights "
                    f"{self._version}"
                )
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
