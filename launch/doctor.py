"""python -m launch.doctor: is everything here that a run needs, and is it ours?"""

import sys
from typing import TYPE_CHECKING

from launch.health.finding import carry_out
from launch.health.software import libraries, packages, python

if TYPE_CHECKING:
    from cispo.config.doctor import DoctorConfig

FAILED = 2


def main() -> None:
    """Look at the software, without which no other check could be trusted, then at the rest."""
    is_asked = any(word.startswith("-") for word in sys.argv[1:])
    first = {"python": python, "packages": packages, "libraries": libraries}
    if not is_asked and not carry_out(first, print):
        print("nothing else was looked at: mend these first")
        sys.exit(FAILED)
    from cispo.config.doctor import DoctorConfig
    from launch.command import run_command

    run_command("doctor", DoctorConfig, body)


def body(cfg: "DoctorConfig", composed: str) -> None:
    """Look at the machine, the services and the cluster."""
    from launch.examining import examine

    if not examine(cfg, print):
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
