"""Start Ray on this machine, or join a cluster that runs."""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cispo.config import ClusterConfig
from cispo.errors import ConfigError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before Ray is imported. One thread a process: two are 4-5 times slower on shared cores."""


@contextmanager
def ray_cluster(cluster: ClusterConfig, *, required_cpus: float) -> Iterator[None]:
    """Run the block with Ray up; what this process started is shut down again.

    A cluster of our own claims at least the CPUs that the run's actors reserve: on a small machine
    they share its cores instead of waiting for each other for ever.

    A first start that fails is tried once more: Ray's own agent can miss its deadline.

    Raises:
        ConfigError: There is no cluster at the address.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    import ray

    local = {
        "address": "local",  # else Ray would join whatever cluster was last started on this machine
        "num_cpus": cluster.num_cpus or max(os.cpu_count() or 1, math.ceil(required_cpus)),
        "object_store_memory": cluster.object_store_bytes,
        "include_dashboard": False,
    }
    options = local if cluster.address is None else {"address": cluster.address}
    for attempt in (1, 2):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            break
        except ConnectionError as error:
            raise ConfigError(
                f"cluster.address={cluster.address}: no Ray cluster answers there; start one with "
                "`ray start`, or use cluster=local"
            ) from error
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    try:
        yield
    finally:
        ray.shutdown()
