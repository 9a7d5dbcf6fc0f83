"""Configuration of software-engineering tasks: environments, grading, and the agent's budgets."""

from dataclasses import dataclass, fields

from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class AgentConfig:
    """Episodes of an agent in a repository; `sampling.max_new_tokens` bounds one turn.

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
        cache: As `sandbox.swe.cache`.
        repositories: As `sandbox.swe.repositories`.
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
    cache: str | None = None
    repositories: str | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in ("cache", "repositories"):
                require(value > 0, f"rollout.agent.{item.name}", value, "must be > 0")


@dataclass(slots=True, kw_only=True)
class SweConfig:
    """Environments and grading of software-engineering tasks.

    Attributes:
        cache: Folder of built environments and of admissions; null is the user's cache.
        repositories: Folder of git clones, `owner/name` or `owner__name`; null for none.
        cpu_seconds: CPU time of one run of an instance's tests.
        wall_seconds: Wall time of it, a generous backstop.
        memory_bytes: Memory of it, written files included.
        max_processes: Processes and threads of it.
        write_bytes: What it may write to the repository and to `/tmp`.
        canary_bits: Clones of tests that must fail are placed until forging results by chance
            succeeds with at most 2 ** -canary_bits, where the tests have enough to clone.
        max_runs: Where one run has not enough, a patch that passes is tested again in another
            disguise, up to so many runs.
        min_canary_bits: Instances whose runs allow fewer in all are not admitted.
    """

    cache: str | None = None
    repositories: str | None = None
    cpu_seconds: float = 300.0
    wall_seconds: float = 1200.0
    memory_bytes: int = 2 * 2**30
    max_processes: int = 128
    write_bytes: int = 512 * 2**20
    canary_bits: int = 8
    max_runs: int = 4
    min_canary_bits: int = 4

    def __post_init__(self) -> None:
        for key in ("cpu_seconds", "wall_seconds", "memory_bytes", "max_processes", "write_bytes"):
            require(getattr(self, key) > 0, f"sandbox.swe.{key}", getattr(self, key), "must be > 0")
        require(self.max_runs >= 1, "sandbox.swe.max_runs", self.max_runs, "must be >= 1")
        require(
            0 <= self.min_canary_bits <= self.canary_bits,
            "sandbox.swe.min_canary_bits",
            self.min_canary_bits,
            f"must lie in 0..{self.canary_bits}, which is canary_bits",
        )
