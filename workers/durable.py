"""Bytes and names of files that outlive a loss of power, each forced to the disk. What they hold, others know."""

import os
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Write a file; its contents are on the disk when this returns. Its name is not before `sync_names`."""
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_names(folder: Path) -> None:
    """Make the names in a folder outlive a loss of power: new, replaced and removed ones."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
