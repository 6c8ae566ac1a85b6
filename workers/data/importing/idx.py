"""Finds and reads images in the idx files of MNIST and its kin, compressed by gzip or not.

The format: Y. LeCun, C. Cortes and C. Burges, The MNIST database, http://yann.lecun.com/exdb/mnist. N = images,
H, W = pixels, C = channels.
"""

import gzip
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from workers.data.importing.pixels import png
from workers.data.importing.plans import Found, Naming, Row, Rows, split_in, whole_numbers
from workers.supervision import DataError

_NAME = re.compile(r"(.*?)(images|labels)([.-]idx\d)?[.-]ubyte(\.gz)?")
_UBYTE = 8
"""The type in an idx file's magic number: unsigned bytes."""


def recognized(source: Path) -> bool:
    """Whether it is an idx file of images, or a folder with one."""
    if source.is_file():
        return _NAME.fullmatch(source.name) is not None
    return source.is_dir() and any(_NAME.fullmatch(file.name) for file in source.iterdir())


def find(source: Path, naming: Naming) -> Found:
    """The images of all pairs of files whose names differ by the split only; each is a split.

    source: a folder, or the file of images of one of several such data sets in it.
    Raises DataError for a file without its partner, of another length, or that is no idx file.
    """
    if naming != Naming():
        raise ValueError("idx files have no columns: leave --image and --label out")
    folder = source if source.is_dir() else source.parent
    # Extracting leaves the same file twice, with and without .gz: one is enough.
    names = {name.removesuffix(".gz"): name for name in sorted((each.name for each in folder.iterdir()), reverse=True)}
    pairs: dict[str, dict[str, dict[str, str]]] = {}
    for name in names.values():
        if match := _NAME.fullmatch(name):
            family = "-".join(word for word in match[1].strip("-._").split("-") if not split_in(word))
            pairs.setdefault(family, {}).setdefault(split_in(match[1]), {})[match[2]] = name
    if source.is_file():
        pairs = {
            family: splits
            for family, splits in pairs.items()
            if any(source.name in pair.values() for pair in splits.values())
        }
    if len(pairs) > 1:
        some = next(pair["images"] for splits in pairs.values() for pair in splits.values() if "images" in pair)
        raise DataError(
            f"{folder} holds several data sets ({', '.join(sorted(pairs))}): give one file, as {folder / some}"
        )
    [splits] = pairs.values()
    return Found({split: _rows(folder, pair) for split, pair in splits.items()})


def root_of(source: Path) -> Path:
    """What rows name files in."""
    return source if source.is_dir() else source.parent


def images(root: Path, rows: Iterable[Row], naming: Naming) -> Iterator[bytes]:
    """A PNG of each image. Raises DataError when a file ends early."""
    name, stream, shape, at = "", None, (0, 0, 1), 0
    try:
        for row in rows:
            if stream is None or row.file != name:
                if stream is not None:
                    stream.close()
                name, stream = row.file, _opened(root / row.file)
                shape, at = _image_shape(_header(stream, root / name), root / name), 0
            pixels = int(np.prod(shape))
            _skip(stream, (row.at - at) * pixels, root / name)
            yield png(np.frombuffer(_read(stream, pixels, root / name), np.uint8).reshape(shape))
            at = row.at + 1
    finally:
        if stream is not None:
            stream.close()


def _rows(folder: Path, pair: dict[str, str]) -> Any:
    for role in ("images", "labels"):
        if role not in pair:
            present = next(iter(pair.values()))
            raise DataError(f"{folder} has {present} and no file of {role} beside it: put it there")
    place = folder / pair["labels"]
    with _opened(place) as stream:
        (count, *more) = _header(stream, place)
        if more:
            raise DataError(f"{place} has {1 + len(more)} dimensions and not one: it holds no labels")
        label_N = whole_numbers(np.frombuffer(_read(stream, count, place), np.uint8), str(place))
    place = folder / pair["images"]
    with _opened(place) as stream:
        shape = _header(stream, place)
    if shape[0] != count:
        raise DataError(f"{place} has {shape[0]:,} images and {pair['labels']} {count:,} labels: download both again")
    rows = Rows()
    rows.add_array(pair["images"], label_N, int(np.prod(_image_shape(shape, place))))
    return rows.table()


def _opened(file: Path) -> IO[bytes]:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _header(stream: IO[bytes], file: Path) -> tuple[int, ...]:
    """Sizes of the dimensions."""
    zeros, kind, dimensions = struct.unpack(">HBB", _read(stream, 4, file))
    if zeros or kind != _UBYTE or not dimensions:
        raise DataError(
            f"{file} begins with {bytes([zeros >> 8, zeros & 255, kind, dimensions]).hex()} and not as an idx file of"
            " bytes does: download it again"
        )
    return struct.unpack(f">{dimensions}I", _read(stream, 4 * dimensions, file))


def _image_shape(shape: tuple[int, ...], file: Path) -> tuple[int, int, int]:
    if len(shape) == 3 and min(shape[1:]):
        return shape[1], shape[2], 1
    if len(shape) == 4 and shape[3] in (1, 3) and min(shape[1:]):
        return shape[1], shape[2], shape[3]
    raise DataError(f"{file} has the dimensions {shape}, and images have N,H,W or N,H,W,3: it holds none")


def _skip(stream: IO[bytes], size_bytes: int, file: Path) -> None:
    try:
        stream.seek(size_bytes, 1)  # gzip reads and drops what lies between
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read ({error}): download it again") from error


def _read(stream: IO[bytes], size_bytes: int, file: Path) -> bytes:
    try:
        data = stream.read(size_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read ({error}): download it again") from error
    if len(data) != size_bytes:
        raise DataError(f"{file} ends early: download it again")
    return data
