"""What every request passes: the key, the count, errors as JSON, and the door when we stop."""

import asyncio
import hmac
import logging
from collections import Counter

from aiohttp import web
from aiohttp.typedefs import Handler

from rollout.server.errors import ApiError, engine_failure
from rollout.server.streaming import dumps

_LOG = logging.getLogger(__name__)
_CLIENT_LEFT = 499
"""The usual status, in counts only, of a request whose client did not wait for the answer."""


class Traffic:
    """Requests in and responses out.

    Args:
        api_key: Bearer token that requests below /v1 must bring; None lets all in.

    Attributes:
        answered: Responses by path and status.
        is_stopping: Whether new requests below /v1 are turned away.
    """

    def __init__(self, *, api_key: str | None) -> None:
        self.answered: Counter[tuple[str, int]] = Counter()
        self.is_stopping = False
        self._api_key = api_key
        self._num_open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_open(self) -> int:
        """Requests that are being answered."""
        return self._num_open

    async def wait_until_idle(self) -> None:
        """Wait until every request is answered."""
        await self._idle.wait()

    @web.middleware
    async def pass_through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, in any case with a response of ours, unless its client left."""
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else "unknown"
        self._num_open += 1
        self._idle.clear()
        status = _CLIENT_LEFT
        try:
            response = await self._answer(request, handler)
            status = response.status
        finally:
            self._num_open -= 1
            self.answered[path, status] += 1
            if self._num_open == 0:
                self._idle.set()
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path.startswith("/v1"):
                self._admit(request)
            return await handler(request)
        except ApiError as error:
            return _response(error)
        except web.HTTPException as error:  # aiohttp's own: no such path, body too large, ..
            return _response(ApiError(error.status, f"{request.method} {request.path}: {error}"))
        except ConnectionError:
            raise
        except Exception as error:  # one request's failure, the engine's included, is its own
            _LOG.exception("%s %s failed", request.method, request.path)
            return _response(engine_failure(error))

    def _admit(self, request: web.Request) -> None:
        if self.is_stopping:
            raise ApiError(503, "the server is stopping; try again later")
        if self._api_key is None:
            return
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self._api_key}".encode()):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")


def _response(error: ApiError) -> web.Response:
    return web.json_response(error.body(), status=error.status, dumps=dumps)
