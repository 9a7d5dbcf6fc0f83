"""What HTTP costs: tokens a second of the engine alone, behind its driver, and behind the server.

    python -m benchmarks.serving           # three minutes; writes results/serving.json
    python -m benchmarks.serving --quick   # fewer requests and tokens, stores nothing

One model, one engine each, float32, one thread; the ways take turns. `openai` clients run in a
process of their own, on the other core, and are started before the clock. Beside wall time stands
the CPU time of the engine's process, which waiting for clients does not change.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from openai import AsyncOpenAI

from benchmarks.generators import SMALL, lightning_model
from benchmarks.machine import describe
from cispo.config import SamplingConfig
from cispo.policy.load import bundled_tokenizer, load_tokenizer
from rollout.backends.base import Backend, Request, SamplingParams, StopRules
from rollout.backends.lightning import LightningBackend
from rollout.driver import Engine, EngineDriver
from rollout.server.app import serve
from rollout.server.service import Service

RESULT = Path(__file__).parent / "results" / "serving.json"
REQUESTS = (1, 32, 128)
QUICK_REQUESTS = (1, 32)
DRIVER, WHOLE, STREAMS = "driver", "server, whole answers", "server, streams"
ROUNDS = 3
PROMPT = tuple(range(5, 13))

Way = Callable[[int, int], Awaitable[float]]


def engine() -> Engine:
    torch.set_num_threads(1)
    model = lightning_model(replace(SMALL, vocabulary=1024))
    backend = LightningBackend(model, StopRules(token_ids=frozenset()), max_sequences=max(REQUESTS))
    return Engine(backend, load_tokenizer(str(bundled_tokenizer("bpe1024"))))


def request(request_id: int, tokens: int) -> Request:
    return Request(
        request_id=request_id,
        task_id="t",
        prompt=PROMPT,
        seeds=(request_id,),
        sampling=SamplingParams(max_new_tokens=tokens),
    )


def alone(backend: Backend) -> Way:
    async def run(count: int, tokens: int) -> float:
        start = time.perf_counter()
        for index in range(count):
            backend.start(request(index, tokens))
        while backend.num_active:
            backend.step()
        return time.perf_counter() - start

    return run


def driven(driver: EngineDriver) -> Way:
    async def run(count: int, tokens: int) -> float:
        start = time.perf_counter()
        new = driver.new_request_id
        await asyncio.gather(*(driver.sample(request(new(), tokens)) for _ in range(count)))
        return time.perf_counter() - start

    return run


def served(url: str, *, stream: bool) -> Way:
    async def run(count: int, tokens: int) -> float:
        command = [sys.executable, "-m", "benchmarks.serving", "--client", url]
        command += [str(count), str(tokens), str(int(stream))]
        client = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        output, _ = await client.communicate()
        assert client.returncode == 0
        return float(output)

    return run


async def ask(url: str, count: int, tokens: int, *, stream: bool) -> float:
    """Return the seconds that all answers together took, in the clients' process."""
    async with AsyncOpenAI(base_url=url, api_key="none", timeout=300) as client:

        async def one() -> None:
            answer = await client.completions.create(
                model="small", prompt=PROMPT, max_tokens=tokens, stream=stream
            )
            if stream:
                assert len([chunk async for chunk in answer]) >= tokens
            else:
                assert answer.usage.completion_tokens == tokens

        await client.models.list()
        start = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(count)))
        return time.perf_counter() - start


async def measure(requests: Sequence[int], tokens: int, rounds: int) -> list[dict[str, Any]]:
    driver = await EngineDriver.start(engine)
    service = Service(
        driver=driver, model="small", context_length=4096, defaults=SamplingConfig(), has_chat=False
    )
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        serving = asyncio.create_task(serve(service, listener, stop))
        ways = {
            "engine alone": alone(engine().backend),
            DRIVER: driven(driver),
            WHOLE: served(url, stream=False),
            STREAMS: served(url, stream=True),
        }
        rows = [await compare(ways, count, tokens, rounds) for count in requests]
        stop.set()
        await serving
    driver.close()
    return rows


async def compare(ways: dict[str, Way], count: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Let the ways take turns; medians of rates, and of CPU time over that of the engine alone."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            before = time.process_time()
            rates[name].append(count * tokens / await way(count, tokens))
            costs[name].append(1e6 * (time.process_time() - before) / (count * tokens))
    row = {
        "requests": count,
        "tokens_each": tokens,
        "tokens_per_second": {name: statistics.median(rate) for name, rate in rates.items()},
        "cpu_microseconds_per_token": {name: statistics.median(c) for name, c in costs.items()},
        "http_adds_cpu_microseconds": {
            name: statistics.median(
                ours - alone for ours, alone in zip(costs[name], costs[DRIVER], strict=True)
            )
            for name in (WHOLE, STREAMS)
        },
    }
    for name in ways:
        rate = row["tokens_per_second"][name]
        cost = row["cpu_microseconds_per_token"][name]
        print(f"{count:4} requests  {name:24} {rate:9.0f} tokens/s {cost:9.1f} CPU us/token")
    for name, added in row["http_adds_cpu_microseconds"].items():
        print(f"{count:4} requests  {name:24} adds {added:.1f} CPU us/token to the driver's")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="stores nothing")
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        url, count, tokens, stream = arguments.client
        print(asyncio.run(ask(url, int(count), int(tokens), stream=stream == "1")))
        return
    if arguments.quick:
        asyncio.run(measure(QUICK_REQUESTS, 30, 1))
        return
    rows = asyncio.run(measure(REQUESTS, 100, ROUNDS))
    RESULT.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
