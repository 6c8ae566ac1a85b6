"""Finds and reads images that lie as pixels in NumPy's .npz and .npy files. Nothing pickled is ever loaded.

N = images, H, W = pixels, C = channels.
"""

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from workers.data.importing.pixels import png
from workers.data.importing.plans import Found, Naming, Row, Rows, natural, split_in, whole_numbers
from workers.supervision import DataError

IMAGE_WORDS = frozenset(("x", "image", "images", "img", "imgs", "data"))
LABEL_WORDS = frozenset(("y", "label", "labels", "target", "targets"))
_WITHIN = "::"
"""Between a .npz file and the array in it."""
_IMAGES_AT_ONCE = 64


def recognized(source: Path) -> bool:
    """Whether it is a .npz file, or a folder with .npz or .npy files."""
    if source.is_file():
        return source.suffix == ".npz"
    return source.is_dir() and any(file.suffix in (".npz", ".npy") for file in source.iterdir())


def find(source: Path, naming: Naming) -> Found:
    """The images of all pairs of arrays; a pair for each split that names of arrays or files speak of.

    By convention x_train and y_train, train_images and train_labels, images and labels, or x and y; by `naming` arrays
    that are called so.
    Raises DataError for an array without its partner or of another length, and for pixels that are not 0..255.
    """
    folder = root_of(source)
    files = [source] if source.is_file() else sorted(folder.iterdir(), key=lambda file: natural(file.name))
    pairs: dict[str, dict[str, str]] = {}
    for file in (file for file in files if file.suffix in (".npz", ".npy")):
        for place, name in _arrays_of(file):
            role = _role(name, naming)
            if role is None:
                continue
            pair = pairs.setdefault(split_in(name) or split_in(file.stem), {})
            if role in pair:
                raise DataError(
                    f"{source}: {pair[role]} and {place} may both be the {role} of a split: name arrays with --image"
                    " and --label"
                )
            pair[role] = place
    if not pairs:
        raise DataError(f"{source} has no arrays called images and labels or alike: name them with --image and --label")
    return Found({split: _rows(folder, pair) for split, pair in pairs.items()})


def root_of(source: Path) -> Path:
    """What rows name files in."""
    return source if source.is_dir() else source.parent


def images(root: Path, rows: Iterable[Row], naming: Naming) -> Iterator[bytes]:
    """A PNG of each image. Raises DataError when an array ends early, or a pixel is not 0..255."""
    name: str | None = None
    pixels: Iterator[NDArray[np.uint8]] = iter(())
    at = 0
    for row in rows:
        if row.file != name:
            name, at = row.file, row.at
            pixels = _pixels(_Array.opened(root, name), at)
        while at <= row.at:
            image_HWC = next(pixels)
            at += 1
        yield png(image_HWC)


@dataclass
class _Array:
    """An array in a file, read from its start on."""

    where: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    kind: Any
    fortran: bool

    @classmethod
    def opened(cls, root: Path, place: str) -> "_Array":
        name, _, within = place.partition(_WITHIN)
        where = f"{root / name}" + (f" ({within})" if within else "")
        try:
            stream = _opened(root / name, within)
            version = npy.read_magic(stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, kind = read(stream)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{where} cannot be read ({error}): write it again") from error
        if kind.hasobject:
            raise DataError(f"{where} holds Python objects, which could run code when loaded: save numbers")
        return cls(where, stream, shape, kind, fortran)

    def items(self, first: int, count: int) -> NDArray[Any]:
        """The next `count` of the first dimension, after leaving out `first`. Raises DataError when the file ends."""
        if self.fortran and len(self.shape) > 1:  # its order is that of the last dimension: all of it is needed
            whole = self._read(int(np.prod(self.shape))).reshape(self.shape[::-1]).T
            return whole[first : first + count]
        each = int(np.prod(self.shape[1:]))
        try:
            self.stream.seek(first * each * self.kind.itemsize, 1)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise DataError(f"{self.where} cannot be read ({error}): write it again") from error
        return self._read(count * each).reshape(count, *self.shape[1:])

    def _read(self, numbers: int) -> NDArray[Any]:
        try:
            data = self.stream.read(numbers * self.kind.itemsize)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise DataError(f"{self.where} cannot be read ({error}): write it again") from error
        if len(data) != numbers * self.kind.itemsize:
            raise DataError(f"{self.where} ends early: write it again")
        return np.frombuffer(data, self.kind)


def _opened(file: Path, within: str) -> IO[bytes]:
    if not within:
        return file.open("rb")
    with zipfile.ZipFile(file) as members:  # what is opened from it keeps the file open
        return members.open(f"{within}.npy")


def _pixels(array: _Array, first: int) -> Iterator[NDArray[np.uint8]]:
    """Images (H, W, C) from one on."""
    with closing(array.stream):
        channels_first = _layout(array)[1]
        count = array.shape[0]
        if array.fortran:
            stretches: Iterable[NDArray[Any]] = [array.items(first, count - first)]
        else:
            array.items(first, 0)
            stretches = (
                array.items(0, min(_IMAGES_AT_ONCE, count - start)) for start in range(first, count, _IMAGES_AT_ONCE)
            )
        at = first
        for stretch in stretches:
            pixel_BHWC = stretch[..., None] if stretch.ndim == 3 else stretch
            if channels_first:
                pixel_BHWC = pixel_BHWC.transpose(0, 2, 3, 1)
            if pixel_BHWC.dtype != np.uint8:
                outside = (pixel_BHWC < 0) | (pixel_BHWC > 255)
                if outside.any():
                    row = at + int(np.argmax(outside.any(axis=(1, 2, 3))))
                    raise DataError(f"{array.where}: image {row} has pixels outside of 0..255: scale them to uint8")
            yield from np.ascontiguousarray(pixel_BHWC.astype(np.uint8))
            at += len(stretch)


def _layout(array: _Array) -> tuple[tuple[int, int, int], bool]:
    """Height, width and channels; and whether channels come before the pixels. Raises DataError for other shapes."""
    if array.kind.kind not in "iu":
        raise DataError(f"{array.where} holds {array.kind} and not pixels of 0..255: convert it to uint8")
    shape = array.shape
    if len(shape) == 3 and min(shape[1:]):
        return (shape[1], shape[2], 1), False
    if len(shape) == 4 and min(shape[1:]):
        if shape[3] in (1, 3):
            return (shape[1], shape[2], shape[3]), False
        if shape[1] in (1, 3):
            return (shape[2], shape[3], shape[1]), True
    raise DataError(f"{array.where} has the shape {shape}, and images have N,H,W or N,H,W,3 or N,3,H,W: reshape it")


def _rows(folder: Path, pair: dict[str, str]) -> Any:
    for role, other in (("images", "labels"), ("labels", "images")):
        if role not in pair:
            raise DataError(f"{folder / pair[other]} has no {role} beside it: name both with --image and --label")
    array, label = _Array.opened(folder, pair["images"]), _Array.opened(folder, pair["labels"])
    with closing(array.stream), closing(label.stream):
        shape, _ = _layout(array)
        label_N = whole_numbers(label.items(0, label.shape[0] if label.shape else 0), label.where)
        if len(label_N) != array.shape[0]:
            raise DataError(f"{array.where} has {array.shape[0]:,} images and {len(label_N):,} labels: mend the arrays")
    rows = Rows()
    rows.add_array(pair["images"], label_N, int(np.prod(shape)))
    return rows.table()


def _arrays_of(file: Path) -> Iterator[tuple[str, str]]:
    """Place and name of each array in a file."""
    if file.suffix == ".npy":
        yield file.name, file.stem
        return
    try:
        with zipfile.ZipFile(file) as members:
            names = [name.removesuffix(".npy") for name in members.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} is no readable .npz file ({error}): write it again") from error
    for name in names:
        yield f"{file.name}{_WITHIN}{name}", name


def _role(name: str, naming: Naming) -> str | None:
    if naming.image is not None or naming.label is not None:
        return {naming.image: "images", naming.label: "labels"}.get(name)
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if words & LABEL_WORDS:
        return "labels"
    return "images" if words & IMAGE_WORDS else None
