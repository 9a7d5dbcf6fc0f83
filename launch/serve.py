"""python -m launch.serve: an OpenAI-compatible HTTP server in front of one engine."""

import os

from cispo.config.serve import ServeConfig
from launch.command import run_command
from launch.listening import bound_socket, read_api_key


def body(cfg: ServeConfig, composed: str) -> None:
    """Check everything, then serve; what is heavy is imported only after the checks."""
    from launch.preflight import check_policy_path

    api_key = read_api_key(cfg.api_key)
    if cfg.rollout.backend != "scripted":
        cfg.policy.path = check_policy_path(cfg.policy)
    with bound_socket(cfg.host, cfg.port) as listener:
        # Read at torch's import: a row of a product then does not depend on how many there are.
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

        from launch.serving import run_server

        run_server(cfg, listener, api_key)


def main() -> None:
    """Compose the configuration and serve."""
    run_command("serve", ServeConfig, body)


if __name__ == "__main__":
    main()
