"""Ranks as processes that meet over gloo, without Ray."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any
from unittest import mock

_PATIENCE_SECONDS = 240.0


def run_on_ranks(work: Callable[[int], Any], *, num_ranks: int) -> list[Any]:
    """Call `work(rank)` in `num_ranks` processes that have met, and return what each returns.

    DeepSpeed is imported once and the ranks are forked from there; it takes seconds.

    Args:
        work: A function of a module; what it returns can be pickled.
        num_ranks: Processes.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cispo.learner.deepspeed", "torch._dynamo"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes, processes = [], []
    with mock.patch.dict(os.environ, DS_ACCELERATOR="cpu"):
        for rank in range(num_ranks):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank, args=(work, rank, num_ranks, port, theirs), daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
    try:
        results = [_receive(pipe) for pipe in _in_order(pipes)]
    finally:
        for process in processes:
            process.kill()
            process.join()
        forkserver._forkserver._stop()  # it would stay until the end of all tests
    return results


def _in_order(pipes: list[Connection]) -> list[Connection]:
    """Wait until all have something to say, or one of them broke off."""
    waiting = list(pipes)
    while waiting:
        ready = wait(waiting, timeout=_PATIENCE_SECONDS)
        assert ready, f"{len(waiting)} of {len(pipes)} ranks said nothing"
        for pipe in ready:
            assert isinstance(pipe, Connection)
            waiting.remove(pipe)
    return pipes


def _receive(pipe: Connection) -> Any:
    error, result = pipe.recv()
    assert error is None, error
    return result


def _rank(
    work: Callable[[int], Any], rank: int, num_ranks: int, port: int, pipe: Connection
) -> None:
    import torch

    from cispo.learner.engine import join_process_group

    torch.set_num_threads(1)
    try:
        join_process_group(rank=rank, num_ranks=num_ranks, host="127.0.0.1", port=port)
        pipe.send((None, work(rank)))
    except BaseException:
        pipe.send((traceback.format_exc(), None))
        raise
