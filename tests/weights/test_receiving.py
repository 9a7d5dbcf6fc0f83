"""An engine that gives up a broadcast does not wait for it."""

import threading
from typing import cast

import pytest
from torch import Tensor

from cispo.errors import WeightTransferError
from cispo.weights.collective import Circle, receiving
from tests.waiting import PATIENCE_SECONDS


class StandingStill:
    """A group in which nothing arrives until it breaks."""

    def __init__(self) -> None:
        self.is_waiting, self.is_broken = threading.Event(), threading.Event()

    def broadcast(self, tensor: Tensor) -> None:
        self.is_waiting.set()
        assert self.is_broken.wait(PATIENCE_SECONDS)
        raise WeightTransferError("the group broke")


def test_leaving_does_not_wait_for_what_is_on_its_way() -> None:
    circle = StandingStill()
    caught: list[BaseException] = []

    with receiving(cast(Circle, circle), reuses_memory=False) as buckets:

        def ask() -> None:
            with pytest.raises(WeightTransferError, match="broke") as error:
                next(buckets)
            caught.append(error.value)

        asking = threading.Thread(target=ask)
        asking.start()
        assert circle.is_waiting.wait(PATIENCE_SECONDS)

    assert not circle.is_broken.is_set()  # left while the broadcast still stood
    circle.is_broken.set()
    asking.join(PATIENCE_SECONDS)
    assert len(caught) == 1
