"""Every backend of workspaces, as tests open it: here, in containers, and by a service."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from cispo.errors import SandboxUnavailableError
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.container import ContainerSandbox
from sandboxes.container_workspace import ContainerWorkspaces
from sandboxes.remote_workspace import RemoteWorkspaces
from sandboxes.service import make_service
from sandboxes.warm import WarmSandbox
from sandboxes.workspace_service import WorkspaceService
from sandboxes.workspaces import JailWorkspaces, Workspaces
from tests.images import NoImageError, python_image

BACKENDS = ("bubblewrap", "container", "remote")
TOKEN = "a token for these tests only"


@asynccontextmanager
async def opened(backend: str) -> AsyncIterator[Workspaces]:
    """Open a backend; skips loudly where it does not run."""
    try:
        if backend == "remote":
            async with _loopback() as workspaces:
                yield workspaces
            return
        workspaces = _container() if backend == "container" else JailWorkspaces()
    except (SandboxUnavailableError, NoImageError) as error:
        pytest.skip(f"NO {backend} ON THIS MACHINE, its workspaces are untested: {error}")
    yield workspaces
    await workspaces.close()


def _container() -> ContainerWorkspaces:
    kind, image = python_image()
    return ContainerWorkspaces(ContainerSandbox(image, engine=kind))


@asynccontextmanager
async def _loopback() -> AsyncIterator[Workspaces]:
    """Serve from this very process."""
    jails = BubblewrapSandbox()
    programs = WarmSandbox(jails, num_servers=1)
    with tempfile.TemporaryDirectory(prefix="cispo-trees-") as trees:
        os.chmod(trees, 0o755)
        served = WorkspaceService(JailWorkspaces(jails), Path(trees), max_sessions=2)
        service = make_service(programs, token=TOKEN, max_concurrent=1, workspaces=served)
        runner = web.AppRunner(service, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        workspaces = RemoteWorkspaces([f"http://127.0.0.1:{port}"], token=TOKEN)
        try:
            yield workspaces
        finally:
            await workspaces.close()
            await runner.cleanup()
            await programs.close()
