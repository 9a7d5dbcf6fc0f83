"""Keeps what a run says beside its metrics, with the time, in `log.txt` (stdlib only)."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path


class LogFile:
    """Says a line: appends it to a file and shows it.

    Args:
        path: The file, whose folder exists.
        show: Shows a line to the user.
        clock: The time.
    """

    def __init__(
        self,
        path: Path,
        show: Callable[[str], None],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = path
        self._show = show
        self._clock = clock

    def __call__(self, text: str) -> None:
        """Say a line; that the disk is full may be what it says, so then it is only shown."""
        self._show(text)
        self.keep(text)

    def keep(self, text: str) -> None:
        """Append a line that is shown elsewhere."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{self._clock():%Y-%m-%d %H:%M:%S} UTC  {text}\n")
        except OSError as error:
            self._show(f"  {self._path} cannot be written: {error}")
