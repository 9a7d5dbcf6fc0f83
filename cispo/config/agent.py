"""Configuration of agents: budgets of their episodes, and who they speak with."""

from dataclasses import dataclass, field, fields

from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class UserConfig:
    """The model that plays the user in conversations of tau2, behind an OpenAI-compatible server.

    Attributes:
        model: Its name; null for none.
        url: Base address, such as `http://host:8000/v1`; null for OpenAI's own.
        api_key_variable: Environment variable that holds the key.
    """

    model: str | None = None
    url: str | None = None
    api_key_variable: str = "OPENAI_API_KEY"


@dataclass(slots=True, kw_only=True)
class AgentConfig:
    """Episodes of an agent with tools; `sampling.max_new_tokens` bounds one turn.

    Attributes:
        max_turns: Turns of the policy.
        max_tokens: Tokens of an episode, prompt and results of tools included.
        wall_seconds: Time after which no turn begins.
        max_concurrent: Episodes that one actor plays at once, each with a jail.
        call_cpu_seconds: CPU time of one call of a tool.
        call_wall_seconds: Wall time of it.
        memory_bytes: Memory of a jail, written files included.
        max_processes: Processes and threads of a jail.
        write_bytes: What may be written to the repository and to `/tmp`.
        max_result_characters: Of what a tool says; the middle of more is left out.
        user: Who it speaks with.
    """

    max_turns: int = 30
    max_tokens: int = 32768
    wall_seconds: float = 1800.0
    max_concurrent: int = 8
    call_cpu_seconds: float = 60.0
    call_wall_seconds: float = 300.0
    memory_bytes: int = 2 * 2**30
    max_processes: int = 128
    write_bytes: int = 512 * 2**20
    max_result_characters: int = 8000
    user: UserConfig = field(default_factory=UserConfig)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "user":
                require(value > 0, f"rollout.agent.{item.name}", value, "must be > 0")
