"""Workspaces for other hosts, as part of `sandboxes.service`.

PUT  /trees/NAME   a folder's archive, see `sandboxes.trees`; HEAD asks whether it is there
GET  /workspace    a web socket: one session, which ends with the connection

client: an opening, see `sandboxes.workspace_wire`
here:   {"ready": true}, or {"error": ...}
client: an order, {"do": "changes", "max_bytes"} or {"do": "read", "path", "max_bytes"}
here:   {"result", "private"}, {"changes"}, {"refused": ...} or {"error": ...}
"""

import asyncio
import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import WSMsgType, web

from sandboxes.trees import free_bytes, is_name, unpack
from sandboxes.wire import BadRequestError
from sandboxes.workspace import Workspace, WorkspaceLostError, give_away
from sandboxes.workspace_wire import (
    Opening,
    decode_opening,
    decode_order,
    encode_changes,
    encode_ran,
)
from sandboxes.workspaces import Session, Workspaces

_MOST_TREE_BYTES = 4 * 2**30
_MOST_MESSAGE_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20
_HEARTBEAT_SECONDS = 60.0


class WorkspaceService:
    """Serves sessions, of which so many are open at once; others wait."""

    def __init__(self, workspaces: Workspaces, trees: Path, *, max_sessions: int) -> None:
        """Take the sandbox.

        Args:
            workspaces: Where sessions are opened.
            trees: Folder that folders of clients are kept in; jails must be able to reach it.
            max_sessions: Sessions that are open at once.
        """
        self._workspaces = workspaces
        self._trees = trees
        self._slots = asyncio.Semaphore(max_sessions)

    def add_to(self, application: web.Application) -> None:
        """Serve as part of an application."""
        application.router.add_get("/trees/{name}", self._has_tree)
        application.router.add_put("/trees/{name}", self._take_tree)
        application.router.add_get("/workspace", self._session)

    async def _has_tree(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        is_there = is_name(name) and (self._trees / name).is_dir()
        return web.json_response({}, status=200 if is_there else 404)

    async def _take_tree(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not is_name(name):
            return web.json_response({"error": "a tree is named by its SHA-256"}, status=400)
        self._trees.mkdir(parents=True, exist_ok=True)
        size = request.content_length or 0
        if size > min(_MOST_TREE_BYTES, free_bytes(self._trees) // 4):
            return web.json_response({"error": f"{size} bytes are too much"}, status=413)
        digest, num_bytes = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._trees, prefix="archive-") as file:
            async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
                num_bytes += len(chunk)
                if num_bytes > size:
                    return web.json_response({"error": "longer than it said"}, status=400)
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            if digest.hexdigest() != name:
                return web.json_response({"error": "not what it is named"}, status=400)
            try:
                await asyncio.to_thread(unpack, Path(file.name), self._trees / name)
            except (tarfile.TarError, OSError) as error:
                return web.json_response({"error": f"cannot be unpacked: {error}"}, status=400)
        return web.json_response({})

    async def _session(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            max_msg_size=_MOST_MESSAGE_BYTES, heartbeat=_HEARTBEAT_SECONDS
        )
        await socket.prepare(request)
        try:
            opening = decode_opening(await socket.receive_str())
            async with self._slots:
                with self._placed(opening) as workspace:
                    async with self._workspaces.open(workspace, opening.limits) as session:
                        await socket.send_str(json.dumps({"ready": True}))
                        await _serve(socket, session)
        except (BadRequestError, WorkspaceLostError, ValueError) as error:
            await _tell(socket, {"error": str(error)})
        except (TypeError, ConnectionError):  # another kind of message, or none any more
            pass
        await socket.close()
        return socket

    @contextmanager
    def _placed(self, opening: Opening) -> Iterator[Workspace]:
        """Put the files of a session where jails see them, for as long as it lasts.

        Raises:
            BadRequestError: A tree is not here.
        """
        trees = {place: self._tree(name) for place, name in opening.trees.items()}
        with tempfile.TemporaryDirectory(dir=self._trees, prefix="session-") as scratch:
            folder = Path(scratch)
            files = {}
            for number, (place, content) in enumerate(opening.files.items()):
                files[place] = folder / str(number)
                files[place].write_bytes(content)
                files[place].chmod(0o644)
            folder.chmod(0o755)
            give_away(folder)
            yield Workspace(
                base=self._tree(opening.base),
                read_only={**trees, **files},
                environment=opening.environment,
                write_bytes=opening.write_bytes,
                max_files=opening.max_files,
            )

    def _tree(self, name: str) -> Path:
        folder = self._trees / name
        if not is_name(name) or not folder.is_dir():
            raise BadRequestError(f"there is no tree {name!r}; put it here first")
        return folder


async def _serve(socket: web.WebSocketResponse, session: Session) -> None:
    """Do what the client asks until it goes away, and drop what runs when it does."""
    incoming = asyncio.ensure_future(socket.receive())
    try:
        while (message := await incoming).type is WSMsgType.TEXT:
            incoming = asyncio.ensure_future(socket.receive())
            work = asyncio.ensure_future(_obey(message.data, session))
            try:
                await asyncio.wait({incoming, work}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    return
                await socket.send_str(work.result())
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
    finally:
        incoming.cancel()


async def _obey(data: str, session: Session) -> str:
    try:
        document = json.loads(data)
        match document["do"]:
            case "run":
                order = decode_order(document)
                ran = await session.run(
                    order.program,
                    order.limits,
                    cwd=order.cwd,
                    environment=order.environment,
                    result_bytes=order.result_bytes,
                )
                return encode_ran(ran)
            case "changes":
                found = await session.changes(max_bytes=int(document["max_bytes"]))
                return encode_changes(found)
            case _:
                most = int(document["max_bytes"])
                return encode_changes((await session.read(document["path"], max_bytes=most),))
    except WorkspaceLostError as error:
        return json.dumps({"error": str(error)})
    except (ValueError, KeyError, TypeError) as error:
        return json.dumps({"refused": str(error)})


async def _tell(socket: web.WebSocketResponse, document: object) -> None:
    try:
        await socket.send_str(json.dumps(document))
    except ConnectionError:
        return
