"""Configuration of the HTTP server."""

from dataclasses import dataclass, field

from cispo.config.actors import RolloutConfig
from cispo.config.policy import PolicyConfig
from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class ServeConfig:
    """One model behind an OpenAI-compatible API: `python -m launch.serve`.

    Attributes:
        host: Address to listen on; 0.0.0.0 lets other machines in.
        port: Port to listen on; 0 takes a free one.
        name: The model's name for clients; null takes that of its folder.
        chat: Whether to answer chats, for which the tokenizer needs a chat template.
        api_key: Name of the environment variable that holds the key which clients must bring; null
            lets all in. The key itself is no setting, so that no file and no log holds it.
        drain_seconds: Wall time that running requests have to end when the server is told to stop.
        policy: The model.
        rollout: The engine, which runs in this process. Its `sampling` holds for what requests
            leave open; of `max_new_tokens` a chat gets as much as the context has room for.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    chat: bool = True
    api_key: str | None = None
    drain_seconds: float = 30.0
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, "port", self.port, "must lie in 0..65535")
        require(self.drain_seconds >= 0, "drain_seconds", self.drain_seconds, "must be >= 0")
        require(
            self.rollout.num_actors == 1,
            "rollout.num_actors",
            self.rollout.num_actors,
            "a server has one engine, in its own process; start more servers on other ports",
        )
        for key in ("interruption", "thinking_jitter_tokens"):
            value = getattr(self.rollout.sampling, key)
            require(
                not value,
                f"rollout.sampling.{key}",
                value,
                "a server ends thoughts by </think> alone, where its budget is exhausted; unset it",
            )
