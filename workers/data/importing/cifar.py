"""Finds and reads CIFAR-10 and CIFAR-100 in their binary and Python forms, unpacked or as the .tar.gz of the authors.

The forms: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html. The Python form is pickled: only what these files
hold is admitted, so that nothing in them can run. N = images, H, W = pixels, C = channels.
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.importing.pixels import png
from workers.data.importing.plans import Found, Naming, Row, Rows, whole_numbers
from workers.supervision import DataError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
Files = dict[str, tuple[str, ...]]
"""Of each split."""
_MOST_BYTES = 512 * 1024**2
"""Of one file of an archive; the largest in them has 153 MB."""
_TEN: Files = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
_HUNDRED: Files = {"train": ("train",), "test": ("test",)}


@dataclass(frozen=True)
class _Form:
    """One of the four forms."""

    files: Files
    pickled: bool
    labels: dict[str, tuple[str, int]]
    """For each kind of label the file or key of the class names, and the place in a record; the first is usual."""
    names_file: str = ""
    """Where a pickled form has the class names."""
    label_bytes: int = 1


def _binary(files: Files) -> Files:
    return {split: tuple(f"{name}.bin" for name in names) for split, names in files.items()}


FORMS = (
    _Form(_TEN, True, {"labels": ("label_names", 0)}, "batches.meta"),
    _Form(_binary(_TEN), False, {"labels": ("batches.meta.txt", 0)}),
    _Form(
        _HUNDRED,
        True,
        {"fine_labels": ("fine_label_names", 0), "coarse_labels": ("coarse_label_names", 0)},
        "meta",
    ),
    _Form(
        _binary(_HUNDRED),
        False,
        {"fine_labels": ("fine_label_names.txt", 1), "coarse_labels": ("coarse_label_names.txt", 0)},
        label_bytes=2,
    ),
)


def recognized(source: Path) -> bool:
    """Whether it is a folder, or an archive, with the files of one of the forms."""
    if source.is_file() and not source.name.endswith((".tar.gz", ".tgz")):
        return False
    return source.exists() and _form(_names(source)) is not None


def find(source: Path, naming: Naming) -> Found:
    """The splits train and test.

    naming.label: `coarse_labels` for the 20 classes of CIFAR-100, instead of `fine_labels`.
    Raises DataError for a file that is missing, cut off, or holds what these files do not.
    """
    form = _form(_names(source))
    if form is None:
        raise DataError(
            f"{source} has not the files of CIFAR-10 or CIFAR-100: give the folder with data_batch_1 or train"
        )
    kind = naming.label or next(iter(form.labels))
    if naming.image is not None or kind not in form.labels:
        raise ValueError(f"{source} has the labels {', '.join(form.labels)}: choose with --label")
    needed = [name for files in form.files.values() for name in files]
    names_of, _ = form.labels[kind]
    found = _contents(source, [*needed, form.names_file or names_of])
    if form.pickled:
        class_names = _text(_unpickled(found[form.names_file], form.names_file).get(names_of.encode()), form.names_file)
    else:
        class_names = tuple(found[names_of].decode().split())
    splits = {}
    for split, files in form.files.items():
        rows = Rows()
        for name in files:
            _, label_N = _decoded(found[name], name, form, kind)
            if len(label_N) and label_N.max() >= len(class_names):
                raise DataError(
                    f"{name} has the label {label_N.max()}, and there are {len(class_names)} classes: download it again"
                )
            rows.add_array(name, label_N, PIXELS)
        splits[split] = rows.table()
    return Found(splits, class_names)


def root_of(source: Path) -> Path:
    """What rows name files in: an archive stays packed."""
    return source


def images(root: Path, rows: Iterable[Row], naming: Naming) -> Iterator[bytes]:
    """A PNG of each image. Raises DataError as `find` does."""
    form = _form(_names(root))
    assert form is not None
    name, image_NHWC = "", np.empty(0, np.uint8)
    for row in rows:
        if row.file != name:
            name = row.file
            pixel_ND, _ = _decoded(_contents(root, [name])[name], name, form, next(iter(form.labels)))
            image_NHWC = np.ascontiguousarray(pixel_ND.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
        yield png(image_NHWC[row.at])


def _form(names: Iterable[str]) -> _Form | None:
    present = set(names)
    return next((form for form in FORMS if set().union(*form.files.values(), _naming_files(form)) <= present), None)


def _naming_files(form: _Form) -> set[str]:
    return {form.names_file} if form.pickled else {name for name, _ in form.labels.values()}


# ------------------------------------------------------------------------------------------------------------- files


def _inner(source: Path) -> Path:
    """The folder that the archive unpacks to, where its place is given instead."""
    inner = [folder for folder in source.iterdir() if folder.is_dir() and folder.name.startswith("cifar-")]
    return inner[0] if len(inner) == 1 else source


def _names(source: Path) -> list[str]:
    if source.is_dir():
        return [file.name for file in _inner(source).iterdir() if file.is_file()]
    try:
        with tarfile.open(source) as archive:
            return [member.name.rpartition("/")[2] for member in archive if member.isfile()]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source} is no readable archive ({error}): download it again") from error


def _contents(source: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Whole files, from a folder, the folder in it, or an archive. Nothing is unpacked to disk."""
    try:
        if source.is_dir():
            return {name: (_inner(source) / name).read_bytes() for name in names}
        found = {}
        with tarfile.open(source) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in names and member.isfile():
                    if member.size > _MOST_BYTES:
                        raise DataError(
                            f"{source} has a {name} of {member.size:,} bytes, as no CIFAR has: download it again"
                        )
                    stream = archive.extractfile(member)
                    assert stream is not None
                    found[name] = stream.read()
        return found
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source} cannot be read ({error}): download it again") from error


def _decoded(data: bytes, name: str, form: _Form, kind: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (N, 3072), red first, and labels (N,)."""
    if form.pickled:
        batch = _unpickled(data, name)
        pixels, labels = batch.get(b"data"), batch.get(kind.encode())
        if (
            not isinstance(pixels, np.ndarray)
            or pixels.dtype != np.uint8
            or pixels.ndim != 2
            or pixels.shape[1] != PIXELS
            or not isinstance(labels, list)
            or len(labels) != len(pixels)
        ):
            raise DataError(f"{name} holds no images and labels of CIFAR: download it again")
        return pixels, whole_numbers(np.array(labels), name)
    record = form.label_bytes + PIXELS
    if not data or len(data) % record:
        raise DataError(f"{name} has {len(data):,} bytes, which is no multiple of {record:,}: download it again")
    byte_NR = np.frombuffer(data, np.uint8).reshape(-1, record)
    return byte_NR[:, form.label_bytes :], byte_NR[:, form.labels[kind][1]].astype(np.int64)


# ------------------------------------------------------------------------------------------------------------ pickles


def _unpickled(data: bytes, name: str) -> dict[Any, Any]:
    try:
        found = _Careful(io.BytesIO(data), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{name} {error}") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{name} cannot be unpickled ({error}): download it again") from error
    if not isinstance(found, dict):
        raise DataError(f"{name} holds no dictionary, as files of CIFAR do: download it again")
    # Python 2 wrote byte strings, and who wrote the files anew with Python 3 may have text.
    return {key.encode() if isinstance(key, str) else key: value for key, value in found.items()}


def _number_kind(code: Any, *_: Any) -> Any:
    """The dtype of bytes or whole numbers: the others may hold objects."""
    text = code.decode() if isinstance(code, bytes) else code
    if text not in ("u1", "i8", "i4"):
        raise DataError(f"holds an array of {text!r}, and CIFAR has bytes: download it again")
    return np.dtype(text)


def _latin_bytes(text: str, encoding: str) -> bytes:
    """How protocol 2 of Python 3 writes bytes."""
    return text.encode("latin1")


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    """How protocol 5 writes arrays."""
    return np.frombuffer(data, kind).reshape(shape, order=order)


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _number_kind,
    ("_codecs", "encode"): _latin_bytes,
}


class _Careful(pickle.Unpickler):
    """Admits arrays of numbers and what Python has built in; anything else that a pickle names is refused."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise DataError(f"names {module}.{name}, which CIFAR does not and could run code: do not use it") from None


def _text(names: Any, file: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise DataError(f"{file} holds no class names: download it again")
    return tuple(name.decode() if isinstance(name, bytes) else name for name in names)
