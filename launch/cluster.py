"""Start Ray on this machine, or join a cluster that runs."""

import logging
import math
import os
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cispo.config import ClusterConfig
from cispo.errors import ConfigError
from cispo.stacks import Incarnation, ask
from launch.nodes import on_node
from launch.processes import descendants
from launch.reaper import reaped

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before Ray is imported. One thread a process: two are 4-5 times slower on shared cores."""

_OF_OUR_OWN = {"RAY_AUTH_MODE": "disabled"}
"""The same for a cluster of our own, which answers this machine alone."""

_FORWARDED = ("NCCL_", "TORCH_NCCL_", "GLOO_", "UCX_", "FI_", "HF_HOME", "HF_HUB_")
"""How variables begin that all actors get from the driver's environment: how processes talk to each
other, and where models are cached. No secrets: Ray shows them to whoever sees the cluster."""

_REACH_SECONDS = 5.0


@contextmanager
def ray_cluster(
    cluster: ClusterConfig, *, required_cpus: float, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run the block with Ray up; what this process started is shut down again.

    A cluster of our own claims at least the CPUs that the run's actors reserve: on a small machine
    they share its cores instead of waiting for each other for ever.

    A first start that fails is tried once more: Ray's own agent can miss its deadline.

    Args:
        cluster: Where.
        required_cpus: That the run's actors reserve together.
        environment: Variables of all actors.

    Raises:
        ConfigError: There is no cluster at the address.
    """
    is_own = cluster.address is None
    for name, value in {**ENVIRONMENT, **(_OF_OUR_OWN if is_own else {})}.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    import ray

    local = {
        "address": "local",  # else Ray would join whatever cluster was last started on this machine
        "num_cpus": cluster.num_cpus or max(os.cpu_count() or 1, math.ceil(required_cpus)),
        "object_store_memory": cluster.object_store_bytes,
        "include_dashboard": False,
    }
    options: dict[str, Any] = local if is_own else {"address": cluster.address}
    others = descendants(os.getpid())
    heeding = signal.getsignal(signal.SIGTERM)
    for attempt in (1, 2):
        try:
            ray.init(
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {**forwarded(os.environ), **(environment or {})}},
                **options,
            )
            break
        except ConnectionError as error:
            raise ConfigError(
                f"cluster.address={cluster.address}: no Ray cluster answers there; start one with "
                "`ray start`, or use cluster=local. One that was started with a token needs the "
                "same RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH here"
            ) from error
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    if heeding is not signal.SIG_DFL:  # Ray takes the signal from who had it
        signal.signal(signal.SIGTERM, heeding)
    with reaped(descendants(os.getpid()) - others):
        try:
            yield
        finally:
            ray.shutdown()


def forwarded(environment: Mapping[str, str]) -> dict[str, str]:
    """Those variables of the driver that actors on all nodes need too."""
    return {name: value for name, value in environment.items() if name.startswith(_FORWARDED)}


def ask_elsewhere(host: str, processes: Sequence[Incarnation]) -> None:
    """Ask processes on another host of the cluster for their stacks; see `cispo.stacks.ask`.

    A host that does not answer is left alone: its processes then count as silent.
    """
    import ray
    from ray.exceptions import RayError

    for node in ray.nodes():
        if node["Alive"] and node["NodeManagerHostname"] == host:
            task = on_node(ask, node["NodeID"])
            try:
                ray.get(task.remote(list(processes)), timeout=_REACH_SECONDS)
            except RayError as error:
                logging.getLogger(__name__).warning("no stacks from %s: %s", host, error)
