"""python -m launch.doctor: is everything here that a run needs, and is it ours?"""

import asyncio
import importlib
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from cispo.errors import CispoError, ConfigError
from sandboxes.bubblewrap import BubblewrapSandbox

PACKAGES = ("cispo", "rollout", "rewards", "sandboxes", "conf", "launch")
LIBRARIES = ("torch", "deepspeed", "ray", "transformers", "datasets", "wandb", "hydra-core")


def check_packages() -> str:
    """Refuse packages of the same names that others published.

    Raises:
        ConfigError: One of ours is shadowed.
    """
    roots = {
        name: Path(str(importlib.import_module(name).__file__)).parents[1] for name in PACKAGES
    }
    home = roots["cispo"]
    for name, root in roots.items():
        if root != home:
            raise ConfigError(
                f"{name} is imported from {root}, not {home}: uninstall the other one"
            )
    return f"all packages come from {home}"


def check_libraries() -> str:
    """Name the versions in use."""
    return ", ".join(f"{name} {version(name)}" for name in LIBRARIES)


def check_sandbox() -> str:
    """Start a real jail and name its layers."""
    return ", ".join(asyncio.run(BubblewrapSandbox().probe()))


def check_devices() -> str:
    """Count the GPUs that torch sees."""
    import torch

    return f"{torch.cuda.device_count()} GPUs; {torch.get_num_threads()} threads a process"


CHECKS: dict[str, Callable[[], str]] = {
    "packages": check_packages,
    "libraries": check_libraries,
    "devices": check_devices,
    "sandbox": check_sandbox,
}


def main() -> None:
    """Run every check, say what each found, and exit with 2 if one failed."""
    failed = False
    for name, check in CHECKS.items():
        try:
            print(f"ok    {name}: {check()}")
        except CispoError as error:
            failed = True
            print(f"fail  {name}: {error}")
    sys.exit(2 if failed else 0)


if __name__ == "__main__":
    main()
