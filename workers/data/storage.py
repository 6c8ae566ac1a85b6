"""Bytes of a data set's files wherever `pyarrow.fs` finds them; knows nothing of what is in them.

A location is a folder or a file: an absolute path, or a URI as `s3://bucket/prefix`, `gs://`, `hdfs://`, `file://`.
What a URI says after its `?` (an endpoint, a region) stays with it when parts are joined to it.
"""

import re
import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from workers import durable
from workers.supervision import DataError

T = TypeVar("T")

_ATTEMPTS = 5
_FIRST_WAIT_SECONDS = 0.25
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""Faults that a second attempt does not cure."""
_OBJECT_STORES = ("s3", "gcs", "abfs")
"""Where a file appears whole or not at all, and nothing has to be moved into its place."""


class ReadableFile:
    """An open file that several threads may read at once. It is closed when nobody holds it any more."""

    def __init__(self, location_of_file: str) -> None:
        """Raises OSError when there is no such file, or it cannot be opened; DataError as `opened` does."""
        self._filesystem, self._path = opened(location_of_file)
        self._file: Any = persistent(lambda: self._filesystem.open_input_file(self._path))
        self.size_bytes: int = self._file.size()

    def read(self, offset: int, size_bytes: int) -> bytes:
        """The bytes from an offset on; fewer where the file ends. Raises OSError after several attempts."""
        return persistent(lambda: bytes(self._file.read_at(size_bytes, offset)))


def opened(location: str) -> tuple[Any, str]:
    """The `pyarrow.fs.FileSystem` of a location, and the location's path in it.

    Raises DataError for a URI that cannot be opened.
    """
    if "://" not in location:
        return _local(), location
    split = urlsplit(location)
    filesystem, root = _remote(split.scheme, split.netloc, split.query)
    # Escapes as %20 are undone as in every URI; a bucket, where there is one, is the first part of a path.
    return filesystem, f"{root.rstrip('/')}/{unquote(split.path).strip('/')}".rstrip("/")


def joined(location: str, *parts: str) -> str:
    """The location of something below a location."""
    before, mark, query = location.partition("?") if "://" in location else (location, "", "")
    return "/".join([before.rstrip("/"), *parts]) + mark + query


def shown(location: str) -> str:
    """A location as a message may show it: without a password, and without what stands after `?`."""
    if "://" not in location:
        return location
    return re.sub(r"(?<=://)[^/@]*:[^/@]*@", "", location.partition("?")[0])


def read_bytes(location_of_file: str) -> bytes:
    """A whole small file. Raises OSError when it is missing or cannot be read."""
    filesystem, path = opened(location_of_file)

    def attempt() -> bytes:
        with filesystem.open_input_file(path) as file:
            return bytes(file.read())

    return persistent(attempt)


def write_bytes(location_of_file: str, data: bytes) -> None:
    """Put a file in place of any earlier one, so that nobody ever sees half of it. Raises OSError when it cannot be."""
    filesystem, path = opened(location_of_file)
    if isinstance(filesystem, fs.LocalFileSystem):
        _write_local(Path(path), data)
    elif filesystem.type_name in _OBJECT_STORES:
        persistent(lambda: _put(filesystem, path, data))
    else:
        hidden = f"{path}.{uuid.uuid4().hex}.partial"
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        persistent(lambda: _put(filesystem, hidden, data))
        filesystem.move(hidden, path)


def listed(location: str, pattern: str) -> list[str]:
    """Files below a location that match a pattern, relative to it, with numbers in their names in numeric order.

    pattern: `*` and `?` stay within one folder's names, `**/` stands for any folders. Hidden files never match.
    Raises DataError when there is no such folder.
    """
    filesystem, path = opened(location)
    selector = fs.FileSelector(path, recursive="/" in pattern)
    try:
        found = persistent(lambda: filesystem.get_file_info(selector))
    except FileNotFoundError as error:
        raise DataError(f"there is no folder {shown(location)}: correct the location") from error
    except OSError as error:
        raise DataError(f"{shown(location)} cannot be listed ({error}): correct the location") from error
    start = len(filesystem.normalize_path(path).rstrip("/")) + 1
    names = [info.path[start:] for info in found if info.type == fs.FileType.File]
    matching = _expression(pattern)
    return sorted((name for name in names if matching.fullmatch(name)), key=_natural)


def persistent(task: Callable[[], T], first_wait_seconds: float = _FIRST_WAIT_SECONDS) -> T:
    """What a task gives, tried again after faults that may pass: an object store's, a network's.

    Raises what the last attempt raised; a missing file at once.
    """
    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, OSError) and not isinstance(error, _LASTING)),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential(multiplier=first_wait_seconds),
        reraise=True,
    )
    return retrying(task)


@lru_cache(maxsize=1)
def _local() -> Any:
    return fs.LocalFileSystem()


# Opening an object store asks it for a bucket's region, so there is one opening for all files of a bucket.
@lru_cache(maxsize=64)
def _remote(scheme: str, authority: str, query: str) -> tuple[Any, str]:
    root = f"{scheme}://{authority}/" + (f"?{query}" if query else "")
    try:
        filesystem, path = fs.FileSystem.from_uri(root)
    except (pa.ArrowException, OSError, ValueError) as error:
        said = str(error).replace(root, shown(root))
        # Not `from error`: that one shows the URI with its password.
        raise DataError(
            f"{shown(root)} cannot be opened ({said}): give an absolute folder, or a URI of s3://, gs://, hdfs:// or"
            " file:// that this machine may read"
        ) from None
    return filesystem, str(path)


def _put(filesystem: Any, path: str, data: bytes) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        durable.write(hidden, data)
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
    durable.sync_names(path.parent)


def _expression(pattern: str) -> re.Pattern[str]:
    """A pattern of names as a regular expression."""
    shown_name = r"(?!\.)"
    pieces = {"**/": rf"(?:{shown_name}[^/]+/)*", "*": r"[^/]*", "?": r"[^/]"}
    parts = re.split(r"(\*\*/|\*|\?|/)", pattern)
    expression, starts = "", True
    for part in parts:
        if not part:
            continue
        if starts and part != "**/":
            expression += shown_name
        expression += pieces.get(part) or re.escape(part)
        starts = part.endswith("/")
    return re.compile(expression)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key: digits count as numbers."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
