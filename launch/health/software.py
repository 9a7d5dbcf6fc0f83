"""Whether Python, our packages and the libraries are those that they should be (stdlib only)."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from launch.health.finding import Finding, Level

PACKAGES = ("cispo", "rollout", "rewards", "sandboxes", "conf", "launch")
DISTRIBUTION = "cispo-rl"
ROOT = Path(__file__).parents[2]
_OLDEST_PYTHON = (3, 11)


def python() -> Finding:
    """Check the interpreter."""
    said = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _OLDEST_PYTHON:
        return Finding(
            level=Level.FAIL,
            text=f"Python {said} is too old",
            fix="make the environment anew with `make setup PYTHON=/path/to/python3.11`",
        )
    return Finding(text=f"Python {said}, {sys.executable}")


def packages(home: Path = ROOT) -> Finding:
    """Find packages or folders of the same names, which others published or somebody made.

    Args:
        home: The folder from which all of ours should come.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        if not places:
            return Finding(
                level=Level.FAIL,
                text=f"there is no package {name!r}",
                fix=f"run from {home}, or install the project again",
            )
        if Path(places[0]).resolve().parent != home.resolve():
            return Finding(
                level=Level.FAIL,
                text=f"{name!r} is imported from {places[0]}, not from {home}",
                fix=f"rename that folder, start from another one, or uninstall what brought {name}",
            )
    return Finding(text=f"all of ours come from {home}")


def libraries(root: Path = ROOT) -> Finding:
    """Compare what is installed with the project's ranges, and with the versions that we tested."""
    from packaging.requirements import Requirement

    missing, outside, untested = [], [], []
    tested = _tested(root / "requirements" / "constraints.txt")
    needed = [Requirement(line) for line in _required(root)]
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            missing.append(f"{requirement.name}{requirement.specifier}")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            outside.append(f"{requirement.name} {found} is not {requirement.specifier}")
        elif found.partition("+")[0] != tested.get(requirement.name, found.partition("+")[0]):
            untested.append(f"{requirement.name} {found}, tested {tested[requirement.name]}")
    if missing or outside:
        said = [*(f"{name} is missing" for name in missing), *outside]
        return Finding(level=Level.FAIL, text=", ".join(said), fix="`make setup`")
    if untested:
        return Finding(
            level=Level.WARN,
            text="not the versions that were tested: " + ", ".join(untested),
            fix="`make setup` installs those; others in the project's ranges should do",
        )
    return Finding(text=f"{len(needed)} libraries in the versions that were tested")


def _required(root: Path) -> list[str]:
    """Requirements of the checkout, or of the installed distribution where there is none."""
    if (root / "pyproject.toml").is_file():
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return list(project["dependencies"])
    return list(requires(DISTRIBUTION) or ())


def _tested(constraints: Path) -> dict[str, str]:
    if not constraints.is_file():
        return {}
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {name.strip(): pinned.strip() for name, pinned in pairs}
