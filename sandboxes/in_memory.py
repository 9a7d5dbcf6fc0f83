"""Contents handed to a child as files that lie in no folder."""

import os
from collections.abc import Mapping
from contextlib import ExitStack


def in_memory(contents: Mapping[str, bytes], owned: ExitStack) -> dict[str, int]:
    """Return descriptors of anonymous files, each at its beginning.

    Args:
        contents: What they hold.
        owned: Closes them.
    """
    descriptors = {}
    for name, data in contents.items():
        descriptor = os.memfd_create("data")
        owned.callback(os.close, descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        descriptors[name] = descriptor
    return descriptors
