"""Fixtures that several tests share."""

import os
from collections.abc import Iterator

import pytest

# Results of matrix products then do not depend on how many rows they have; read at torch's import.
os.environ["MKL_CBWR"] = "AUTO,STRICT"
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that need it: starting one takes about ten seconds."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    for attempt in (1, 2):
        try:
            ray.init(
                num_cpus=8,
                include_dashboard=False,
                object_store_memory=256 * 2**20,
                log_to_driver=False,
                logging_level="warning",
            )
            break
        except Exception:  # Ray raises a bare Exception when its daemons start too slowly
            ray.shutdown()
            if attempt == 2:
                raise
    yield
    ray.shutdown()
