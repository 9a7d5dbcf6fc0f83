"""python -m launch.serve: an OpenAI-compatible HTTP server in front of one engine."""

import os

from cispo.config.serve import ServeConfig
from launch.command import run_command


def body(cfg: ServeConfig, composed: str) -> None:
    """Serve until a signal; imported late so that a refused configuration costs no time."""
    # Read at torch's import: a row of a product then does not depend on how many rows there are.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

    from launch.serving import run_server

    run_server(cfg)


def main() -> None:
    """Compose the configuration and serve."""
    run_command("serve", ServeConfig, body)


if __name__ == "__main__":
    main()
