"""Ranks as threads of one process: collectives are checked, and cannot hang."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_PATIENCE_SECONDS = 120.0


class _Board:
    """Where the threads put down what they send."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=_PATIENCE_SECONDS)
        self.sent: list[Any] = [None] * size
        self.calls: list[str] = [""] * size


class ThreadRanks:
    """One of R threads; see `cispo.policy.ranks.Ranks`."""

    def __init__(self, rank: int, board: _Board) -> None:
        self.rank = rank
        self.size = len(board.sent)
        self.num_calls = 0
        self._board = board

    def gather(self, x: Tensor) -> Tensor:
        everything = self._meet(f"gather {tuple(x.shape)} {x.dtype}", x)
        return torch.stack(everything)

    def exchange(self, x: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        assert len(x) == sum(sent)
        parts = self._meet(f"exchange {x.shape[1:]} {x.dtype}", x.split(list(sent)))
        mine = [part[self.rank] for part in parts]
        assert [len(rows) for rows in mine] == list(received)
        return torch.cat(mine)

    def _meet(self, call: str, sent: Any) -> list[Any]:
        board = self._board
        board.sent[self.rank], board.calls[self.rank] = sent, call
        board.barrier.wait()
        assert len(set(board.calls)) == 1, f"the ranks are in different collectives: {board.calls}"
        everything = list(board.sent)
        board.barrier.wait()
        self.num_calls += 1
        return everything


def on_ranks(size: int, run: Callable[[ThreadRanks], Any]) -> list[Any]:
    """Call `run` on all ranks and return what each of them returns; the first error is raised."""
    board = _Board(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            results[rank] = run(ThreadRanks(rank, board))
        except BaseException as error:
            if not isinstance(error, threading.BrokenBarrierError):
                errors.insert(0, error)
            errors.append(error)
            board.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
