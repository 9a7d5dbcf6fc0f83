"""Where workspaces are made: in jails of this host, in containers, or by services of other hosts.

    async with workspaces.open(Workspace(base=..., read_only={...}), limits) as session:
        ran = await session.run(Program(argv=("git", "diff")), limits)

Every backend promises the same of a session: see `sandboxes.workspace`.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sandboxes.base import Limits, Program
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.workspace import WORKSPACE, Change, Ran, Workspace, open_workspace


class Session(Protocol):
    """Runs programs one after the other in one workspace."""

    async def run(
        self,
        program: Program,
        limits: Limits,
        *,
        cwd: str = WORKSPACE,
        environment: Mapping[str, str] | None = None,
        result_bytes: int = 0,
    ) -> Ran:
        """Run one program; see `sandboxes.workspace.WorkspaceSession.run`."""

    async def changes(self, *, max_bytes: int) -> tuple[Change, ...]:
        """Return all that was written; see `sandboxes.workspace.WorkspaceSession.changes`."""

    async def read(self, path: str, *, max_bytes: int) -> Change:
        """Return one regular file; see `sandboxes.workspace.WorkspaceSession.read`."""


class Workspaces(Protocol):
    """Makes workspaces."""

    def open(self, workspace: Workspace, limits: Limits) -> AbstractAsyncContextManager[Session]:
        """Open a session, and remove all of it at the end.

        Args:
            workspace: What its programs see.
            limits: Of the whole session in memory (with what is written) and processes.

        Raises:
            WorkspaceLostError: It did not start, or was lost.
        """

    async def probe(self) -> tuple[str, ...]:
        """Prove the sandbox; see `sandboxes.base.Sandbox.probe`."""

    async def close(self) -> None:
        """End what is kept between sessions."""


class JailWorkspaces:
    """Workspaces in jails of this host."""

    def __init__(self, jails: BubblewrapSandbox | None = None) -> None:
        """Take the sandbox, or look for one.

        Raises:
            SandboxUnavailableError: There is none on this machine.
        """
        self._jails = BubblewrapSandbox() if jails is None else jails

    def open(self, workspace: Workspace, limits: Limits) -> AbstractAsyncContextManager[Session]:
        """Open a session; see `Workspaces`."""
        return open_workspace(self._jails, workspace, limits)

    async def probe(self) -> tuple[str, ...]:
        """Prove the sandbox; see `sandboxes.base.Sandbox.probe`."""
        return await self._jails.probe()

    async def close(self) -> None:
        """Nothing outlives a session."""
