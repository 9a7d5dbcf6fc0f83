"""A chat model behind an OpenAI-compatible endpoint, with retries and a budget of calls."""

import asyncio
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from cispo.errors import ConfigError

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_FIRST_PAUSE_SECONDS = 0.5


class EndpointError(Exception):
    """The endpoint gave no answer: an outage, a refusal or an exhausted budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model answered.

    Attributes:
        text: The answer.
        is_truncated: Whether its budget of tokens ended it.
        num_tokens: Of the answer, as the endpoint counts; 0 where it does not say.
        num_prompt_tokens: Of the question, likewise.
    """

    text: str
    is_truncated: bool
    num_tokens: int
    num_prompt_tokens: int


@dataclass(slots=True, kw_only=True)
class EndpointUse:
    """What has been asked so far.

    Attributes:
        calls: Requests sent, retries included.
        retries: Of them, those that repeated another.
        failures: Questions that got no answer.
    """

    calls: int = 0
    retries: int = 0
    failures: int = 0


class ChatEndpoint:
    """Asks one model, a few questions at a time.

    Args:
        url: Base address, for example `http://host:8000/v1`.
        model: Name that the endpoint serves.
        api_key_variable: Environment variable with the key; empty sends none.
        max_attempts: Requests for one question.
        max_calls: Requests in all, 0 for no bound; beyond, nothing is asked any more.
        max_concurrent: Requests at once.
        deadline_seconds: Wall time of one request.
        key: Where these settings stand in the configuration, for messages.

    Raises:
        ConfigError: The environment variable is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_variable: str,
        max_attempts: int,
        max_calls: int,
        max_concurrent: int,
        deadline_seconds: float,
        key: str = "reward.judge",
    ) -> None:
        if api_key_variable and api_key_variable not in os.environ:
            raise ConfigError(
                f"{key}.api_key_variable={api_key_variable}: this environment variable is not set; "
                "export it where the requests are made, or leave the key empty"
            )
        self._key = key
        secret = os.environ.get(api_key_variable, "")
        self._headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._max_attempts = max_attempts
        self._max_calls = max_calls
        self._slots = asyncio.Semaphore(max_concurrent)
        self._timeout = aiohttp.ClientTimeout(total=deadline_seconds)
        self._session: aiohttp.ClientSession | None = None
        self.use = EndpointUse()

    async def ask(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int) -> str:
        """Return the model's answer at temperature 0.

        Raises:
            EndpointError: There is none, after all attempts or because the budget is used up.
        """
        sampling = {"temperature": 0.0, "max_tokens": max_tokens}
        return (await self.complete(messages, sampling)).text

    async def complete(
        self, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, object]
    ) -> Completion:
        """Return one answer, sampled as these fields of the request say.

        Raises:
            EndpointError: There is none, after all attempts or because the budget is used up.
        """
        body = {"model": self._model, "messages": list(messages), **sampling}
        cause = ""
        async with self._slots:
            for attempt in range(self._max_attempts):
                if attempt:
                    self.use.retries += 1
                    await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1))
                if 0 < self._max_calls <= self.use.calls:
                    cause = f"{self._key}.max_calls={self._max_calls} are used up"
                    break
                self.use.calls += 1
                try:
                    return await self._post(body)
                except (aiohttp.ClientError, TimeoutError) as error:
                    cause = f"{type(error).__name__}: {error}"
                    if isinstance(error, aiohttp.ClientResponseError) and not _may_retry(error):
                        break
        self.use.failures += 1
        raise EndpointError(f"{self._url}: {cause}")

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, question: Mapping[str, Any]) -> Completion:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers)
        async with self._session.post(self._url, json=question) as response:
            response.raise_for_status()
            body = await response.read()
        try:
            read = json.loads(body)
            choice = read["choices"][0]
            content = choice["message"]["content"] or ""
            usage = read.get("usage") or {}
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise aiohttp.ClientPayloadError(f"no answer in {body[:200]!r}") from error
        if not isinstance(content, str):
            raise aiohttp.ClientPayloadError(f"the answer is no text: {str(content)[:200]}")
        return Completion(
            text=content,
            is_truncated=choice.get("finish_reason") == "length",
            num_tokens=_whole(usage.get("completion_tokens")),
            num_prompt_tokens=_whole(usage.get("prompt_tokens")),
        )


def _whole(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def _may_retry(error: aiohttp.ClientResponseError) -> bool:
    return error.status in _RETRIED
