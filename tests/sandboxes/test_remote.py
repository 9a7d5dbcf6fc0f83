"""The service and its client: who may use it, what it refuses, and what counts as lost."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from cispo.errors import SandboxUnavailableError
from sandboxes.base import ExecResult, Limits, Outcome, Program
from sandboxes.pool import SandboxPool
from sandboxes.remote import RemoteSandbox
from sandboxes.service import make_service
from sandboxes.wire import BadRequestError, decode_request, decode_result, encode_request
from tests.waiting import until

TOKEN = "a token for these tests only"
LIMITS = Limits(
    cpu_seconds=5.0,
    wall_seconds=20.0,
    memory_bytes=2**28,
    max_processes=16,
    output_bytes=1000,
)
PROGRAM = Program(argv=("echo", "x"), stdin=b"\xff\x00", files={"a/b": b"\x80"})
DONE = ExecResult(
    outcome=Outcome.EXITED,
    exit_code=3,
    stdout=b"\xff\x00out",
    stderr=b"err",
    cpu_seconds=0.25,
    wall_seconds=0.5,
)


class Scripted:
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Program, Limits]] = []
        self.gate: asyncio.Event | None = None
        self.started = asyncio.Event()
        self.num_cancelled = 0
        self.refusal: str | None = None

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        self.asked.append((program, limits))
        self.started.set()
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.num_cancelled += 1
                raise
        return DONE

    async def probe(self) -> tuple[str, ...]:
        if self.refusal is not None:
            raise SandboxUnavailableError(self.refusal)
        return ("seccomp",)

    async def close(self) -> None:
        return


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def url(scripted: Scripted) -> AsyncIterator[str]:
    async for url in served(make_service(scripted, token=TOKEN, max_concurrent=1)):
        yield url


async def served(application: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def remote(url: str) -> AsyncIterator[RemoteSandbox]:
    remote = RemoteSandbox(url, token=TOKEN, grace_seconds=5.0)
    yield remote
    await remote.close()


async def test_program_limits_and_result_arrive_unchanged(
    remote: RemoteSandbox, scripted: Scripted
) -> None:
    assert await remote.run(PROGRAM, LIMITS) == DONE
    assert scripted.asked == [(PROGRAM, LIMITS)]


async def test_the_probe_is_that_of_the_other_host(
    remote: RemoteSandbox, scripted: Scripted
) -> None:
    assert await remote.probe() == ("remote", "seccomp")
    scripted.refusal = "sandbox layer user namespaces: no"
    with pytest.raises(SandboxUnavailableError, match="layer user namespaces"):
        await remote.probe()


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "größe"])
@pytest.mark.parametrize("path", ["/run", "/probe", "/none"])
async def test_nothing_answers_without_the_token(
    url: str, scripted: Scripted, token: str, path: str
) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as session:
        async with session.post(url + path, data=b"x", headers=headers) as response:
            assert response.status == 401
        async with session.get(url + path, headers=headers) as response:
            assert response.status == 401
    assert scripted.asked == []


async def test_a_client_with_another_token_is_told_and_its_runs_are_lost(url: str) -> None:
    remote = RemoteSandbox(url, token="another token, as long")
    result = await remote.run(PROGRAM, LIMITS)
    assert result.outcome is Outcome.LOST
    assert b"401" in result.stderr
    with pytest.raises(SandboxUnavailableError, match="give both sides the same"):
        await remote.probe()
    await remote.close()


async def test_a_host_that_is_not_there_is_lost_and_named() -> None:
    remote = RemoteSandbox("http://127.0.0.1:9", token=TOKEN)
    result = await remote.run(PROGRAM, LIMITS)
    assert result.outcome is Outcome.LOST
    assert b"127.0.0.1:9" in result.stderr
    with pytest.raises(SandboxUnavailableError, match=r"python -m sandboxes\.service"):
        await remote.probe()
    await remote.close()


async def test_an_answer_that_does_not_come_is_lost(url: str, scripted: Scripted) -> None:
    scripted.gate = asyncio.Event()
    remote = RemoteSandbox(url, token=TOKEN, grace_seconds=-19.8)
    assert (await remote.run(PROGRAM, LIMITS)).outcome is Outcome.LOST
    await remote.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        json.dumps({"outcome": "won", "exit_code": 0}).encode(),
        b'{"outcome":"exited","exit_code":0,"stdout":"*","stderr":"","cpu_seconds":0,'
        b'"wall_seconds":0}',
        b" " * 200_000,
    ],
)
async def test_an_answer_that_is_none_is_lost(answer: bytes) -> None:
    async def liar(_: web.Request) -> web.Response:
        return web.Response(body=answer)

    application = web.Application()
    application.router.add_post("/run", liar)
    async for url in served(application):
        remote = RemoteSandbox(url, token=TOKEN)
        assert (await remote.run(PROGRAM, LIMITS)).outcome is Outcome.LOST
        await remote.close()


async def test_a_redirect_is_not_followed_with_our_token() -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/run")

    application = web.Application()
    application.router.add_post("/run", elsewhere)
    async for url in served(application):
        remote = RemoteSandbox(url, token=TOKEN)
        assert b"307" in (await remote.run(PROGRAM, LIMITS)).stderr
        await remote.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("limits"),
        lambda d: d["program"].pop("argv"),
        lambda d: d["program"].update(argv=[]),
        lambda d: d["program"].update(argv=[1]),
        lambda d: d["program"].update(argv=["a\0b"]),
        lambda d: d["program"].update(stdin="*"),
        lambda d: d["program"].update(files={"../x": ""}),
        lambda d: d["program"].update(files=[]),
        lambda d: d["limits"].update(cpu_seconds=-1),
        lambda d: d["limits"].update(cpu_seconds="1"),
        lambda d: d["limits"].update(cpu_seconds=float("nan")),
        lambda d: d["limits"].update(memory_bytes=True),
    ],
)
async def test_a_bad_request_is_refused_and_runs_nothing(
    url: str, scripted: Scripted, change: object
) -> None:
    document = json.loads(encode_request(PROGRAM, LIMITS))
    change(document)  # type: ignore[operator]
    with pytest.raises(BadRequestError):
        decode_request(json.dumps(document).encode())
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url + "/run", data=json.dumps(document)) as response,
    ):
        assert response.status == 400
    assert scripted.asked == []


async def test_a_request_that_is_too_large_is_refused(url: str, scripted: Scripted) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        body = b"x" * (65 * 2**20)
        async with session.post(url + "/run", data=body) as response:
            assert response.status == 413
    assert scripted.asked == []


async def test_a_client_that_goes_away_takes_its_program_with_it(
    remote: RemoteSandbox, scripted: Scripted
) -> None:
    scripted.gate = asyncio.Event()
    running = asyncio.create_task(remote.run(PROGRAM, LIMITS))
    await scripted.started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: scripted.num_cancelled == 1, what="the program is cancelled")


async def test_a_busy_service_refuses_more_than_it_can_hold(
    remote: RemoteSandbox, scripted: Scripted
) -> None:
    scripted.gate = asyncio.Event()
    running = [asyncio.create_task(remote.run(PROGRAM, LIMITS)) for _ in range(24)]
    await until(lambda: sum(task.done() for task in running) == 8, what="8 of 24 are refused")
    assert all(b"503" in task.result().stderr for task in running if task.done())
    scripted.gate.set()
    results = await asyncio.gather(*running)
    assert [result.outcome for result in results].count(Outcome.EXITED) == 16


async def test_a_host_that_dies_loses_its_programs_to_another() -> None:
    first, second = Scripted(), Scripted()
    first.gate = asyncio.Event()
    runner = web.AppRunner(
        make_service(first, token=TOKEN, max_concurrent=1),
        handler_cancellation=True,
        shutdown_timeout=0.1,
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    dying = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async for living in served(make_service(second, token=TOKEN, max_concurrent=1)):
        hosts = {url: RemoteSandbox(url, token=TOKEN) for url in (dying, living)}
        pool = SandboxPool(hosts, max_concurrent=1)
        running = asyncio.create_task(pool.run(PROGRAM, LIMITS))
        await first.started.wait()
        await runner.cleanup()
        assert await running == DONE
        assert len(second.asked) == 1
        await pool.close()


def test_a_token_that_is_no_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="it needs 16"):
        make_service(Scripted(), token="short", max_concurrent=1)


def test_a_result_with_a_missing_field_is_none() -> None:
    with pytest.raises(BadRequestError, match="exit_code"):
        decode_result(b'{"outcome": "exited"}')


logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
