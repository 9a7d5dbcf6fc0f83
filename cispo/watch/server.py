"""The watch page's HTTP server: reads the run's folder, answers GET, and writes nothing."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Any

from aiohttp import web

from cispo.errors import RunFolderError
from cispo.watch.answers import (
    curves_answer,
    dumps,
    groups_answer,
    lanes_answer,
    rollout_answer,
    rollouts_answer,
    run_answer,
)
from cispo.watch.file_index import FileIndex
from cispo.watch.query import ORDERS, VERDICTS, Query
from cispo.watch.run_view import RunView

_VIEW = web.AppKey("_VIEW", RunView)
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_MOST_ROWS = 200
_MOST_STEPS = 50
_MOST_TEXT = 400
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serve_watch(
    view: RunView,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer until told to stop.

    Args:
        view: The run.
        listener: Bound socket. On a loopback address only pages from this machine are answered.
        stop: Set from outside.
        on_ready: Called when requests are accepted.
    """
    is_local = ipaddress.ip_address(listener.getsockname()[0]).is_loopback
    runner = web.AppRunner(watch_app(view, is_local=is_local), access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        on_ready()
        await stop.wait()
    finally:
        await runner.cleanup()


def watch_app(
    view: RunView, *, is_local: bool = True, refresh_seconds: float = 1.0
) -> web.Application:
    """The application around a run.

    Args:
        view: The run, which is refreshed for as long as the application lives.
        is_local: Answer only to names of this machine, so that no page of another host, under a
            name that it points here, can read the run.
        refresh_seconds: Pause between looks at the folder.
    """
    app = web.Application(middlewares=[_guard(is_local=is_local)])
    app[_VIEW] = view
    for file in resources.files("cispo.watch").joinpath("page").iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/{file.name}"
            app.router.add_get(path, _page(file.read_bytes(), kind))
    app.add_routes(
        [
            web.get("/api/run", _run),
            web.get("/api/curves", _curves),
            web.get("/api/lanes", _lanes),
            web.get("/api/groups", _groups),
            web.get("/api/rollouts", _rollouts),
            web.get("/api/rollout", _rollout),
        ]
    )

    async def refreshing(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(_refresh(view, refresh_seconds))
        yield
        task.cancel()
        await asyncio.wait([task])

    app.cleanup_ctx.append(refreshing)
    return app


async def _refresh(view: RunView, pause_seconds: float) -> None:
    while True:
        with contextlib.suppress(OSError):  # a folder that is away may come back
            await asyncio.to_thread(view.refresh)
        await asyncio.sleep(0.0 if view.index.num_waiting else pause_seconds)


def _guard(*, is_local: bool) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_local and not _names_this_machine(request.host):
            raise web.HTTPForbidden(text="this page answers to 127.0.0.1 and localhost only")
        try:
            response = await handler(request)
        except (OSError, RunFolderError) as error:
            raise web.HTTPConflict(text=f"the run changed meanwhile: {error}") from error
        response.headers.update(_HEADERS)
        return response

    return guard


def _names_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _page(content: bytes, kind: str) -> Handler:
    async def page(request: web.Request) -> web.Response:
        return web.Response(body=content, content_type=kind, charset="utf-8")

    return page


async def _answer(function: Callable[..., Any], *arguments: Any, **named: Any) -> web.Response:
    """Work an answer out beside the loop, which goes on answering others."""
    text = await asyncio.to_thread(lambda: dumps(function(*arguments, **named)))
    return web.Response(text=text, content_type="application/json")


async def _run(request: web.Request) -> web.Response:
    return await _answer(run_answer, request.app[_VIEW])


async def _curves(request: web.Request) -> web.Response:
    return await _answer(curves_answer, request.app[_VIEW])


async def _lanes(request: web.Request) -> web.Response:
    last = _integer(request, "last", most=10**9)
    count = _integer(request, "count", most=_MOST_STEPS)
    return await _answer(lanes_answer, request.app[_VIEW], last - count + 1, last)


async def _groups(request: web.Request) -> web.Response:
    index = request.app[_VIEW].index
    return await _answer(groups_answer, _file(request), index.sources.texts)


async def _rollouts(request: web.Request) -> web.Response:
    return await _answer(
        rollouts_answer,
        request.app[_VIEW],
        _query(request),
        start=_integer(request, "start", most=10**9, default=0),
        limit=_integer(request, "limit", most=_MOST_ROWS, default=50),
    )


async def _rollout(request: web.Request) -> web.Response:
    file = _file(request)
    row = _integer(request, "row", most=len(file.rows) - 1)
    return await _answer(rollout_answer, request.app[_VIEW], file, row)


def _file(request: web.Request) -> FileIndex:
    """Look a name up among the run's files; it never becomes a path."""
    try:
        return request.app[_VIEW].index.file(request.query.get("file", ""))
    except KeyError:
        raise web.HTTPNotFound(text="file: the run has no such file of rollouts") from None


def _query(request: web.Request) -> Query:
    step = _integer(request, "step", most=10**9, default=-1)
    return Query(
        kind=_choice(request, "kind", ("iteration", "heldout")),
        step=None if step < 0 else step,
        source=request.query.get("source", ""),
        stop=request.query.get("stop", ""),
        verdict=_choice(request, "verdict", VERDICTS),
        reward_min=_number(request, "reward_min"),
        reward_max=_number(request, "reward_max"),
        text=request.query.get("text", "")[:_MOST_TEXT],
        order=_choice(request, "order", ORDERS) or "newest",
    )


def _integer(request: web.Request, name: str, *, most: int, default: int | None = None) -> int:
    text = request.query.get(name, "")
    if not text and default is not None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= most):
        raise web.HTTPBadRequest(text=f"{name}={text[:40]}: must be a number from 0 to {most}")
    return int(text)


def _number(request: web.Request, name: str) -> float | None:
    text = request.query.get(name, "")
    try:
        return float(text) if text else None
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name}={text[:40]}: must be a number") from None


def _choice(request: web.Request, name: str, choices: Any) -> str:
    text = request.query.get(name, "")
    if text and text not in choices:
        raise web.HTTPBadRequest(text=f"{name}={text[:40]}: choose one of {', '.join(choices)}")
    return text
