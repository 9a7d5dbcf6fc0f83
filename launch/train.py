"""python -m launch.train: reinforcement learning with CISPO."""

from cispo.config import RunConfig
from launch.command import run_command


def body(cfg: RunConfig, composed: str) -> None:
    """Train as configured; imported late so that a refused configuration costs no time."""
    from launch.run import run_training

    run_training(cfg, composed)


def main() -> None:
    """Compose the configuration and train."""
    run_command("train", RunConfig, body)


if __name__ == "__main__":
    main()
