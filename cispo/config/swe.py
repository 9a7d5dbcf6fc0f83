"""Configuration of software-engineering tasks: their environments and their grading."""

from dataclasses import dataclass

from cispo.config.require import require


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
