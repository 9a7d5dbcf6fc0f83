"""What requests for completions and for chats have in common."""

from dataclasses import dataclass
from typing import Final

from cispo.config import SamplingConfig
from rollout.backends.base import SamplingParams
from rollout.server.fields import Fields

MAX_CHOICES: Final = 128
MAX_TOP_LOGPROBS: Final = 20
_MAX_STOP_TEXTS = 16
_MAX_TOKENS = 2**31 - 1

HARMLESS: Final = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
"""Labels and hints that change no token here; accepted, because clients send them unasked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to sample and what to report.

    Attributes:
        n: Choices a prompt.
        seed: Decides the choices; None takes a new one.
        temperature: As asked for; 0 is greedy.
        top_p: See `SamplingParams`.
        top_k: See `SamplingParams`.
        min_p: See `SamplingParams`.
        max_tokens: Budget a choice, None where the request sets none.
        stop: Texts that end a choice.
        max_thinking_tokens: See `SamplingParams`.
        max_answer_tokens: See `SamplingParams`.
        is_streaming: Whether to answer in pieces.
        has_usage: Whether a stream ends with the usage.
        has_token_ids: Whether to report token ids.
    """

    n: int
    seed: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    max_tokens: int | None
    stop: tuple[str, ...]
    max_thinking_tokens: int
    max_answer_tokens: int
    is_streaming: bool
    has_usage: bool
    has_token_ids: bool

    def params(self, max_new_tokens: int) -> SamplingParams:
        """Return them as the engine takes them.

        Greedy is the likeliest token alone at temperature 1: the engine divides by the temperature,
        and log-probabilities before truncation then are the model's own.
        """
        is_greedy = self.temperature == 0.0
        return SamplingParams(
            temperature=1.0 if is_greedy else self.temperature,
            top_p=self.top_p,
            top_k=1 if is_greedy else self.top_k,
            min_p=self.min_p,
            max_new_tokens=max_new_tokens,
            stop=self.stop,
            max_thinking_tokens=self.max_thinking_tokens,
            max_answer_tokens=self.max_answer_tokens,
        )


def read_options(fields: Fields, defaults: SamplingConfig) -> Options:
    """Read what a request says, and take defaults for what it does not say.

    Raises:
        ApiError: A value is out of range or asks for what this server cannot do.
    """
    _refuse_unsupported(fields)
    is_streaming = fields.flag("stream")
    return Options(
        n=fields.integer("n", 1, low=1, high=MAX_CHOICES),
        seed=fields.integer("seed", None, low=-(2**63), high=2**63 - 1),
        temperature=fields.number("temperature", defaults.temperature, low=0.0, high=100.0),
        top_p=_top_p(fields, defaults.top_p),
        top_k=max(fields.integer("top_k", defaults.top_k, low=-1, high=_MAX_TOKENS), 0),
        min_p=_min_p(fields, defaults.min_p),
        max_tokens=_max_tokens(fields),
        stop=_stop(fields) or tuple(defaults.stop),
        max_thinking_tokens=fields.integer(
            "max_thinking_tokens", defaults.max_thinking_tokens, low=0, high=_MAX_TOKENS
        ),
        max_answer_tokens=fields.integer(
            "max_answer_tokens", defaults.max_answer_tokens, low=0, high=_MAX_TOKENS
        ),
        is_streaming=is_streaming,
        has_usage=_has_usage(fields, is_streaming),
        has_token_ids=fields.flag("return_token_ids"),
    )


def _top_p(fields: Fields, default: float) -> float:
    top_p = fields.number("top_p", default, low=0.0, high=1.0)
    if top_p == 0.0:
        raise fields.error("top_p", "keeps no token at all: set temperature=0 to be greedy")
    return top_p


def _min_p(fields: Fields, default: float) -> float:
    min_p = fields.number("min_p", default, low=0.0, high=1.0)
    if min_p == 1.0:
        raise fields.error("min_p", "must be below 1: set temperature=0 to be greedy")
    return min_p


def _max_tokens(fields: Fields) -> int | None:
    old = fields.integer("max_tokens", None, low=0, high=_MAX_TOKENS)
    new = fields.integer("max_completion_tokens", None, low=0, high=_MAX_TOKENS)
    if None not in (old, new) and old != new:
        raise fields.error("max_tokens", f"contradicts max_completion_tokens={new}")
    return old if new is None else new


def _stop(fields: Fields) -> tuple[str, ...]:
    value = fields.get("stop")
    texts = [value] if isinstance(value, str) else fields.items("stop")
    if len(texts) > _MAX_STOP_TEXTS:
        raise fields.error("stop", f"has more than {_MAX_STOP_TEXTS} texts")
    stop = []
    for text in texts:
        if not isinstance(text, str) or not text:
            raise fields.error("stop", "must be a text or a list of texts, none of them empty")
        stop.append(fields.encodable("stop", text))
    return tuple(stop)


def _has_usage(fields: Fields, is_streaming: bool) -> bool:
    stream_options = fields.nested("stream_options")
    if stream_options is None:
        return False
    if not is_streaming:
        raise fields.error("stream_options", "needs stream=true")
    has_usage = stream_options.flag("include_usage")
    stream_options.refuse_unread({"include_obfuscation"})
    return has_usage


def _refuse_unsupported(fields: Fields) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        fields.only(name, 0, reason="the engine has no penalties")
    fields.only("repetition_penalty", 1, reason="the engine has no penalties")
    fields.only("logit_bias", {}, reason="the engine has no biases")
    fields.only("response_format", {"type": "text"}, reason="decoding is not constrained")
