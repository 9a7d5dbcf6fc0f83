"""Runs programs on another host, through the service of `sandboxes.service`.

Whatever goes wrong between the hosts is `LOST`, never the program's fault: a refused connection, a
wrong token, a busy service, an answer that does not come in time or cannot be read.
"""

import json

import aiohttp

from cispo.errors import SandboxUnavailableError
from sandboxes.base import ExecResult, Limits, Program, lost
from sandboxes.wire import BadRequestError, decode_result, encode_request

_CONNECT_SECONDS = 10.0
_PROBE_SECONDS = 180.0
_GRACE_SECONDS = 150.0  # to queue, to start and to drain there
_ANSWER_BYTES = 2**16
_BASE64 = 4 / 3


class RemoteSandbox:
    """One host's service."""

    def __init__(self, url: str, *, token: str, grace_seconds: float = _GRACE_SECONDS) -> None:
        """Connect to nothing yet.

        Args:
            url: Of the service, such as `http://10.0.0.2:8571`.
            token: What its requests carry.
            grace_seconds: Wall time beyond the program's own after which an answer is given up.
        """
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._grace_seconds = grace_seconds
        self._session: aiohttp.ClientSession | None = None

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        """Run one program there; see `sandboxes.base.Sandbox`."""
        most = int(_BASE64 * 2 * limits.output_bytes) + _ANSWER_BYTES
        seconds = limits.wall_seconds + self._grace_seconds
        try:
            body = encode_request(program, limits)
            status, answer = await self._request("POST", "/run", body, most, seconds=seconds)
            if status == 200:
                return decode_result(answer)
        except (aiohttp.ClientError, TimeoutError, OSError, BadRequestError) as error:
            return lost(f"{self._url}: {error or type(error).__name__}")
        return lost(f"{self._url}: status {status}: {_excerpt(answer)}")

    async def probe(self) -> tuple[str, ...]:
        """Have the other host probe its sandbox; see `sandboxes.base.Sandbox`."""
        try:
            status, answer = await self._request(
                "GET", "/probe", None, _ANSWER_BYTES, seconds=_PROBE_SECONDS
            )
        except (aiohttp.ClientError, TimeoutError, OSError, BadRequestError) as error:
            raise SandboxUnavailableError(
                f"sandbox host {self._url}: {error or type(error).__name__}; "
                "start `python -m sandboxes.service` there, and check the address"
            ) from error
        if status == 401:
            raise SandboxUnavailableError(
                f"sandbox host {self._url}: refuses our token; give both sides the same one"
            )
        if status != 200:
            raise SandboxUnavailableError(f"sandbox host {self._url}: {_excerpt(answer)}")
        return ("remote", *_layers(answer))

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _request(
        self, method: str, path: str, body: bytes | None, max_bytes: int, *, seconds: float
    ) -> tuple[int, bytes]:
        """Return status and answer.

        Raises:
            BadRequestError: The answer is longer than any that could be right.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers, connector=aiohttp.TCPConnector(limit=0), trust_env=False
            )
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
        async with self._session.request(
            method, self._url + path, data=body, timeout=timeout, allow_redirects=False
        ) as response:
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > max_bytes:
                    raise BadRequestError(f"the answer has more than {max_bytes} bytes")
            return response.status, bytes(answer)


def _layers(answer: bytes) -> tuple[str, ...]:
    try:
        return tuple(str(layer) for layer in json.loads(answer)["layers"])
    except (ValueError, KeyError, TypeError):
        return ("unreadable",)


def _excerpt(answer: bytes) -> str:
    """Return what an error says."""
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")
