"""Workspaces on other hosts, through their `sandboxes.service`.

Folders travel once to each host and are kept there by their contents; files that a session shows
travel with it. A session ends with its connection, whichever side goes first.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from cispo.errors import SandboxUnavailableError
from sandboxes.base import Limits, Program, lost
from sandboxes.remote import RemoteSandbox
from sandboxes.trees import pack
from sandboxes.wire import BadRequestError
from sandboxes.workspace import WORKSPACE, Change, Ran, Workspace, WorkspaceLostError
from sandboxes.workspace_wire import (
    Opening,
    Order,
    decode_changes,
    decode_ran,
    encode_opening,
    encode_order,
)

_GRACE_SECONDS = 150.0  # to queue, to start and to drain there
_TREE_SECONDS = 600.0
_MOST_MESSAGE_BYTES = 64 * 2**20
_HEARTBEAT_SECONDS = 60.0


class RemoteSession:
    """Runs programs one after the other in one workspace elsewhere."""

    def __init__(self, url: str, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Take a connection that is ready."""
        self._url = url
        self._socket = socket

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
        order = Order(
            program=program,
            limits=limits,
            cwd=cwd,
            environment=environment or {},
            result_bytes=result_bytes,
        )
        seconds = limits.wall_seconds + _GRACE_SECONDS
        try:
            return decode_ran(await self.ask(encode_order(order), seconds=seconds))
        except (WorkspaceLostError, ValueError) as error:
            return Ran(result=lost(str(error)), private=b"")

    async def changes(self, *, max_bytes: int) -> tuple[Change, ...]:
        """Return all that was written; see `sandboxes.workspace.WorkspaceSession.changes`."""
        return await self._records({"do": "changes", "max_bytes": max_bytes})

    async def read(self, path: str, *, max_bytes: int) -> Change:
        """Return one regular file; see `sandboxes.workspace.WorkspaceSession.read`."""
        [change] = await self._records({"do": "read", "path": path, "max_bytes": max_bytes})
        return change

    async def _records(self, asked: Mapping[str, object]) -> tuple[Change, ...]:
        document = await self.ask(json.dumps(asked), seconds=_GRACE_SECONDS)
        try:
            return decode_changes(document)
        except BadRequestError as error:
            raise WorkspaceLostError(f"{self._url}: {error}") from error

    async def ask(self, message: str, *, seconds: float) -> Mapping[str, Any]:
        """Send a message and return the answer.

        Raises:
            WorkspaceLostError: The session is gone there.
            ValueError: It refuses what was asked.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._socket.send_str(message)
                document: Mapping[str, Any] = json.loads(await self._socket.receive_str())
        except (aiohttp.ClientError, OSError, TimeoutError, TypeError, ValueError) as error:
            raise WorkspaceLostError(f"{self._url}: {error or type(error).__name__}") from error
        if "error" in document:
            raise WorkspaceLostError(f"{self._url}: {document['error']}")
        if "refused" in document:
            raise ValueError(document["refused"])
        return document


class RemoteWorkspaces:
    """Opens each session on the host with the fewest of ours."""

    def __init__(self, urls: Sequence[str], *, token: str) -> None:
        """Connect to nothing yet.

        Args:
            urls: Of services, such as `http://10.0.0.2:8571`.
            token: What requests carry.
        """
        self._urls = [url.rstrip("/") for url in urls]
        self._token = token
        self._num_open: Counter[str] = Counter()
        self._names: dict[Path, str] = {}
        self._sent: set[tuple[str, str]] = set()
        self._client: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def open(self, workspace: Workspace, limits: Limits) -> AsyncIterator[RemoteSession]:
        """Open a session; see `sandboxes.workspaces.Workspaces`."""
        reasons = []
        for url in sorted(self._urls, key=lambda url: self._num_open[url]):
            try:
                socket = await self._connect(url, workspace, limits)
            except WorkspaceLostError as error:
                reasons.append(str(error))
                continue
            self._num_open[url] += 1
            try:
                yield RemoteSession(url, socket)
            finally:
                self._num_open[url] -= 1
                await socket.close()
            return
        raise WorkspaceLostError("; ".join(reasons))

    async def probe(self) -> tuple[str, ...]:
        """Have every host probe its sandbox; see `sandboxes.base.Sandbox.probe`."""
        layers: tuple[str, ...] = ()
        for url in self._urls:
            host = RemoteSandbox(url, token=self._token)
            try:
                layers = await host.probe()
            finally:
                await host.close()
            async with self._session.get(f"{url}/trees/{'0' * 64}") as response:
                if "json" not in response.content_type:  # another service's plain 404
                    raise SandboxUnavailableError(
                        f"sandbox host {url}: serves no workspaces; start the "
                        "`python -m sandboxes.service` of this version there"
                    )
        return layers

    async def close(self) -> None:
        """Close connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {self._token}"},
                connector=aiohttp.TCPConnector(limit=0),
                trust_env=False,
            )
        return self._client

    async def _connect(
        self, url: str, workspace: Workspace, limits: Limits
    ) -> aiohttp.ClientWebSocketResponse:
        """Return a connection with an open session.

        Raises:
            WorkspaceLostError: The host cannot be reached, or did not open one.
        """
        folders = {place: path for place, path in workspace.read_only.items() if path.is_dir()}
        files = {place: path for place, path in workspace.read_only.items() if path.is_file()}
        try:
            opening = Opening(
                base=await self._send(url, workspace.base),
                trees={place: await self._send(url, path) for place, path in folders.items()},
                files={place: path.read_bytes() for place, path in files.items()},
                environment=workspace.environment,
                write_bytes=workspace.write_bytes,
                max_files=workspace.max_files,
                limits=limits,
            )
            socket = await self._session.ws_connect(
                f"{url}/workspace",
                max_msg_size=_MOST_MESSAGE_BYTES,
                heartbeat=_HEARTBEAT_SECONDS,
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise WorkspaceLostError(f"{url}: {error or type(error).__name__}") from error
        try:
            await RemoteSession(url, socket).ask(encode_opening(opening), seconds=_GRACE_SECONDS)
        except WorkspaceLostError:
            self._sent = {sent for sent in self._sent if sent[0] != url}
            await socket.close()
            raise
        return socket

    async def _send(self, url: str, folder: Path) -> str:
        """Bring a folder to a host that does not have it; return the name of its contents."""
        known = self._names.get(folder)
        if known is not None and (url, known) in self._sent:
            return known
        name, archive = await asyncio.to_thread(pack, folder)
        with archive:
            tree = f"{url}/trees/{name}"
            async with self._session.head(tree) as response:
                is_there = response.status == 200
            if not is_there:
                timeout = aiohttp.ClientTimeout(total=_TREE_SECONDS)
                async with self._session.put(tree, data=archive, timeout=timeout) as response:
                    if response.status != 200:
                        said = (await response.text())[:200]
                        raise WorkspaceLostError(f"{url}: status {response.status}: {said}")
        self._names[folder] = name
        self._sent.add((url, name))
        return name
