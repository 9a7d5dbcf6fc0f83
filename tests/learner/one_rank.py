"""A process group of one rank, in the tests' own process."""

import atexit
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import torch


@contextmanager
def one_rank() -> Iterator[None]:
    """Let DeepSpeed be used inside, on the CPU; the environment is restored."""
    environment = dict(os.environ)
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.update(_joined())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)


@lru_cache(maxsize=1)
def _joined() -> Mapping[str, str]:
    """Make the group, once: DeepSpeed cannot be given another one; returns the environment."""
    from cispo.learner.engine import join_process_group

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    join_process_group(rank=0, num_ranks=1, host="127.0.0.1", port=port)
    atexit.register(torch.distributed.destroy_process_group)
    return dict(os.environ)
