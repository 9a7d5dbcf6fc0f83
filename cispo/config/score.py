"""Configuration of scoring a file."""

from dataclasses import dataclass, field

from cispo.config.actors import RewardConfig
from cispo.config.require import require
from cispo.config.sandbox import SandboxConfig


@dataclass(slots=True, kw_only=True)
class ScoreConfig:
    """A reward without training: `python -m launch.score`.

    Attributes:
        verifier: One of ours, or `FILE.py:FUNCTION`.
        input: JSONL with `task_id`, `response` and `truth`.
        output: JSONL that gets a verdict a line; what it holds already is not scored again.
        overwrite: Score everything anew.
        max_concurrent: Most cases that are graded at once; math and logic take one after another.
        max_new_tokens: Budget of a rollout, for the over-length penalty; see `num_tokens`.
        reward: Deadlines and the weights of the parts.
        sandbox: Where programs run.
    """

    verifier: str
    input: str
    output: str
    overwrite: bool = False
    max_concurrent: int = 4
    max_new_tokens: int = 32768
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)

    def __post_init__(self) -> None:
        require(self.max_concurrent >= 1, "max_concurrent", self.max_concurrent, "must be >= 1")
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "must be >= 1")
        require(
            self.input != self.output, "output", self.output, "must be another file than the input"
        )
