"""What the endpoints share: the engine, the name of its model, and its limits."""

import time
import uuid
from dataclasses import dataclass, field

from aiohttp import web

from cispo.config import SamplingConfig
from cispo.types import StopReason
from rollout.driver import EngineDriver
from rollout.server.errors import ApiError, bad_request
from rollout.server.generation import Prompt
from rollout.server.logprobs import LogprobWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One model, ready to answer.

    Attributes:
        driver: Of its engine.
        model: The name under which clients ask for it.
        context_length: Tokens of prompt and answer together; None leaves it to the engine.
        defaults: Sampling of requests that do not say; `max_new_tokens` is for chats.
        has_chat: Whether there is a chat template.
        created: When it started, in seconds since 1970.
        logprobs: Writes log-probabilities.
    """

    driver: EngineDriver
    model: str
    context_length: int | None
    defaults: SamplingConfig
    has_chat: bool = True
    created: int = field(default_factory=lambda: int(time.time()))
    logprobs: LogprobWriter = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "logprobs", LogprobWriter(self.driver.tokenizer))

    def check_model(self, model: str | None) -> None:
        """Check the name of the model that a request asks for.

        Raises:
            ApiError: It is missing, or another one.
        """
        if model is None:
            raise bad_request("model: name one; GET /v1/models lists it", param="model")
        if model != self.model:
            raise ApiError(
                404,
                f"the model {model!r} does not exist; this server has {self.model!r}",
                param="model",
                code="model_not_found",
            )

    def prompt(
        self, token_ids: tuple[int, ...], max_tokens: int | None, *, default: int, param: str
    ) -> Prompt:
        """Give a prompt its budget.

        Args:
            token_ids: The prompt.
            max_tokens: What the request asks for.
            default: What it gets where it does not ask, or less where the context is shorter.
            param: The field with the prompt, for messages.

        Raises:
            ApiError: The prompt is empty, not in the vocabulary, or too long.
        """
        if not token_ids:
            raise bad_request(f"{param}: the prompt is empty", param=param)
        size = len(self.driver.tokenizer)
        outside = [token for token in token_ids if not 0 <= token < size]
        if outside:
            raise bad_request(
                f"{param}: token {outside[0]} lies outside the vocabulary of {size}", param=param
            )
        room = None if self.context_length is None else self.context_length - len(token_ids)
        budget = max_tokens
        if budget is None:
            budget = default if room is None else max(min(default, room), 1)
        if room is not None and budget > room:
            raise bad_request(
                f"This model's maximum context length is {self.context_length} tokens, but "
                f"{len(token_ids)} tokens of the prompt and {budget} of the answer were asked for.",
                param=param,
                code="context_length_exceeded",
            )
        return Prompt(token_ids=token_ids, max_new_tokens=budget)


SERVICE = web.AppKey("SERVICE", Service)
"""Where an application keeps it."""


def response_id(prefix: str) -> str:
    """Return a new id of a response."""
    return f"{prefix}-{uuid.uuid4().hex}"


def finish_reason(reason: StopReason) -> str:
    """Return the API's word for a stop reason.

    A turn that ran into repetition was cut, as one at its budget was.
    """
    match reason:
        case StopReason.END_OF_TURN | StopReason.STOP_STRING:
            return "stop"
        case _:
            return "length"


def usage(num_prompt_tokens: int, num_sampled_tokens: int) -> dict[str, int]:
    """Count tokens; those of a prompt once, however many choices it has."""
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_sampled_tokens,
        "total_tokens": num_prompt_tokens + num_sampled_tokens,
    }
