"""The interface through which a host is reached."""

import os
import socket

import pytest

from cispo.interface import VARIABLE, interface_towards, meet_through


def test_this_machine_reaches_itself_through_the_loopback() -> None:
    name = interface_towards("127.0.0.1")
    assert name in {name for _, name in socket.if_nameindex()}
    assert name == "lo"


def test_a_host_that_does_not_exist_is_reached_through_nothing() -> None:
    assert interface_towards("no such host") is None


def test_what_a_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "ib0")
    meet_through("127.0.0.1")
    assert os.environ[VARIABLE] == "ib0"
