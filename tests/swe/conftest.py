"""A cache that jails can reach, the toy repository, and real ones where this machine has them."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from cispo.config.swe import SweConfig
from cispo.data.swe.instance import Instance, digest
from cispo.data.swe.toy import SweToyFamily
from cispo.errors import SandboxUnavailableError
from rewards.swe.grader import SweGrader
from sandboxes.swe.packages import jail_python, python_version
from sandboxes.workspaces import JailWorkspaces

PYTEST = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")


@pytest.fixture(scope="session")
def jails() -> JailWorkspaces:
    try:
        return JailWorkspaces()
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, SWE tasks are untested: {error}")


@pytest.fixture(scope="session")
def cache() -> Iterator[Path]:
    """A folder of our own that the sandbox's user may enter, with pytest as installed here."""
    folder = Path(tempfile.mkdtemp(prefix="cispo-swe-test-"))
    folder.chmod(0o755)
    packages = folder / "packages" / digest([python_version(), ["pytest"]])[:32]
    packages.mkdir(parents=True)
    for name in PYTEST:
        for file in distribution(name).files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
    subprocess.run([jail_python(), "-m", "compileall", "-q", packages], check=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def settings(cache: Path) -> SweConfig:
    return SweConfig(cache=str(cache), cpu_seconds=30.0, write_bytes=64 * 2**20)


@pytest.fixture
def grader(jails: JailWorkspaces, settings: SweConfig) -> SweGrader:
    return SweGrader(jails, settings, max_concurrent=1)


@pytest.fixture(scope="session")
def toy() -> Instance:
    return Instance.from_json(SweToyFamily(1, 0)[0].truth["instance"])  # type: ignore[arg-type]
