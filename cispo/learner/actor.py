"""One rank of the learner as a Ray actor: a shell that holds no decision of its own."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import ray
import torch

from cispo.config import LearnerConfig, ObjectiveConfig, Offload
from cispo.counter_measures import CounterMeasures
from cispo.errors import WeightSyncError
from cispo.learner.local import LocalLearner
from cispo.learner.losses import process_name
from cispo.learner.rule import update_rule
from cispo.learner.seats import Seats
from cispo.policy.base import Policy
from cispo.stacks import offer_stacks
from cispo.types import Metrics, PolicyVersion, Sample
from cispo.weights.buckets import Allocate, WeightBucket
from cispo.weights.collective import CollectiveOutlet, open_store
from cispo.weights.object_store import StoredBucket
from cispo.weights.outlet import Outlet, Route, WeightExport, export


class _Learner(Protocol):
    """What `LocalLearner` and `DeepSpeedLearner` have in common."""

    def step(self, samples: Sequence[Sample], measures: CounterMeasures) -> Metrics: ...

    def logprobs(self, samples: Sequence[Sample]) -> dict[int, npt.NDArray[np.float32]]: ...

    def save(self, folder: Path) -> None: ...

    def restore(self, folder: Path) -> None: ...

    def buckets(
        self, *, version: int, max_bytes: int, allocate: Allocate = ...
    ) -> Iterator[WeightBucket]: ...


class LearnerActor:
    """One rank.

    Args:
        rank: Which one, from 0.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._route: Route | None = None
        self._outlet: Outlet | None = None
        self._store: Any = None

    def address(self) -> tuple[str, int]:
        """Host of this rank and a port that is free on it, where the ranks may meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(
        self,
        make_policy: Callable[[], Policy],
        learner: LearnerConfig,
        objective: ObjectiveConfig,
        *,
        temperature: float,
        host: str,
        port: int,
    ) -> None:
        """Build the policy and its learner, and meet the other ranks.

        A method and not the constructor, because an error raised there reaches nobody as itself.
        """
        offer_stacks(process_name(self._rank))
        torch.set_num_threads(max(1, int(learner.num_cpus)))
        policy = make_policy()
        if learner.num_gpus:
            policy = policy.cuda()
        own = learner.router_aux_loss_coef
        rule = update_rule(
            objective,
            micro_batch_tokens=learner.micro_batch_tokens,
            temperature=temperature,
            router_aux_loss_coef=policy.aux_loss_coef if own is None else own,
        )
        optimizer = asdict(learner.optimizer)
        if learner.backend == "local":
            self._learner: _Learner = LocalLearner(policy, rule, **optimizer)
            return
        # Imported here because it takes seconds, which the local learner does not owe.
        from cispo.learner.deepspeed import DeepSpeedLearner
        from cispo.learner.engine import join_process_group

        join_process_group(rank=self._rank, num_ranks=learner.num_ranks, host=host, port=port)
        self._learner = DeepSpeedLearner(
            policy,
            rule,
            zero_stage=learner.zero_stage,
            sequence_parallel=learner.sequence_parallel,
            offload=Offload(learner.offload),
            **optimizer,
        )

    def step(self, samples: Sequence[Sample], measures: CounterMeasures) -> Metrics:
        """Take one optimizer step; see `LearnerGroup.step`."""
        return self._learner.step(samples, measures)

    def logprobs(self, samples: Sequence[Sample]) -> dict[int, npt.NDArray[np.float32]]:
        """Score this rank's share; see `cispo.anchor.Scorer`."""
        return self._learner.logprobs(samples)

    def save(self, folder: Path) -> None:
        """Write weights, optimizer and schedule."""
        self._learner.save(folder)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self._learner.restore(folder)

    def export_weights(
        self, version: PolicyVersion, route: Route, max_bytes: int
    ) -> WeightExport | None:
        """Let the weights out from rank 0, in buckets; the other ranks only take part."""
        if self._rank > 0:
            for _ in self._learner.buckets(version=version, max_bytes=max_bytes):
                pass
            return None
        if self._outlet is None or route != self._route:
            if self._outlet is not None:
                self._outlet.close()
            self._outlet, self._route = route.outlet(), route
        buckets = self._learner.buckets(
            version=version, max_bytes=max_bytes, allocate=self._outlet.allocate
        )
        return export(version, buckets, self._outlet)

    def open_store(self) -> tuple[str, int] | None:
        """Open, on rank 0, where groups that broadcast weights meet; returns its host and port."""
        if self._rank > 0:
            return None
        host = ray.util.get_node_ip_address()
        self._store = self._store or open_store(host)
        return host, self._store.port

    def store_weights(self, version: PolicyVersion) -> list[StoredBucket]:
        """Put what rank 0 broadcast last into the object store.

        Raises:
            WeightSyncError: That is another version.
        """
        if self._rank > 0:
            return []
        if not isinstance(self._outlet, CollectiveOutlet) or self._outlet.version != version:
            raise WeightSyncError(f"the learner does not keep policy version {version}")
        return [StoredBucket.put(bucket) for bucket in self._outlet.kept]


def start_rank(
    rank: int, learner: LearnerConfig, environment: Mapping[str, str], seats: Seats | None
) -> Any:
    """Ask Ray for one rank and return its handle; it may not be there yet."""
    actor = ray.remote(LearnerActor).options(
        num_cpus=learner.num_cpus,
        num_gpus=learner.num_gpus,
        runtime_env={"env_vars": environment},
        scheduling_strategy=seats.strategy(rank) if seats else "DEFAULT",
    )
    return actor.remote(rank)
