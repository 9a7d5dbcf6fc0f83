"""Server-sent events: one JSON object each, `[DONE]` at the end."""

import json
import logging
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from rollout.server.errors import engine_failure

_LOG = logging.getLogger(__name__)
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


def dumps(value: object) -> str:
    """Return compact JSON, in ASCII: a call may hold half a surrogate pair, which UTF-8 cannot."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


async def respond_with_events(
    request: web.Request, chunks: AsyncIterator[Mapping[str, object]]
) -> web.StreamResponse:
    """Send every chunk as it comes.

    An engine that fails before the first chunk is an ordinary error; later, when the status has
    been sent, its error is the last event.
    """
    chunk = await anext(chunks, None)
    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(request)
    try:
        while chunk is not None:
            await _send(response, dumps(chunk))
            chunk = await anext(chunks, None)
    except ConnectionError:
        raise
    except Exception as error:
        _LOG.exception("the engine failed while it was streaming")
        await _send(response, dumps(engine_failure(error).body()))
    else:
        await _send(response, "[DONE]")
    await response.write_eof()
    return response


async def _send(response: web.StreamResponse, data: str) -> None:
    await response.write(f"data: {data}\n\n".encode())
