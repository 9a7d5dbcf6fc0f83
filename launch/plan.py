"""python -m launch.plan: what a run will do, need and cost, before anything is started."""

from cispo.config.plan import PlanConfig
from launch.command import run_command


def body(cfg: PlanConfig, composed: str) -> None:
    """Plan; imported late so that a refused configuration costs no time."""
    from launch.planning import run_planning

    run_planning(cfg)


def main() -> None:
    """Compose the configuration of a run and plan it."""
    run_command("plan", PlanConfig, body)


if __name__ == "__main__":
    main()
