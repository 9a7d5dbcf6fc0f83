"""Writes torch's files, and says why one could not be written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cispo.disk import why_not_written


def write_file(state: Mapping[str, Any], path: Path) -> str | None:
    """Write what `torch.load` reads; return why it could not be written, or None."""
    # The manifest has a checksum of every file; torch's own would take as long as the writing.
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    except (OSError, RuntimeError) as error:  # torch raises the latter when the disk is full
        return f"{path.name}: {why_not_written(error, path.parent)}"
    return None
