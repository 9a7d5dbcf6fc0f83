"""python -m launch.admit: which tasks may be trained on."""

from cispo.config.admit import AdmitConfig
from launch.command import run_command


def body(cfg: AdmitConfig, composed: str) -> None:
    """Examine the tasks; imported late so that a refused configuration costs no time."""
    from launch.admitting import run_admission

    run_admission(cfg)


def main() -> None:
    """Compose the configuration and examine."""
    run_command("admit", AdmitConfig, body)


if __name__ == "__main__":
    main()
