"""How often a run is made again that ended by what may not be its program's doing."""

import signal

from sandboxes.base import ExecResult, Outcome

_MOST_LOST = 2
_MOST_KILLED = 4


def is_killed(result: ExecResult) -> bool:
    """Whether the program was ended by SIGKILL, from outside the sandbox or by itself."""
    return result.outcome is Outcome.EXITED and result.exit_code == 128 + signal.SIGKILL


class Attempts:
    """Counts the runs of one program.

    A lost run says nothing about the program. One that was killed may have killed itself, which it
    then does every time; that somebody else hits the same program so often is next to impossible.
    """

    def __init__(self) -> None:
        """Start at none."""
        self._lost = self._killed = 0

    def again(self, result: ExecResult, *, killed: bool) -> bool:
        """Count a run, and say whether to make another one."""
        if result.outcome is Outcome.LOST:
            self._lost += 1
            return self._lost < _MOST_LOST
        self._killed += killed
        return killed and self._killed < _MOST_KILLED
