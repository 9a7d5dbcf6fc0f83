"""Builds the sandbox that a configuration asks for."""

import os

from cispo.config import SandboxConfig
from cispo.errors import SandboxUnavailableError
from sandboxes.base import Limits, Sandbox
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.pool import SandboxPool
from sandboxes.warm import WarmSandbox
from sandboxes.workspaces import JailWorkspaces, Workspaces


def build_sandbox(sandbox: SandboxConfig) -> Sandbox:
    """Return the sandbox, which nothing has proved yet: call `probe`.

    Raises:
        SandboxUnavailableError: What it needs is not on this machine, or the token is missing.
    """
    match sandbox.backend:
        case "bubblewrap" if sandbox.runs_per_server == 0:
            return BubblewrapSandbox()
        case "bubblewrap":
            return WarmSandbox(
                BubblewrapSandbox(),
                num_servers=sandbox.max_concurrent,
                runs_per_server=sandbox.runs_per_server,
                preload=sandbox.preload,
            )
        case "container":
            from sandboxes.container import ContainerSandbox

            return ContainerSandbox(sandbox.image, engine=sandbox.engine, runtime=sandbox.runtime)
        case _:
            return _remote(sandbox)


def build_workspaces(sandbox: SandboxConfig) -> Workspaces:
    """Return where repositories are worked on and tested; nothing has proved it yet.

    Raises:
        SandboxUnavailableError: What it needs is not on this machine, or the token is missing.
    """
    match sandbox.backend:
        case "bubblewrap":
            return JailWorkspaces()
        case "container":
            from sandboxes.container import ContainerSandbox
            from sandboxes.container_workspace import ContainerWorkspaces

            containers = ContainerSandbox(
                sandbox.image, engine=sandbox.engine, runtime=sandbox.runtime
            )
            return ContainerWorkspaces(containers)
        case _:
            from sandboxes.remote_workspace import RemoteWorkspaces

            return RemoteWorkspaces(sandbox.hosts, token=_token(sandbox))


def sandbox_limits(sandbox: SandboxConfig) -> Limits:
    """Return the limits of one program."""
    return Limits(
        cpu_seconds=sandbox.cpu_seconds,
        wall_seconds=sandbox.wall_seconds,
        memory_bytes=sandbox.memory_bytes,
        max_processes=sandbox.max_processes,
        output_bytes=sandbox.output_bytes,
    )


def _remote(sandbox: SandboxConfig) -> Sandbox:
    from sandboxes.remote import RemoteSandbox  # aiohttp takes 0.3 s to import

    token = _token(sandbox)
    hosts = {url: RemoteSandbox(url, token=token) for url in sandbox.hosts}
    return SandboxPool(hosts, max_concurrent=sandbox.max_concurrent)


def _token(sandbox: SandboxConfig) -> str:
    token = os.environ.get(sandbox.token_variable, "")
    if not token:
        raise SandboxUnavailableError(
            f"sandbox.token_variable={sandbox.token_variable}: the variable is not set; give it "
            "the token that the services were started with"
        )
    return token
