"""Configuration of where untrusted programs run, and within which limits."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cispo.config.require import require
from cispo.config.swe import SweConfig

BACKENDS = ("bubblewrap", "container", "remote")


@dataclass(slots=True, kw_only=True)
class SandboxConfig:
    """Where untrusted programs run.

    Attributes:
        backend: `bubblewrap` (jails on this host), `container` (podman or docker on this host) or
            `remote` (services on other hosts).
        max_concurrent: Programs that one reward worker runs at once, with `remote` on each host.
        cpu_seconds: CPU time of one program.
        wall_seconds: Wall time of one program, a generous backstop.
        memory_bytes: Memory of one program with all its processes.
        max_processes: Processes and threads of one program.
        output_bytes: Standard output and error, each.
        runs_per_server: `bubblewrap`: programs after which a warm server is replaced; 0 gives each
            program a jail of its own, which costs an interpreter's start more.
        preload: `bubblewrap`: Python packages that programs find imported, such as
            `[numpy, sympy]`; without any, programs have the standard library alone.
        image: `container`: image with `python3`, already on the host; agents in repositories also
            need `bash` and `git` in it.
        engine: `container`: `podman` or `docker`; empty takes the first that is installed.
        runtime: `container`: what starts containers, such as `runc` or `runsc`; empty chooses.
        hosts: `remote`: addresses of services, such as `[http://10.0.0.2:8571]`.
        token_variable: `remote`: environment variable with the services' token.
        swe: Environments and grading of software-engineering tasks.
    """

    backend: str = "bubblewrap"
    max_concurrent: int = 2
    cpu_seconds: float = 5.0
    wall_seconds: float = 20.0
    memory_bytes: int = 512 * 2**20
    max_processes: int = 32
    output_bytes: int = 2**20
    runs_per_server: int = 500
    preload: list[str] = field(default_factory=list)
    image: str = ""
    engine: str = ""
    runtime: str = ""
    hosts: list[str] = field(default_factory=list)
    token_variable: str = "CISPO_SANDBOX_TOKEN"
    swe: SweConfig = field(default_factory=SweConfig)

    def __post_init__(self) -> None:
        choices = f"choose one of {', '.join(BACKENDS)}"
        require(self.backend in BACKENDS, "sandbox.backend", self.backend, choices)
        for key in (
            "max_concurrent",
            "cpu_seconds",
            "wall_seconds",
            "memory_bytes",
            "max_processes",
            "output_bytes",
        ):
            require(getattr(self, key) > 0, f"sandbox.{key}", getattr(self, key), "must be > 0")
        require(
            self.runs_per_server >= 0,
            "sandbox.runs_per_server",
            self.runs_per_server,
            "must be >= 0",
        )
        self._check_bubblewrap()
        self._check_container()
        self._check_remote()

    def _check_bubblewrap(self) -> None:
        is_warm = self.backend == "bubblewrap" and self.runs_per_server > 0
        require(
            not self.preload or is_warm,
            "sandbox.preload",
            self.preload,
            "needs sandbox.backend=bubblewrap and sandbox.runs_per_server > 0",
        )

    def _check_container(self) -> None:
        is_container = self.backend == "container"
        require(
            bool(self.image) == is_container,
            "sandbox.image",
            self.image,
            "name an image with python3" if is_container else "needs sandbox.backend=container",
        )
        for key in ("engine", "runtime"):
            value = getattr(self, key)
            require(is_container or not value, f"sandbox.{key}", value, "needs backend=container")
        require(
            self.engine in ("", "podman", "docker"),
            "sandbox.engine",
            self.engine,
            "choose podman or docker, or leave it empty",
        )

    def _check_remote(self) -> None:
        is_remote = self.backend == "remote"
        require(
            bool(self.hosts) == is_remote,
            "sandbox.hosts",
            self.hosts,
            "name at least one service" if is_remote else "needs sandbox.backend=remote",
        )
        for url in self.hosts:
            parts = urlsplit(url)
            is_plain = parts.scheme in ("http", "https") and bool(parts.hostname)
            require(is_plain, "sandbox.hosts", url, "write it as http://host:port")
        require(
            len(set(self.hosts)) == len(self.hosts),
            "sandbox.hosts",
            self.hosts,
            "names a host twice",
        )
        require(bool(self.token_variable), "sandbox.token_variable", "", "name a variable")
