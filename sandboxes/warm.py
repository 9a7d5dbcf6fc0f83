"""Programs from warm fork servers: the isolation of a fresh jail without the start of one.

Each server is a jail in which programs run one after the other, each in process, mount, IPC and
host name namespaces of its own with fresh `/tmp`, `/dev/shm` and `/proc`. What one leaves behind
dies or disappears with its namespaces; the empty network namespace and the control group are the
server's. A server is replaced after a number of programs, and at once when anything about it is
odd: a run that was cancelled, a process too many, a message too few.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandboxes.base import ExecResult, Limits, Program, lost
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.fork_server import ForkServer, Run, ServerLostError
from sandboxes.jail_command import WORK_FOLDER
from sandboxes.packages import PACKAGES, package_mounts
from sandboxes.probe import probed_layers


class WarmSandbox:
    """Fork servers in jails, as many as programs run at once."""

    def __init__(
        self,
        jails: BubblewrapSandbox,
        *,
        num_servers: int,
        runs_per_server: int = 500,
        preload: Sequence[str] = (),
    ) -> None:
        """Start nothing yet: servers start when they are needed.

        Args:
            jails: Makes the jails.
            num_servers: Programs that run at once; more wait.
            runs_per_server: Programs after which a server is replaced.
            preload: Python packages of this process that programs find imported.

        Raises:
            SandboxUnavailableError: A package cannot be had in jails.
        """
        self._jails = jails
        self._runs_per_server = runs_per_server
        self._preload = tuple(preload)
        self._shown: Mapping[str, Path] = (
            package_mounts(preload, python=jails.python) if preload else {}
        )
        self._how = Run(environment=jails.environment, cwd=WORK_FOLDER)
        self._slots = asyncio.Semaphore(num_servers)
        self._idle: list[tuple[ForkServer, int]] = []

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        """Run one program; see `sandboxes.base.Sandbox`."""
        async with self._slots:
            try:
                server, num_runs = self._take(limits)
            except OSError as error:
                return lost(f"the jail could not be started: {error}")
            try:
                if num_runs == 0:
                    await server.ready()
                result, _ = await server.run(program, limits, self._how)
            except ServerLostError as error:
                return lost(f"the jail did not start: {error}")
            finally:
                self._give_back(server, num_runs + 1)
            return result

    async def probe(self) -> tuple[str, ...]:
        """Probe a fresh jail, which tells causes best, and then a server."""
        await self._jails.probe()
        layers = await probed_layers(self, launcher=str(self._jails.bwrap))
        return (*layers, *self._jails.tier, "warm")

    async def close(self) -> None:
        """Kill the servers."""
        while self._idle:
            self._idle.pop()[0].close()

    def _take(self, limits: Limits) -> tuple[ForkServer, int]:
        """Return a server with the number of its runs; one that died idle costs no program."""
        while self._idle:
            server, num_runs = self._idle.pop()
            if not server.is_gone:
                return server, num_runs
            server.close()
        return self._start(limits), 0

    def _start(self, limits: Limits) -> ForkServer:
        return self._jails.start_server(
            limits,
            preload=self._preload,
            package_folder=PACKAGES if self._shown else None,
            shown=self._shown,
        )

    def _give_back(self, server: ForkServer, num_runs: int) -> None:
        if server.is_sick or num_runs >= self._runs_per_server:
            server.close()
        else:
            self._idle.append((server, num_runs))
