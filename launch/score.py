"""python -m launch.score: what a verifier says of responses in a file, without training."""

from cispo.config.score import ScoreConfig
from launch.command import run_command


def body(cfg: ScoreConfig, composed: str) -> None:
    """Score the file; imported late so that a refused configuration costs no time."""
    from launch.scoring import run_scoring

    run_scoring(cfg)


def main() -> None:
    """Compose the configuration and score."""
    run_command("score", ScoreConfig, body)


if __name__ == "__main__":
    main()
