"""The routes of the server, and its life from the first request to the last."""

import asyncio
import logging
import socket
from collections.abc import Callable

from aiohttp import web

from rollout.server.chat import chat
from rollout.server.completions import complete
from rollout.server.errors import ApiError
from rollout.server.metrics import CONTENT_TYPE, metrics_text
from rollout.server.service import SERVICE, Service
from rollout.server.streaming import dumps
from rollout.server.traffic import Traffic

_LOG = logging.getLogger(__name__)
_TRAFFIC = web.AppKey("_TRAFFIC", Traffic)
_MAX_BODY_BYTES = 64 * 2**20
_CANCEL_SECONDS = 5.0
"""Wall time that requests get to notice that they were cancelled."""


async def serve(
    service: Service,
    listener: socket.socket,
    stop: asyncio.Event,
    *,
    api_key: str | None = None,
    drain_seconds: float = 30.0,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests until told to stop; then finish what was begun.

    Args:
        service: What to serve.
        listener: Bound socket.
        stop: Set from outside; new requests then get status 503.
        api_key: Bearer token that clients must bring; None lets all in.
        drain_seconds: Wall time that running requests have after `stop` before they are cut.
        on_ready: Called when requests are accepted.
    """
    traffic = Traffic(api_key=api_key)
    # Without `handler_cancellation` a request would run on after its client left.
    runner = web.AppRunner(
        _application(service, traffic),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_CANCEL_SECONDS,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        on_ready()
        await stop.wait()
        traffic.is_stopping = True
        try:
            async with asyncio.timeout(drain_seconds):
                await traffic.wait_until_idle()
        except TimeoutError:
            _LOG.warning("%d requests are cut after %g s", traffic.num_open, drain_seconds)
    finally:
        await runner.cleanup()


def _application(service: Service, traffic: Traffic) -> web.Application:
    app = web.Application(middlewares=[traffic.pass_through], client_max_size=_MAX_BODY_BYTES)
    app[SERVICE] = service
    app[_TRAFFIC] = traffic
    app.add_routes(
        [
            web.get("/health", _health),
            web.get("/metrics", _metrics),
            web.get("/v1/models", _models),
            web.get("/v1/models/{model}", _model),
            web.post("/v1/completions", complete),
            web.post("/v1/chat/completions", chat),
        ]
    )
    return app


async def _health(request: web.Request) -> web.Response:
    if request.app[_TRAFFIC].is_stopping:
        raise ApiError(503, "the server is stopping")
    return web.json_response({"status": "ok"}, dumps=dumps)


async def _metrics(request: web.Request) -> web.Response:
    load = await request.app[SERVICE].driver.load()
    text = metrics_text(load, request.app[_TRAFFIC])
    return web.Response(text=text, headers={"Content-Type": CONTENT_TYPE})


async def _models(request: web.Request) -> web.Response:
    data = [_description(request.app[SERVICE])]
    return web.json_response({"object": "list", "data": data}, dumps=dumps)


async def _model(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    service.check_model(request.match_info["model"])
    return web.json_response(_description(service), dumps=dumps)


def _description(service: Service) -> dict[str, object]:
    return {
        "id": service.model,
        "object": "model",
        "created": service.created,
        "owned_by": "cispo",
        "max_model_len": service.context_length,
    }
