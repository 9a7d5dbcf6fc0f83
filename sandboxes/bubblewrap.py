"""Runs programs in jails: namespaces, a seccomp filter, a control group, an unprivileged user."""

import json
import os
import shutil
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from cispo.errors import SandboxUnavailableError
from sandboxes.base import ExecResult, Limits, Program, lost
from sandboxes.bootstrap import inside_command
from sandboxes.cgroups import Cgroups, find_cgroups
from sandboxes.fork_server import OWN_PROCESSES, ForkServer
from sandboxes.in_memory import in_memory
from sandboxes.interpreter import Interpreter, find_interpreter
from sandboxes.jail import Jail
from sandboxes.jail_command import environment_of, jail_command, server_command
from sandboxes.launcher import bwrap_candidates, find_bwrap, reachable_copy
from sandboxes.probe import probed_layers
from sandboxes.seccomp import jail_filter

_SERVER = tuple(f"inside.{name}" for name in ("kernel", "payload", "rooms", "changes", "zygote"))


class BubblewrapSandbox:
    """A fresh jail for each program, as root or as an ordinary user."""

    def __init__(self, *, bwrap: Path | None = None, cgroups: Cgroups | None = None) -> None:
        """Look for what jails need, and remove what dead workers left behind.

        Args:
            bwrap: Bubblewrap; None looks for one.
            cgroups: Where control groups are made; None looks for a place. Pass `NO_CGROUPS` for
                none.

        Raises:
            SandboxUnavailableError: Something that every jail needs is not on this machine.
        """
        self._candidates = list(bwrap_candidates()) if bwrap is None else [bwrap]
        self._filter = jail_filter()
        self._interpreter = find_interpreter()
        found = find_cgroups() if cgroups is None else cgroups
        self._cgroups = found if found is not None and found.parents else None
        if self._cgroups is not None:
            self._cgroups.reap()
        self._use(self._candidates[0] if self._candidates else find_bwrap())

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        """Run one program from a fresh start; see `sandboxes.base.Sandbox`.

        A program that is over its wall limit is `TIMED_OUT`, also when it only slept, unless the
        machine gave it no processor, which is `LOST`. So is one whose jail did not start or was
        killed from outside.
        """
        with ExitStack() as owned:
            try:
                jail = self._start(program, limits, owned)
            except OSError as error:
                return lost(f"the jail could not be started: {error}")
            owned.callback(jail.close)
            return await jail.finish()

    def start_server(
        self,
        limits: Limits,
        *,
        preload: Sequence[str] = (),
        package_folder: str | None = None,
        workspace: Mapping[str, object] | None = None,
        shown: Mapping[str, Path],
        folders: Sequence[str] = (),
    ) -> ForkServer:
        """Start a jail with a fork server, which is not ready yet; the caller closes it.

        Args:
            limits: Of the programs that it will run.
            preload: Modules that it imports once for all programs.
            package_folder: Where they lie in the jail.
            workspace: See `sandboxes.inside.zygote`.
            shown: Folders and files of the machine that the jail sees, read-only, by their place.
            folders: Empty folders that it has, for mounts.

        Raises:
            OSError: It could not be started.
        """
        with ExitStack() as handed_on:
            seccomp = in_memory({"seccomp": self._filter}, handed_on)["seccomp"]
            settings = {
                "seccomp": seccomp,
                "preload": list(preload),
                "package_folder": package_folder,
                "workspace": workspace,
            }
            with ExitStack() as failed:
                leaf = None
                if self._cgroups is not None:
                    leaf = self._cgroups.leaf(limits, own_processes=OWN_PROCESSES)
                    failed.callback(leaf.remove)
                server = ForkServer(
                    lambda status, block, control: server_command(
                        self._bwrap,
                        inside_command(_SERVER, "serve", f"{control}, {json.dumps(settings)!r}"),
                        interpreter=self._interpreter,
                        status=status,
                        block=block,
                        shown=shown,
                        folders=folders,
                    ),
                    inherited=[seccomp],
                    leaf=leaf,
                )
                failed.pop_all()
        return server

    @property
    def environment(self) -> dict[str, str]:
        """Every variable that a program finds."""
        return environment_of(self._interpreter)

    async def probe(self) -> tuple[str, ...]:
        """Run a real program that tries to break out; see `sandboxes.base.Sandbox`."""
        refusals = []
        for bwrap in self._candidates:
            self._use(bwrap)
            try:
                layers = await probed_layers(self, launcher=str(bwrap))
                return (*layers, *self.tier)
            except SandboxUnavailableError as error:
                refusals.append(error)
        raise refusals[-1]

    @property
    def python(self) -> Interpreter:
        """The Python that jails have."""
        return self._interpreter

    @property
    def bwrap(self) -> Path:
        """Bubblewrap."""
        return self._bwrap

    @property
    def tier(self) -> tuple[str, str]:
        """Whose rights jails have outside of them, and how their limits are held."""
        user = "own user" if os.geteuid() == 0 else "user namespace only"
        if self._cgroups is None:
            return user, "limits per process (no control group can be made here)"
        held = ", ".join(sorted(self._cgroups.parents))
        return user, f"control group version {self._cgroups.version}: {held}"

    async def close(self) -> None:
        """Nothing outlives a run."""

    def _use(self, bwrap: Path) -> None:
        if not os.access(bwrap, os.X_OK):
            raise SandboxUnavailableError(f"sandbox layer bubblewrap: cannot execute {bwrap}")
        self._bwrap = reachable_copy(bwrap)
        if self._bwrap != bwrap:
            copy = self._bwrap.parent.parent.parent
            weakref.finalize(self, shutil.rmtree, copy, ignore_errors=True)

    def _start(self, program: Program, limits: Limits, owned: ExitStack) -> Jail:
        leaf = None
        if self._cgroups is not None:
            leaf = self._cgroups.leaf(limits)
            owned.callback(leaf.remove)
        with ExitStack() as handed_on:
            contents = {"seccomp": self._filter, "stdin": program.stdin}
            fixed = in_memory(contents, handed_on)
            files = in_memory(program.files, handed_on)
            return Jail(
                lambda status, block: jail_command(
                    self._bwrap,
                    program.argv,
                    limits=limits,
                    interpreter=self._interpreter,
                    seccomp=fixed["seccomp"],
                    status=status,
                    block=block,
                    stdin=fixed["stdin"],
                    files=files,
                    has_cgroup=leaf is not None,
                ),
                inherited=[*fixed.values(), *files.values()],
                limits=limits,
                leaf=leaf,
            )


NO_CGROUPS = Cgroups(version=1, parents={})
"""Makes a sandbox do without control groups."""
