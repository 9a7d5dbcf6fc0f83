"""python -m launch.prepare swe: makes tasks."""

import sys

from cispo.config.prepare import PrepareConfig
from launch.command import run_command

KINDS = ("swe",)


def body(cfg: PrepareConfig, composed: str) -> None:
    """Make instances; imported late so that a refused configuration costs no time."""
    from launch.preparing import prepare_instances

    prepare_instances(cfg)


def main() -> None:
    """Take the kind of tasks from the command line, compose the rest, and make them."""
    if len(sys.argv) > 1 and sys.argv[1] in KINDS:
        del sys.argv[1]
    elif "--help" not in sys.argv:
        print(f"error: say what to prepare: {', '.join(KINDS)}", file=sys.stderr)
        sys.exit(2)
    run_command("prepare", PrepareConfig, body)


if __name__ == "__main__":
    main()
