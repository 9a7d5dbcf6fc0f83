"""python -m launch.export: a model from one layout to another."""

from cispo.config import ExportConfig
from launch.command import run_command


def body(cfg: ExportConfig, composed: str) -> None:
    """Export as configured; imported late so that a refused configuration costs no time."""
    from launch.exporting import run_export

    run_export(cfg)


def main() -> None:
    """Compose the configuration and export."""
    run_command("export", ExportConfig, body)


if __name__ == "__main__":
    main()
