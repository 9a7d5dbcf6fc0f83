"""Many clients at once, clients that leave, engines that break, and the end."""

import asyncio
import itertools
import threading
import time

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from cispo.errors import DivergedError
from rollout.backends.base import Finished
from rollout.driver import Engine
from tests.rollout.server.running import (
    MODEL,
    TOKENIZER,
    Running,
    lightning_engine,
    running_server,
    scripted_engine,
)
from tests.waiting import PATIENCE_SECONDS

ACTIVE = "cispo_engine_active_sequences"
NUM_STREAMS = 32


def endless_engine() -> Engine:
    """Says a token every few milliseconds, for longer than a test takes."""
    word = TOKENIZER.encode("so", add_special_tokens=False)
    return scripted_engine(lambda request, member: word * 100_000, seconds_per_step=0.002)


async def stream(client: AsyncOpenAI, seed: int) -> list[int]:
    chunks = await client.completions.create(
        model=MODEL,
        prompt=f"{seed} + 1 =",
        seed=seed,
        max_tokens=40 + seed,
        stream=True,
        extra_body={"return_token_ids": True},
    )
    return [token async for chunk in chunks for token in chunk.choices[0].token_ids]


def test_32_streams_at_once_get_what_each_gets_alone(server: Running) -> None:
    async def together() -> list[list[int]]:
        async with AsyncOpenAI(base_url=server.url, api_key="any", timeout=120) as client:
            return await asyncio.gather(*(stream(client, seed) for seed in range(NUM_STREAMS)))

    before = server.metric("cispo_engine_decode_steps_total")
    streams = asyncio.run(together())
    num_steps = server.metric("cispo_engine_decode_steps_total") - before
    assert num_steps < sum(map(len, streams)) / 4  # they shared steps
    for seed, ids in enumerate(streams):
        alone = server.client.completions.create(
            model=MODEL,
            prompt=f"{seed} + 1 =",
            seed=seed,
            max_tokens=40 + seed,
            extra_body={"return_token_ids": True},
        )
        assert ids == alone.choices[0].token_ids


def test_a_request_without_a_seed_gets_a_new_one(client: OpenAI) -> None:
    knobs = {"model": MODEL, "prompt": "1 + 1", "max_tokens": 30}
    first, second = (client.completions.create(**knobs).choices[0].text for _ in range(2))
    assert first != second


def test_a_client_that_leaves_its_stream_frees_the_rows() -> None:
    with running_server(endless_engine) as running:
        chunks = running.client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Talk."}],
            max_tokens=90_000,
            n=3,
            stream=True,
        )
        assert len(list(itertools.islice(chunks, 10))) == 10
        assert running.metric(ACTIVE) == 3
        chunks.close()
        running.wait_for_metric(ACTIVE, 0)


def test_a_client_that_does_not_wait_for_its_answer_frees_the_rows() -> None:
    with running_server(endless_engine) as running:
        patient = threading.Thread(
            target=lambda: running.client.completions.create(
                model=MODEL, prompt="x", max_tokens=600
            )
        )
        patient.start()
        running.wait_for_metric(ACTIVE, 1)
        hasty = running.client.with_options(timeout=0.5)
        with pytest.raises(openai.APITimeoutError):
            hasty.completions.create(model=MODEL, prompt=["x", "y"], max_tokens=90_000)
        patient.join()
        running.wait_for_metric(ACTIVE, 0)


class BreakingBackend:
    """An engine of which every eighth step fails."""

    def __init__(self, engine: Engine) -> None:
        self._backend = engine.backend
        self._num_steps = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def step(self) -> list[Finished]:
        self._num_steps += 1
        if self._num_steps % 8 == 0:
            raise DivergedError("the logits are not finite")
        return self._backend.step()


def test_an_engine_that_breaks_fails_its_requests_and_serves_the_next() -> None:
    def broken() -> Engine:
        return Engine(BreakingBackend(lightning_engine()), TOKENIZER)

    with running_server(broken) as running:
        knobs = {"model": MODEL, "prompt": "1 + 1", "seed": 1, "max_tokens": 20}
        with pytest.raises(openai.InternalServerError, match="not finite"):
            running.client.completions.create(**knobs)
        with pytest.raises(openai.APIError, match="not finite"):
            list(running.client.completions.create(**knobs, stream=True))
        assert running.metric(ACTIVE) == 0
        few = running.client.completions.create(**{**knobs, "max_tokens": 2})
        assert few.usage.completion_tokens == 2


class PausingBackend:
    """An engine whose steps do nothing while it pauses."""

    def __init__(self, engine: Engine) -> None:
        self._backend = engine.backend
        self.is_pausing = threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def step(self) -> list[Finished]:
        if self.is_pausing.is_set():
            time.sleep(0.002)
            return []
        return self._backend.step()


def test_a_server_that_stops_finishes_what_it_began_and_begins_nothing() -> None:
    backend = PausingBackend(endless_engine())
    engine = Engine(backend, TOKENIZER)
    with running_server(lambda: engine, drain_seconds=PATIENCE_SECONDS) as running:
        chunks = running.client.completions.create(
            model=MODEL, prompt="x", max_tokens=300, stream=True
        )
        next(iter(chunks))
        backend.is_pausing.set()
        running.stop()
        running.wait_for_metric("cispo_server_stopping", 1)
        with pytest.raises(openai.InternalServerError) as caught:
            running.client.completions.create(model=MODEL, prompt="x")
        assert caught.value.status_code == 503
        backend.is_pausing.clear()
        assert len(list(chunks)) >= 298
        running.thread.join(PATIENCE_SECONDS)
        assert not running.thread.is_alive()


def test_a_server_that_stops_does_not_wait_for_ever() -> None:
    with running_server(endless_engine, drain_seconds=0.2) as running:
        chunks = running.client.completions.create(
            model=MODEL, prompt="x", max_tokens=90_000, stream=True
        )
        next(iter(chunks))
        running.stop()
        with pytest.raises(openai.APIError):
            list(chunks)
        running.thread.join(PATIENCE_SECONDS)
        assert not running.thread.is_alive()


def test_metrics_count_tokens_and_answers() -> None:
    with running_server(lightning_engine) as running:
        answer = running.client.completions.create(
            model=MODEL, prompt=["1 + 1", "2 + 2"], n=2, max_tokens=5
        )
        with pytest.raises(openai.BadRequestError):
            running.client.completions.create(model=MODEL, prompt="x", n=0)
        path = 'path="/v1/completions",status='
        assert running.metric(f'cispo_server_responses_total{{{path}"200"}}') == 1
        assert running.metric(f'cispo_server_responses_total{{{path}"400"}}') == 1
        sampled = running.metric("cispo_engine_sampled_tokens_total")
        assert sampled == answer.usage.completion_tokens
