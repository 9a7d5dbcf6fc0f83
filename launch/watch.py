"""python -m launch.watch RUN: a local web page on a run, while it goes on or afterwards."""

import sys

from cispo.config.watch import WatchConfig
from launch.command import run_command


def body(cfg: WatchConfig, composed: str) -> None:
    """Take the port and show the run; imported late so that a refusal costs no time."""
    from launch.watching import run_watch

    run_watch(cfg)


def main() -> None:
    """Compose the configuration and serve; a folder alone is that of the run."""
    arguments = sys.argv[1:2]
    if arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
        sys.argv[1] = f"run='{arguments[0]}'"
    run_command("watch", WatchConfig, body)


if __name__ == "__main__":
    main()
