"""Runs programs for other hosts over HTTP: `CISPO_SANDBOX_TOKEN=... python -m sandboxes.service`.

    POST /run    {"program": ..., "limits": ...} -> a result, see `sandboxes.wire`
    GET  /probe  -> {"layers": [...]}, or 503 with {"error": ...}
    and workspaces, see `sandboxes.workspace_service`

Every request carries `Authorization: Bearer <token>`. The token comes from an environment variable
and never appears on a command line or in a log. The service speaks plain HTTP: put it into a
network of your own, or behind a proxy that ends TLS. A client that goes away takes its program with
it.
"""

import argparse
import asyncio
import hmac
import logging
import os
import signal
import sys
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cispo.errors import SandboxUnavailableError
from sandboxes.base import Sandbox
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.swe.environment import default_cache
from sandboxes.warm import WarmSandbox
from sandboxes.wire import BadRequestError, decode_request, encode_result
from sandboxes.workspace_service import WorkspaceService
from sandboxes.workspaces import JailWorkspaces

TOKEN_VARIABLE = "CISPO_SANDBOX_TOKEN"
"""Where the token is looked for, on both sides."""

MIN_TOKEN_CHARACTERS = 16

_MAX_REQUEST_BYTES = 64 * 2**20
_QUEUE_PER_SLOT = 16
_log = logging.getLogger(__name__)


def make_service(
    sandbox: Sandbox,
    *,
    token: str,
    max_concurrent: int,
    workspaces: WorkspaceService | None = None,
) -> web.Application:
    """Return the service around a sandbox.

    Args:
        sandbox: Where programs run.
        token: What requests must carry.
        max_concurrent: Programs that run at once; a bounded number of others wait.
        workspaces: Serves workspaces too.

    Raises:
        ValueError: The token is too short to be a secret.
    """
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise ValueError(f"the token has {len(token)} characters; it needs {MIN_TOKEN_CHARACTERS}")
    slots = asyncio.Semaphore(max_concurrent)
    num_held = 0

    async def run(request: web.Request) -> web.Response:
        nonlocal num_held
        try:
            program, limits = decode_request(await request.read())
        except BadRequestError as error:
            return web.json_response({"error": str(error)}, status=400)
        if num_held >= max_concurrent * _QUEUE_PER_SLOT:
            return web.json_response({"error": "too many programs wait already"}, status=503)
        num_held += 1
        try:
            async with slots:
                result = await sandbox.run(program, limits)
        finally:
            num_held -= 1
        return web.Response(body=encode_result(result), content_type="application/json")

    async def probe(request: web.Request) -> web.Response:
        try:
            return web.json_response({"layers": await sandbox.probe()})
        except SandboxUnavailableError as error:
            return web.json_response({"error": str(error)}, status=503)

    application = web.Application(
        client_max_size=_MAX_REQUEST_BYTES, middlewares=[_authenticated(token)]
    )
    application.router.add_post("/run", run)
    application.router.add_get("/probe", probe)
    if workspaces is not None:
        workspaces.add_to(application)
    return application


def _authenticated(token: str) -> Middleware:
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, expected):
            return web.json_response({"error": "the token is missing or wrong"}, status=401)
        return await handler(request)

    return check


async def serve(
    sandbox: Sandbox,
    workspaces: WorkspaceService,
    *,
    host: str,
    port: int,
    token: str,
    max_concurrent: int,
) -> None:
    """Prove the sandbox, then serve until SIGTERM.

    Raises:
        SandboxUnavailableError: Programs cannot be held here.
        OSError: The address cannot be bound.
    """
    layers = await sandbox.probe()
    application = make_service(
        sandbox, token=token, max_concurrent=max_concurrent, workspaces=workspaces
    )
    runner = web.AppRunner(application, handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        for address in runner.addresses:
            _log.info("serving on %s:%d (%s)", *address[:2], ", ".join(layers))
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await stopped.wait()
    finally:
        await runner.cleanup()
        await sandbox.close()


def main() -> None:
    """Serve this host's bubblewrap sandbox."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8571)
    parser.add_argument("--max-concurrent", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--max-workspaces", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--trees", type=Path, default=default_cache() / "trees")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    token = os.environ.pop(TOKEN_VARIABLE, "")
    try:
        jails = BubblewrapSandbox()
        sandbox = WarmSandbox(jails, num_servers=arguments.max_concurrent)
        workspaces = WorkspaceService(
            JailWorkspaces(jails), arguments.trees, max_sessions=arguments.max_workspaces
        )
        asyncio.run(
            serve(
                sandbox,
                workspaces,
                host=arguments.host,
                port=arguments.port,
                token=token,
                max_concurrent=arguments.max_concurrent,
            )
        )
    except (SandboxUnavailableError, ValueError, OSError) as error:
        print(f"{error} (set {TOKEN_VARIABLE} for the token)", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
