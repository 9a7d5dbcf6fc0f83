"""python -m launch.train: reinforcement learning with CISPO."""

from cispo.config import RunConfig
from launch.command import run_command


def body(cfg: RunConfig, composed: str) -> None:
    """Check everything, then train; what is heavy is imported only after the checks."""
    from launch.auto_resume import settle_resume
    from launch.preflight import check_run

    settle_resume(cfg)
    tasks, resume = check_run(cfg)

    from launch.run import run_training

    run_training(cfg, composed, tasks, resume)


def main() -> None:
    """Compose the configuration and train."""
    run_command("train", RunConfig, body)


if __name__ == "__main__":
    main()
