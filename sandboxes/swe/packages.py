"""Installs the packages that tests need into a folder of their own, for the Python of the jails."""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cispo.data.swe.instance import digest
from cispo.errors import ConfigError
from sandboxes.interpreter import find_interpreter

_SECONDS = 1200.0
_KEPT = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy")


class PackagesError(ConfigError):
    """Packages cannot be installed; the message has pip's reason."""


@functools.cache
def jail_python() -> Path:
    """Return the Python of the jails as this machine has it."""
    interpreter = find_interpreter()
    prefix = interpreter.prefix
    return Path(interpreter.folder, "python3") if prefix is None else prefix / "bin" / "python3"


@functools.cache
def python_version() -> str:
    """Return the version of the jails' Python, `3.11` for example."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run(
        [jail_python(), "-I", "-S", "-c", code], capture_output=True, text=True, check=True, env={}
    )
    return done.stdout.strip()


def install_packages(requirements: Sequence[str], cache: Path) -> Path:
    """Return the folder with these packages, installed now if they are not there yet.

    Only wheels are taken: building a package would run its code on this machine.

    Raises:
        PackagesError: pip cannot install them.
    """
    folder = cache / digest([python_version(), sorted(requirements)])[:32]
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        if requirements:
            _pip(requirements, made)
        for path in (made, *made.rglob("*")):
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def _pip(requirements: Sequence[str], target: Path) -> None:
    command = [
        *(sys.executable, "-m", "pip", "--python", str(jail_python()), "install", "--quiet"),
        *("--disable-pip-version-check", "--no-input", "--only-binary", ":all:"),
        *("--target", str(target), "--", *requirements),
    ]
    pip_settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        subprocess.run(
            command, env=kept | pip_settings, capture_output=True, check=True, timeout=_SECONDS
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        reason = next(
            (line for line in said if line.startswith("ERROR")), (said or ["no word"])[-1]
        )
        raise PackagesError(f"setup.requirements={list(requirements)}: {reason}") from error
    except subprocess.TimeoutExpired as error:
        raise PackagesError(
            f"setup.requirements={list(requirements)}: pip took too long"
        ) from error
