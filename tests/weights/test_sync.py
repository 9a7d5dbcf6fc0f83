from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from torch import nn

from cispo.errors import WeightSyncError
from cispo.types import PolicyVersion
from cispo.weights.arrival import apply_buckets
from cispo.weights.buckets import export_checksum, exported_tensors, to_buckets
from cispo.weights.sync import Publisher, WeightExport


class Sender:
    def __init__(self) -> None:
        self.model = nn.Linear(3, 3)

    async def export_weights(self, version: PolicyVersion) -> WeightExport:
        buckets = list(to_buckets(exported_tensors(self.model), max_bytes=16))
        return WeightExport(
            version=version,
            buckets=buckets,
            checksum=export_checksum([bucket.checksum for bucket in buckets]),
        )


class Receiver:
    def __init__(self, answers: Mapping[str, str] | None = None) -> None:
        self.models = {"rollout-0": nn.Linear(3, 3), "rollout-1": nn.Linear(3, 3)}
        self.answers = answers
        self.versions: list[int] = []

    async def load_weights(
        self, version: PolicyVersion, buckets: Sequence[Any]
    ) -> Mapping[str, str]:
        self.versions.append(version)
        if self.answers is not None:
            return self.answers
        return {name: apply_buckets(model, buckets) for name, model in self.models.items()}


async def test_publishing_copies_the_weights_everywhere_under_the_next_version() -> None:
    sender, receiver = Sender(), Receiver()
    publisher = Publisher(sender, receiver)
    assert [await publisher.publish() for _ in range(3)] == [1, 2, 3]
    assert receiver.versions == [1, 2, 3]
    for model in receiver.models.values():
        assert model.weight.tolist() == sender.model.weight.tolist()


async def test_a_resumed_run_publishes_the_version_of_its_checkpoint_again() -> None:
    assert await Publisher(Sender(), Receiver(), version=12 - 1).publish() == 12


async def test_a_receiver_that_found_something_else_is_named() -> None:
    publisher = Publisher(Sender(), Receiver({"rollout-7": "beef"}))
    with pytest.raises(WeightSyncError, match=r"version 1 has checksum \w+ .* beef at rollout-7"):
        await publisher.publish()


async def test_weights_that_reach_nobody_are_an_error() -> None:
    with pytest.raises(WeightSyncError, match="reached no engine"):
        await Publisher(Sender(), Receiver({})).publish()
