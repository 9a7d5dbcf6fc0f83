"""Fixtures that several tests share, and which tests share a process where several run them."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

# Results of matrix products then do not depend on how many rows they have; read at torch's import.
os.environ["MKL_CBWR"] = "AUTO,STRICT"
os.environ["OMP_NUM_THREADS"] = "1"
# Ray's workers would let all other processes go first, and so wait for the tests beside them.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - as Ray spells it

LONGEST_FIRST = (
    "tests/integration/test_kills.py",
    "tests/learner/test_group.py",
    "tests/sandboxes/test_hostile.py",
    "tests/integration/",
    "tests/swe/test_hacks.py",
    "tests/contracts/",
)
"""What takes minutes begins at once, so that no process ends long after the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the longest to the front; the others keep their order."""

    def place(item: pytest.Item) -> int:
        starts = [item.nodeid.startswith(start) for start in LONGEST_FIRST]
        return starts.index(True) if True in starts else len(starts)

    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "LoadScopeScheduling":
    """A file's tests stay in one process, and all that share a Ray do; whole runs go anywhere."""
    from xdist.scheduler import LoadScopeScheduling

    @cache
    def uses_ray(file: str) -> bool:
        return "ray_session" in Path(config.rootpath, file).read_text(encoding="utf-8")

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if uses_ray(file):
                return "Ray"
            return nodeid if file.startswith("tests/integration/") else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that need it: starting one takes about ten seconds."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    for attempt in (1, 2):
        try:
            ray.init(
                address="local",
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
