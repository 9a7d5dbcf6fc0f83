"""What the publisher asks of a learner and an engine, and what it says when they differ."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cispo.errors import WeightSyncError
from cispo.types import PolicyVersion
from cispo.weights.collective import Meeting
from cispo.weights.outlet import Route, Ticket, WeightExport
from cispo.weights.sync import Broadcasts, Fetch, Publisher

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


class Way:
    """A route that the fakes below never take."""


class Sender:
    """A learner whose weights have the checksum `sum` and its version."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self.fault: str | None = None
        self.events: list[str] = []
        self.num_stored = 0

    async def export_weights(
        self, version: PolicyVersion, route: Route, *, max_bytes: int
    ) -> WeightExport:
        self.routes.append(route)
        self.events.append(f"export {version}")
        return WeightExport(
            version=version,
            tickets=[],
            checksum=f"sum{version}",
            num_bytes=max_bytes,
            seconds=0.5,
            fault=self.fault,
        )

    async def open_store(self) -> tuple[str, int]:
        return "host", 1234

    async def store_weights(self, version: PolicyVersion) -> Sequence[Ticket]:
        self.num_stored += 1
        return []


class Receiver:
    """Engines that find what they are told to find."""

    def __init__(self, sender: Sender, answers: Mapping[str, str] | None = None) -> None:
        self.misses_it = False
        self.names = ["rollout-0", "rollout-1"]
        self.answers = answers
        self.fetches: list[Fetch] = []
        self._sender = sender

    def expect_weights(self) -> Sequence[str]:
        self._sender.events.append("expect")
        return list(self.names)

    async def load_weights(
        self, version: PolicyVersion, tickets: Sequence[Ticket]
    ) -> Mapping[str, str]:
        self._sender.events.append(f"load {version}")
        if self.answers is not None:
            return self.answers
        return dict.fromkeys(self.names, f"sum{version}")

    async def hear_weights(
        self, version: PolicyVersion, meeting: Meeting, names: Sequence[str], fetch: Fetch
    ) -> Mapping[str, str]:
        assert list(names) == self.names
        assert meeting.size == 1 + len(names)
        self.fetches.append(fetch)
        if self.misses_it:
            await fetch()
        return await self.load_weights(version, [])


def publisher(sender: Sender, receiver: Receiver, *, version: int = 0) -> Publisher:
    return Publisher(sender, receiver, Way(), bucket_bytes=70, version=version)  # type: ignore[arg-type]


async def test_versions_follow_each_other_and_old_weights_are_withdrawn_before_new_ones_come() -> (
    None
):
    sender = Sender()
    publishing = publisher(sender, Receiver(sender))
    assert [await publishing.publish() for _ in range(2)] == [1, 2]
    assert sender.events == ["expect", "export 1", "load 1", "expect", "export 2", "load 2"]


async def test_a_resumed_run_publishes_the_version_of_its_checkpoint_again() -> None:
    sender = Sender()
    assert await publisher(sender, Receiver(sender), version=12 - 1).publish() == 12


async def test_a_receiver_that_found_something_else_is_named() -> None:
    sender = Sender()
    publishing = publisher(sender, Receiver(sender, {"rollout-6": "sum1", "rollout-7": "beef"}))
    with pytest.raises(WeightSyncError, match=r"version 1 has checksum sum1 .* beef at rollout-7$"):
        await publishing.publish()


async def test_weights_that_reach_nobody_are_an_error() -> None:
    sender = Sender()
    with pytest.raises(WeightSyncError, match="reached no engine"):
        await publisher(sender, Receiver(sender, {})).publish()


async def test_what_was_published_is_logged_once_under_documented_names() -> None:
    sender = Sender()
    publishing = publisher(sender, Receiver(sender))
    await publishing.publish()
    await publishing.publish()
    lap = await publishing.lap()
    assert lap["engine/sync_bytes"] == 2 * 70
    assert lap["time/sync_export_seconds"] == 1.0
    assert set(lap) <= set(re.findall(r"`([^`]+)`", PAGE.read_text()))
    assert set((await publishing.lap()).values()) == {0.0}


async def test_a_group_is_kept_until_its_members_change_or_it_breaks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    sender = Sender()
    receiver = Receiver(sender)
    broadcasts = Broadcasts(backend="gloo", timeout_seconds=1.0)
    publishing = Publisher(sender, receiver, broadcasts)
    await publishing.publish()
    await publishing.publish()
    first, again = sender.routes
    assert first == again
    receiver.names = ["rollout-0", "rollout-2"]
    await publishing.publish()
    assert sender.routes[2] != first
    sender.fault = "rollout-2 slept"
    await publishing.publish()
    assert sender.routes[3] == sender.routes[2]
    assert "rollout-2 slept" in caplog.text
    sender.fault = None
    await publishing.publish()
    assert sender.routes[4] not in sender.routes[:4]
    receiver.misses_it = True  # which the learner, who sent it all, may not notice
    await publishing.publish()
    assert sender.routes[5] == sender.routes[4]
    await publishing.publish()
    assert sender.routes[6] not in sender.routes[:6]


async def test_what_was_broadcast_is_stored_only_for_who_asks_and_then_once() -> None:
    sender = Sender()
    receiver = Receiver(sender)
    await Publisher(sender, receiver, Broadcasts(backend="gloo", timeout_seconds=1.0)).publish()
    assert sender.num_stored == 0
    [fetch] = receiver.fetches
    await fetch()
    await fetch()
    assert sender.num_stored == 1
