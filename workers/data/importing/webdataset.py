"""Finds and reads images in WebDataset's tar files: members `KEY.jpg` and `KEY.cls` or `KEY.json` after each other.

The format: https://github.com/webdataset/webdataset. A compressed tar cannot be read from its middle, so it is refused.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

from workers.data.importing.plans import (
    HIDDEN,
    SUFFIXES,
    Found,
    Naming,
    Row,
    Rows,
    is_hidden,
    named_labels,
    natural,
    split_in,
)
from workers.supervision import DataError

LABEL_KEYS = ("label", "cls", "class", "target")
"""Of a member `KEY.json`."""
_BLOCK_BYTES = 512


class _Member(NamedTuple):
    key: str
    suffix: str
    at: int
    size_bytes: int


def recognized(source: Path) -> bool:
    """Whether it is a tar file, or a folder with some."""
    return bool(_tars(source))


def find(source: Path, naming: Naming) -> Found:
    """The images of all tar files in order, in splits by what the files are called. Only headers and labels are read.

    naming: the suffix of images, where samples have several; the key of the label in JSON, or the suffix of its file.
    Raises DataError for a tar that is cut off or damaged, a name that leads out of it, and a sample without a label.
    """
    root = root_of(source)
    ignored: Counter[str] = Counter()
    samples: list[tuple[str, str, _Member, int | str]] = []
    for name in _tars(source):
        split = split_in(name)
        for image, label in _samples(root / name, naming, ignored):
            samples.append((split, name, image, label))
    if not samples:
        raise DataError(f"{source} holds no samples of an image and a label: it is no WebDataset")
    are_numbers = all(isinstance(label, int) for *_, label in samples)
    label_of = {} if are_numbers else named_labels(str(label) for *_, label in samples)
    splits: dict[str, Rows] = {}
    for split, name, image, label in samples:
        number = label if isinstance(label, int) and are_numbers else label_of[str(label)]
        file_name = f"{image.key.rpartition('/')[2]}.{image.suffix}"
        splits.setdefault(split, Rows()).add(name, image.at, image.size_bytes, number, file_name)
    return Found({split: rows.table() for split, rows in splits.items()}, tuple(label_of), ignored=ignored)


def root_of(source: Path) -> Path:
    """What rows name files in."""
    return source if source.is_dir() else source.parent


def images(root: Path, rows: Iterable[Row], naming: Naming) -> Iterator[bytes]:
    """The bytes of each image. Raises DataError when a tar is gone, or ends early."""
    for name, those in groupby(rows, key=lambda row: row.file):
        try:
            with (root / name).open("rb") as stream:
                for row in those:
                    stream.seek(row.at)
                    encoded = stream.read(row.size_bytes)
                    if len(encoded) != row.size_bytes:
                        raise DataError(f"{root / name} ends early: put it back as it was when the import began")
                    yield encoded
        except OSError as error:
            raise DataError(f"{root / name} cannot be read ({error.strerror}): put it back as it was") from error


def _tars(source: Path) -> list[str]:
    if source.is_file():
        return [source.name] if source.suffix == ".tar" else []
    found = source.rglob("*.tar") if source.is_dir() else []
    return sorted((file.relative_to(source).as_posix() for file in found), key=natural)


def _samples(file: Path, naming: Naming, ignored: Counter[str]) -> Iterator[tuple[_Member, int | str]]:
    """The image and the label of each sample of a tar."""
    with file.open("rb") as stream:
        for key, group in groupby(_members(file, ignored), key=lambda member: member.key):
            of = {member.suffix: member for member in group}
            found = [member for suffix, member in of.items() if f".{suffix.rpartition('.')[2]}" in SUFFIXES]
            if naming.image is not None:
                found = [of[naming.image]] if naming.image in of else []
            if not found:
                ignored.update(f".{suffix}" for suffix in of)
                continue
            if len(found) > 1:
                suffixes = ", ".join(member.suffix for member in found)
                raise DataError(f"{file}: the sample '{key}' has several images ({suffixes}): choose with --image")
            yield found[0], _label(stream, file, key, of, naming)


def _members(file: Path, ignored: Counter[str]) -> Iterator[_Member]:
    """All files of a tar, with where they lie. Raises DataError unless the tar is whole to its end."""
    size_bytes = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isdir():
                    continue
                if not member.isfile() or member.issparse():
                    raise DataError(f"{file}: the member '{name}' is a link or no file at all: write it as a file")
                if name.startswith("/") or ".." in name.split("/"):
                    raise DataError(f"{file}: the member '{name}' leads out of the archive: do not use it")
                if member.offset_data + member.size > size_bytes:
                    raise DataError(f"{file} ends within its member '{name}': download it again")
                folder, _, last = name.rpartition("/")
                if is_hidden(last):
                    ignored[HIDDEN] += 1
                    continue
                stem, _, suffix = last.partition(".")
                yield _Member(f"{folder}/{stem}" if folder else stem, suffix.lower(), member.offset_data, member.size)
            # tarfile takes any damaged header for the end.
            with file.open("rb") as stream:
                stream.seek(archive.offset)
                if stream.read(_BLOCK_BYTES) != bytes(_BLOCK_BYTES):
                    raise DataError(f"{file} is damaged at byte {archive.offset:,}, or cut off: download it again")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(
            f"{file} is no readable tar file ({error}): download it again, or unpack its compression"
        ) from error


def _label(stream: IO[bytes], file: Path, key: str, of: dict[str, _Member], naming: Naming) -> int | str:
    where = f"{file}: the sample '{key}'"
    plain = naming.label if naming.label in of else "cls"
    if plain in of:
        text = _text(stream, of[plain], where)
    elif "json" in of:
        try:
            fields = json.loads(_text(stream, of["json"], where))
        except ValueError as error:
            raise DataError(f"{where} has a label in JSON that cannot be read ({error}): write it again") from error
        keys = (naming.label,) if naming.label else LABEL_KEYS
        found = next((fields[name] for name in keys if name in fields), None) if isinstance(fields, dict) else None
        if isinstance(found, bool) or not isinstance(found, int | str):
            raise DataError(f"{where} has no label {' or '.join(keys)} in its JSON: name it with --label")
        text = str(found)
    else:
        raise DataError(f"{where} has no label .cls or .json: add it, or name its suffix with --label")
    if text.lstrip("-").isdecimal():
        if int(text) < 0:
            raise DataError(f"{where} has the label {text}, and labels are 0, 1, 2 ...: leave such samples out")
        return int(text)
    return text


def _text(stream: IO[bytes], member: _Member, where: str) -> str:
    stream.seek(member.at)
    try:
        return stream.read(member.size_bytes).decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{where} has a label that is no text ({error}): write it again") from error
