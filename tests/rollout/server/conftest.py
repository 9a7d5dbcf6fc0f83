"""One server with a real engine for all tests that do not change it."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.rollout.server.running import Running, lightning_engine, running_server


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    with running_server(lightning_engine) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Running) -> OpenAI:
    return server.client
