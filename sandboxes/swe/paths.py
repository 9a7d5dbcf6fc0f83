"""What paths mean: which files decide how tests run, and where things lie in a jail."""

import sys
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from sandboxes.workspace import WORKSPACE

PACKAGES = "/opt/packages"
"""Where a jail has the installed packages."""

_TEST_FOLDERS = frozenset({"test", "tests"})
_CONFIGURATION = frozenset(
    {
        *("conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini"),
        *("setup.cfg", "pyproject.toml"),
        *("noxfile.py", ".coveragerc", "sitecustomize.py", "usercustomize.py", "pyvenv.cfg"),
    }
)
_COMPILED = (".pth", ".pyc", ".pyo", ".so", ".pyd", ".egg-link", ".dll", ".dylib")
_RUNNERS = frozenset(
    {"pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "exceptiongroup"}
)


def is_test_file(path: str) -> bool:
    """Whether a path belongs to the tests by where it lies or what it is called."""
    *folders, name = PurePosixPath(path).parts
    if any(folder.lower() in _TEST_FOLDERS for folder in folders):
        return True
    stem = PurePosixPath(name).stem
    return name.endswith(".py") and (
        stem.startswith("test_") or stem.endswith("_test") or stem in ("conftest", "tests", "test")
    )


def refusal(
    path: str,
    *,
    is_new: bool,
    source_roots: Collection[str],
    known_modules: Collection[str],
) -> str | None:
    """Return why a policy's change of a file is dropped, or None where it counts.

    Args:
        path: The file, relative to the repository.
        is_new: Whether the repository does not have it.
        source_roots: Folders that Python imports from.
        known_modules: Top-level modules that the tests' environment has; a new file may not take
            the place of one.
    """
    parts = PurePosixPath(path).parts
    name = parts[-1].lower()
    if is_test_file(path):
        return "test"
    if name in _CONFIGURATION:
        return "configuration"
    if name.endswith(_COMPILED) or "__pycache__" in parts or "site-packages" in parts:
        return "compiled"
    if any(part.lower().startswith(".git") for part in parts):
        return "git"
    if any(part.endswith((".dist-info", ".egg-info")) for part in parts):
        return "metadata"
    if is_new and _shadows(path, source_roots, known_modules):
        return "shadow"
    return None


def _shadows(path: str, source_roots: Collection[str], known_modules: Collection[str]) -> bool:
    taken = sys.stdlib_module_names | _RUNNERS | frozenset(known_modules)
    for root in {".", *source_roots}:
        inside = PurePosixPath(path)
        if root != "." and not inside.is_relative_to(root):
            continue
        relative = inside if root == "." else inside.relative_to(root)
        if relative.parts[0].partition(".")[0] in taken:
            return True
    return False


def python_path(source_roots: Iterable[str]) -> str:
    """Return where the programs of a workspace import from, as `PYTHONPATH`."""
    return ":".join([*roots_in_jail(source_roots), PACKAGES])


def roots_in_jail(source_roots: Iterable[str]) -> list[str]:
    """Return where source roots lie in a workspace."""
    return [WORKSPACE if root == "." else f"{WORKSPACE}/{root}" for root in source_roots]
