"""Configuration of the making of instances."""

from dataclasses import dataclass, field

from cispo.config.require import require
from cispo.config.sandbox import SandboxConfig


@dataclass(slots=True, kw_only=True)
class PrepareConfig:
    """Instances from commits: `python -m launch.prepare swe repo=PATH fix=COMMIT`, or `fixes=FILE`.

    Attributes:
        repo: Folder of a git repository, bare or not.
        fix: Commit that mends something and comes with tests.
        fixes: JSONL or parquet file that names many, instead of `repo` and `fix`: see
            `cispo.data.swe.fixes`. Repositories are sought in `sandbox.swe.repositories`.
        base: Commit before; null is the parent of `fix`.
        output: JSONL that instances are appended to.
        name: Name of the repository in the instance; null takes the full path of `repo`, which
            needs no `sandbox.swe.repositories`.
        issue: File with the issue; null takes the message of `fix`.
        requirements: Packages that the tests need; pytest is always among them.
        source_roots: Folders of the repository that Python imports from; empty takes `src` where
            there is one, else the repository itself.
        plugins: Plugins of pytest to load.
        num_runs: Runs of the tests before and after; only what is the same in all counts.
        sandbox: Where tests run.
    """

    repo: str | None = None
    fix: str | None = None
    fixes: str | None = None
    base: str | None = None
    output: str = "instances.jsonl"
    name: str | None = None
    issue: str | None = None
    requirements: list[str] = field(default_factory=list)
    source_roots: list[str] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
    num_runs: int = 2
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)

    def __post_init__(self) -> None:
        require(self.num_runs >= 1, "num_runs", self.num_runs, "must be >= 1")
        for key in ("repo", "fix"):
            value = getattr(self, key)
            advice = "give repo and fix, or fixes=FILE without them"
            require((value is None) == (self.fixes is not None), key, value, advice)
        for key in ("base", "name", "issue"):
            value = getattr(self, key)
            require(value is None or self.fixes is None, key, value, "rows of fixes=FILE say it")
