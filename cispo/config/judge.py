"""Configuration of the generative reward model."""

from dataclasses import dataclass

from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class JudgeConfig:
    """The model that the verifier `judge` asks, behind an OpenAI-compatible endpoint.

    Attributes:
        url: Base address, for example `http://host:8000/v1`; None where no task needs a judge.
        model: Name that the endpoint serves.
        api_key_variable: Environment variable with the key, on the reward workers' machines; empty
            sends none. The key itself is never in a config.
        max_attempts: Requests for one question before the verdict is `Ungraded`.
        max_calls: Requests of one reward worker in all; 0 sets no bound.
        max_concurrent: Requests of one reward worker at once.
        deadline_seconds: Wall time of one request.
        max_answer_characters: Longer answers are cut, and the judge is told so.
        max_tokens: Of the judge's own answer.
    """

    url: str | None = None
    model: str = "default"
    api_key_variable: str = ""
    max_attempts: int = 4
    max_calls: int = 0
    max_concurrent: int = 8
    deadline_seconds: float = 60.0
    max_answer_characters: int = 20_000
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        for key in ("max_attempts", "max_concurrent", "max_answer_characters", "max_tokens"):
            require(
                getattr(self, key) >= 1, f"reward.judge.{key}", getattr(self, key), "must be >= 1"
            )
        require(self.max_calls >= 0, "reward.judge.max_calls", self.max_calls, "must be >= 0")
        require(
            self.deadline_seconds > 0,
            "reward.judge.deadline_seconds",
            self.deadline_seconds,
            "must be > 0",
        )
        require(
            self.url is None or self.url.startswith(("http://", "https://")),
            "reward.judge.url",
            self.url,
            "must begin with http:// or https://",
        )
