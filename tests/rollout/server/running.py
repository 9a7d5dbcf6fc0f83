"""A server in a thread of its own, for clients in the test's thread."""

import asyncio
import functools
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from openai import OpenAI

from cispo.config import SamplingConfig
from cispo.policy.chat import stop_token_ids
from cispo.policy.load import bundled_tokenizer, load_tokenizer, new_lightning_policy
from rollout.backends.base import Backend, Request, StopRules
from rollout.backends.lightning import LightningBackend
from rollout.backends.scripted import ScriptedBackend
from rollout.driver import Engine, EngineDriver
from rollout.scoring import score_tokens
from rollout.server.app import serve
from rollout.server.service import Service
from rollout.token_text import TokenText
from tests.waiting import PATIENCE_SECONDS, wait_until

MODEL = "tiny"
CONTEXT = 400
TOKENIZER = load_tokenizer(str(bundled_tokenizer("bpe1024")))
POLICY = new_lightning_policy(
    {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
        "rotary_dim": 8,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
    },
    "bpe1024",
    seed=0,
)


def lightning_backend() -> LightningBackend:
    rules = StopRules(token_ids=stop_token_ids(TOKENIZER), text=TokenText(TOKENIZER))
    return LightningBackend(POLICY, rules, max_sequences=64)


def lightning_engine() -> Engine:
    score = functools.partial(score_tokens, POLICY)
    return Engine(lightning_backend(), TOKENIZER, context_length=CONTEXT, score=score)


def scripted_engine(
    answer: str | Callable[[Request, int], Sequence[int]], *, seconds_per_step: float = 0.0
) -> Engine:
    """An engine that always says the same, one token a step."""
    rules = StopRules(token_ids=stop_token_ids(TOKENIZER))
    script = answer if callable(answer) else (lambda request, member: said(answer))
    return Engine(ScriptedBackend(script, rules, seconds_per_step=seconds_per_step), TOKENIZER)


def said(text: str) -> list[int]:
    return [*TOKENIZER.encode(text, add_special_tokens=False), min(stop_token_ids(TOKENIZER))]


@dataclass
class Running:
    """A server that runs.

    Attributes:
        url: Up to and with /v1.
        backend: Of its engine.
        stop: Tells it to stop, and returns at once.
        thread: Where it runs.
    """

    url: str
    backend: Backend
    stop: Callable[[], None]
    thread: threading.Thread

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=self.url, api_key="any", max_retries=0, timeout=PATIENCE_SECONDS)

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(self.url.removesuffix("v1") + "metrics") as response:
            lines = response.read().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.split()[0] == name)

    def wait_for_metric(self, name: str, value: float) -> None:
        """Wait until a metric has a value; fails after a time that no machine needs."""
        wait_until(lambda: self.metric(name) == value, what=f"{name} is {value}")


@contextmanager
def running_server(make_engine: Callable[[], Engine], **knobs: object) -> Iterator[Running]:
    """Start a server on a free port, and stop it at the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    started: list[Running] = []
    is_ready = threading.Event()

    async def main() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        driver = await EngineDriver.start(make_engine)
        service = Service(
            driver=driver,
            model=MODEL,
            context_length=driver.context_length,
            defaults=SamplingConfig(max_new_tokens=100),
        )
        started.append(
            Running(
                url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1",
                backend=driver._backend,
                stop=lambda: loop.call_soon_threadsafe(stop.set),
                thread=threading.current_thread(),
            )
        )
        await serve(service, listener, stop, on_ready=is_ready.set, **knobs)
        driver.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    is_ready.wait(PATIENCE_SECONDS)
    try:
        yield started[0]
    finally:
        if thread.is_alive():
            started[0].stop()
        thread.join(PATIENCE_SECONDS)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"
