"""Rows of a table in a new random order each epoch (stdlib only)."""

from random import Random

from cispo.seeding import stream_seed


class Shuffled:
    """An endless sequence of rows that a position alone determines.

    Args:
        length: Rows of the table.
        seed: Decides all orders.

    Attributes:
        position: Rows that were given.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length, self._seed, self._epoch = length, seed, -1
        self._order: list[int] = []
        self.position = 0

    def next(self) -> int:
        """Return the row at the position, and move on."""
        epoch, place = divmod(self.position, self._length)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = list(range(self._length))
            Random(stream_seed(self._seed, epoch)).shuffle(self._order)
        self.position += 1
        return self._order[-1 - place]
