"""Capsules as archives: named files in, named files out, whole or not at all. What they say is not known here.

An archive is written beside its place and renamed, so that it is there whole or not at all; equal files give equal
bytes, as no time and no owner is written. Nothing of an archive that is read ever becomes a file.
"""

import gzip
import hashlib
import io
import json
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers import durable

FORMAT = 2
"""Of the archive and of all that is in it. A reader refuses newer ones."""
ENDINGS = (".tar.gz", ".zip")
MANIFEST = "MANIFEST.json"
MOST_BYTES = 4 * 2**30
"""Of all files together, unpacked: they are held in memory."""
MOST_FILES = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9][A-Za-z0-9._-]{0,199})?")
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can say."""
_UNREADABLE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(ValueError, RuntimeError, NotImplementedError, OverflowError),
)
"""What Python's readers raise, bit by bit, for archives that were cut or changed."""


class CapsuleError(ValueError):
    """A capsule that cannot be taken, in one sentence."""


def check_ending(path: Path) -> None:
    """Raise ValueError unless the file's ending is one of a capsule."""
    if not path.name.lower().endswith(ENDINGS):
        raise ValueError(f"'{path.name}' names no capsule; valid endings: .vitscale.tar.gz, .vitscale.zip")


def write(path: Path, about: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write a capsule of these files and a manifest; it is at `path` whole, and on the disk, when this returns.

    about: what the manifest says beside the names, sizes and digests of the files.
    Raises ValueError for another ending, OSError as it comes.
    """
    check_ending(path)
    listed = {
        name: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(files.items())
    }
    manifest = {"format": FORMAT, **about, "files": listed}
    first = {MANIFEST: (json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()}
    ordered = {**first, **dict(sorted(files.items()))}
    assert all(_NAME.fullmatch(name) for name in ordered)
    packed = _zip(ordered) if path.name.lower().endswith(".zip") else _tar(ordered)
    writing = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        durable.write(writing, packed)
        writing.replace(path)
    finally:
        writing.unlink(missing_ok=True)
    durable.sync_names(path.parent)


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest of a capsule, and its files, each compared with its digest.

    Raises CapsuleError for what is no capsule, is not whole, was changed or is newer, OSError as it comes.
    """
    if path.stat().st_size > MOST_BYTES:
        raise CapsuleError(f"{path} is no capsule: it has more than {MOST_BYTES:,} bytes")
    packed = path.read_bytes()
    try:
        files = _unzipped(packed) if packed.startswith(b"PK") else _untarred(packed)
    except CapsuleError as error:
        raise CapsuleError(f"{path} is no capsule: {error}") from error
    except _UNREADABLE as error:
        raise CapsuleError(
            f"{path} is no whole capsule ({_first_line(error)}): get it again from where it was made"
        ) from error
    try:
        manifest = json.loads(files.pop(MANIFEST))
        version = manifest["format"]
        listed = {name: (each["size_bytes"], each["sha256"]) for name, each in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CapsuleError(f"{path} is no capsule: it has no {MANIFEST} that can be read") from error
    if not isinstance(version, int) or version > FORMAT:
        raise CapsuleError(f"{path} has the format {version}, and this vitscale reads up to {FORMAT}: upgrade vitscale")
    _compare(path, listed, files)
    return manifest, files


def _compare(path: Path, listed: Mapping[str, tuple[int, str]], files: Mapping[str, bytes]) -> None:
    for name in sorted(listed.keys() - files.keys()):
        raise CapsuleError(f"{path} is not whole: {name} is missing; get it again from where it was made")
    for name in sorted(files.keys() - listed.keys()):
        raise CapsuleError(f"{path} was changed: {name} is not in its manifest; get it again from where it was made")
    for name, content in files.items():
        if (len(content), hashlib.sha256(content).hexdigest()) != listed[name]:
            raise CapsuleError(
                f"{path} was changed: {name} is not what its manifest says; get it again from where it was made"
            )


# ------------------------------------------------------------------------------------------------------------- packing


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in files.items():
            member = tarfile.TarInfo(name)  # of nobody, from 1970
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo(name, _FIRST_DAY)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, content)
    return buffer.getvalue()


def _untarred(packed: bytes) -> dict[str, bytes]:
    """Unpacked to its end first: that checks gzip's own digest, and no header can ask for more than there is."""
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
        unpacked = stream.read(MOST_BYTES + 1)
    if len(unpacked) > MOST_BYTES:
        raise CapsuleError(f"it holds more than {MOST_BYTES:,} bytes")
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
        for member in archive:
            _check_member(member.name, member.isreg(), files)
            content = archive.extractfile(member)
            assert content is not None
            files[member.name] = content.read()
            if len(files[member.name]) != member.size:
                raise CapsuleError(f"{member.name} is not whole")
    return files


def _unzipped(packed: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    left = MOST_BYTES
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check_member(member.filename, kind in (0, stat.S_IFREG) and not member.flag_bits & 1, files)
            with archive.open(member) as stream:
                files[member.filename] = stream.read(left + 1)  # what the header says may be a lie
            left -= len(files[member.filename])
            if left < 0:
                raise CapsuleError(f"it holds more than {MOST_BYTES:,} bytes")
    return files


def _check_member(name: str, is_plain: bool, others: Mapping[str, bytes]) -> None:
    """Nothing is ever unpacked to a disk, so that a bad name could do no harm; who writes one is up to something."""
    if not _NAME.fullmatch(name):
        raise CapsuleError(f"a file in it is called {name[:100]!r}, as no file of a capsule is")
    if not is_plain:
        raise CapsuleError(f"{name} in it is no plain file")
    if name in others:
        raise CapsuleError(f"{name} is in it twice")
    if len(others) >= MOST_FILES:
        raise CapsuleError(f"it holds more than {MOST_FILES:,} files")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
