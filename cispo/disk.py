"""Says why something could not be written (stdlib only)."""

import errno
import shutil
from pathlib import Path


def why_not_written(error: Exception, folder: Path) -> str:
    """One sentence for a failed write into `folder`, with the space that its disk has left."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = "no space is left on the disk"
    else:
        text = str(error).strip().partition("\n")[0] or type(error).__name__
    try:
        free = f"{shutil.disk_usage(folder).free:,} bytes are free"
    except OSError as unreadable:
        free = f"its free space cannot be read: {unreadable.strerror}"
    return f"{text} ({free})"
