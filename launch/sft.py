"""python -m launch.sft: a supervised cold start on worked solutions."""

from cispo.config import SftConfig
from launch.command import run_command


def body(cfg: SftConfig, composed: str) -> None:
    """Imitate as configured; imported late so that a refused configuration costs no time."""
    from launch.cold_start import run_cold_start

    run_cold_start(cfg, composed)


def main() -> None:
    """Compose the configuration and run the cold start."""
    run_command("sft", SftConfig, body)


if __name__ == "__main__":
    main()
