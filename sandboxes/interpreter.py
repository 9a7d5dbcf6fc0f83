"""Which Python runs inside the sandbox, and where it lies there."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from cispo.errors import SandboxUnavailableError

_SYSTEM_PYTHON = Path("/usr/bin/python3")
_SYSTEM = Path("/usr")
_NEUTRAL = "/opt/python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python for programs.

    Attributes:
        folder: Folder of `python3` inside the sandbox.
        prefix: Folder of the machine that must be bound to `/opt/python`; None where `/usr` holds
            it.
    """

    folder: str
    prefix: Path | None

    @property
    def mounts(self) -> tuple[str, ...]:
        """Arguments of bubblewrap that make it visible."""
        if self.prefix is None:
            return ()
        return ("--ro-bind", str(self.prefix), _NEUTRAL)

    @property
    def host_folder(self) -> str:
        """Folder of `python3` on the machine."""
        return self.folder if self.prefix is None else str(self.prefix / "bin")

    @property
    def environment(self) -> dict[str, str]:
        """Variables that it needs; a shared library may be sought under its old path."""
        return {} if self.prefix is None else {"LD_LIBRARY_PATH": f"{_NEUTRAL}/lib"}


def find_interpreter(
    *, system_python: Path = _SYSTEM_PYTHON, prefix: Path | None = None
) -> Interpreter:
    """Return the system's Python, else the base of the one that this process runs on.

    Args:
        system_python: Where the system's Python would be.
        prefix: Installation prefix of the fallback; None takes this process's.

    Raises:
        SandboxUnavailableError: The only Python lies where the sandbox's user may not go.
    """
    if os.access(system_python, os.X_OK):
        return Interpreter(folder=str(system_python.parent), prefix=None)
    prefix = Path(sys.base_prefix) if prefix is None else prefix
    if prefix.is_relative_to(_SYSTEM):
        return Interpreter(folder=str(prefix / "bin"), prefix=None)
    if os.geteuid() == 0 and not others_can_reach(prefix):
        raise SandboxUnavailableError(
            f"sandbox layer interpreter: {system_python} is absent and {prefix} cannot be read "
            "by the sandbox's own user; install the system's python3, or run as an ordinary user"
        )
    return Interpreter(folder=f"{_NEUTRAL}/bin", prefix=prefix)


def others_can_reach(path: Path) -> bool:
    """Whether a user who owns nothing here may enter every folder on the way and read `path`."""
    resolved = path.resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (resolved, *resolved.parents))
