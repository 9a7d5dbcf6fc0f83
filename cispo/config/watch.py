"""Configuration of the watch page."""

from dataclasses import dataclass

from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class WatchConfig:
    """A local web page on a run: `python -m launch.watch runs/smoke`.

    Attributes:
        run: The run's folder; the word `run=` may be left out.
        host: Address to listen on. 0.0.0.0 lets other machines read the run, without a password.
        port: Port to listen on; 0 takes a free one.
    """

    run: str
    host: str = "127.0.0.1"
    port: int = 8321

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, "port", self.port, "must lie in 0..65535")
