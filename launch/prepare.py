"""python -m launch.prepare swe|tasks: makes tasks, or screens them."""

import os
import sys

from cispo.config.prepare import PrepareConfig
from cispo.config.prepare_tasks import PrepareTasksConfig
from launch.command import run_command

KINDS = ("swe", "tasks")


def make_instances(cfg: PrepareConfig, composed: str) -> None:
    """Make instances; imported late so that a refused configuration costs no time."""
    from launch.preparing import prepare_instances

    prepare_instances(cfg)


def screen_tasks(cfg: PrepareTasksConfig, composed: str) -> None:
    """Check, then screen and measure; what is heavy is imported only after the checks."""
    from launch.preflight import check_policy_path

    # Read at torch's import: a row of a product then does not depend on how many there are.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    is_local = cfg.engine in ("local", "ray") or (
        cfg.engine is None and cfg.answers is None and cfg.endpoint.url is None
    )
    if cfg.num_rollouts and is_local and cfg.rollout.backend != "scripted":
        cfg.policy.path = check_policy_path(cfg.policy)

    from launch.preparing_tasks import prepare_tasks

    prepare_tasks(cfg)


def main() -> None:
    """Take the kind of tasks from the command line, compose the rest, and make or screen them."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    if kind in KINDS:
        del sys.argv[1]
    elif "--help" not in sys.argv:
        print(f"error: say what to prepare: {', '.join(KINDS)}", file=sys.stderr)
        sys.exit(2)
    if kind == "tasks":
        run_command("prepare_tasks", PrepareTasksConfig, screen_tasks)
    else:
        run_command("prepare", PrepareConfig, make_instances)


if __name__ == "__main__":
    main()
