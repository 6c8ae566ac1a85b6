"""Where an import puts files: on this machine a file is moved into its place, elsewhere it is sent there whole."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from workers import durable
from workers.data.storage import opened, write_bytes


def local_path(location: str) -> Path | None:
    """The path of a location on this machine; None of one elsewhere."""
    filesystem, path = opened(location)
    return Path(path) if isinstance(filesystem, fs.LocalFileSystem) else None


def exists(location: str) -> bool:
    """Whether there is a file or a folder."""
    filesystem, path = opened(location)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def folders_in(location: str) -> list[str]:
    """Names of the folders in a folder, none when there is no such folder."""
    filesystem, path = opened(location)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def removed(location_of_file: str) -> None:
    """Remove a file, if it is there."""
    if exists(location_of_file):
        filesystem, path = opened(location_of_file)
        filesystem.delete_file(path)


def emptied(location: str, keep: str | None = None) -> None:
    """Remove what is in a folder, except for one file."""
    filesystem, path = opened(location)
    for info in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True)):
        if info.type == fs.FileType.Directory:
            filesystem.delete_dir(info.path)
        elif info.base_name != keep:
            filesystem.delete_file(info.path)


@contextmanager
def hidden_folder(location: str) -> Iterator[Path]:
    """A folder on this machine for files that are not whole yet: below a location, where files can be moved from it."""
    below = local_path(location)
    if below is not None:
        below.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=below))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def moved_in(file: Path, location_of_file: str) -> None:
    """Put a file that is on disk into its place, in one step."""
    target = local_path(location_of_file)
    if target is None:
        write_bytes(location_of_file, file.read_bytes())
        return
    file.replace(target)
    durable.sync_names(target.parent)
