"""Reads the images of a run from a data set's Parquet file, checked against the run's digest, as uint8 tensors.

N = images of the subset, C = channels, H, W = pixels, B = images of a batch. Values become floats on the device, a
batch at a time.
"""

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from studies.datasets import DataSet, dataset
from studies.definitions import Data
from studies.permutation import permuted
from workers.supervision import DataError

_MODES = {1: ("L", "1"), 3: ("RGB", "L", "1", "P", "RGBA", "CMYK", "YCbCr")}
"""Modes of Pillow that can be shown in so many channels without a loss that changes the picture."""


@dataclass(frozen=True)
class Images:
    """The images of a subset, in its order, and their labels."""

    pixels: Tensor
    """uint8, (N, C, H, W)."""
    labels: Tensor
    """int64, (N,)."""


def images_of(data: Data, image_size: int) -> Images:
    """The images that a run's data names.

    Raises DataError when the file is missing or has other bytes, a column is missing, an image cannot be decoded, is
    not square, or has another size than `image_size` (nothing is resized), or a label is no class.
    """
    try:
        named = dataset(data.name)
    except ValueError as error:
        raise DataError(f"{error}: this worker's code does not know the data set of the run") from None
    return read(named, data, image_size)


def read(source: DataSet, data: Data, image_size: int) -> Images:
    """The same from a given data set. The decoded split stays in this process for the next run."""
    if source.fingerprint is None or data.fingerprint is None:
        raise DataError(f"{data.name} is a private set: there are no files to train on")
    if source.fingerprint != data.fingerprint:
        raise DataError(
            f"the run names {data.name} by the digest {data.fingerprint[:12]}, this worker's code by"
            f" {source.fingerprint[:12]}: submit the study again, or run it with the code that it was submitted with"
        )
    if data.split not in source.splits or data.rows > source.splits[data.split].rows:
        raise DataError(
            f"{data.name} has no split '{data.split}' of at least {data.rows:,} images: submit the study again"
        )
    split = source.splits[data.split]
    everything = _decoded(
        source.path, data.fingerprint, split.start, split.stop, image_size, data.channels, data.classes
    )
    places = np.arange(data.rows, dtype=np.int64)
    row_N = torch.from_numpy(permuted(places, split.rows, data.fingerprint, data.split))
    return Images(everything.pixels[row_N], everything.labels[row_N])


def normalized(image_BCHW: Tensor) -> Tensor:
    """uint8 values as float32 in [-1, 1], on the device where they are."""
    return image_BCHW.to(torch.float32).mul_(2 / 255).sub_(1)


# A worker stays warm across the runs of a study, most of which read the same three splits.
@lru_cache(maxsize=4)
def _decoded(
    path: Path, fingerprint: str, start: int, stop: int, image_size: int, channels: int, classes: int
) -> Images:
    """Rows [start, stop) of the file, in its order."""
    table = _checked_table(path, fingerprint)
    if stop > table.num_rows:
        raise DataError(
            f"{path} has {table.num_rows:,} rows, not the {stop:,} that its splits need: correct the splits"
        )
    table = table.slice(start, stop - start)
    label_N = np.empty(len(table), dtype=np.int64)
    image_NCHW = np.empty((len(table), channels, image_size, image_size), dtype=np.uint8)
    columns = zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)
    for index, (image, label) in enumerate(columns):
        where = f"{path}, row {start + index}"
        if not isinstance(label, int) or not 0 <= label < classes:
            raise DataError(
                f"{where}: the label {label!r} is none of the {classes} classes: correct the file or the data set"
            )
        label_N[index] = label
        image_NCHW[index] = _decoded_image(image, image_size, channels, where)
    return Images(torch.from_numpy(image_NCHW), torch.from_numpy(label_N))


def _checked_table(path: Path, fingerprint: str) -> pa.Table:
    """The columns `image` and `label` of a file that has this digest."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): put the data set's file there") from error
    with file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != fingerprint:
            raise DataError(
                f"{path} has the SHA-256 {digest[:12]}..., not {fingerprint[:12]}... as the run names it:"
                " put back the file that the study was written for"
            )
        file.seek(0)
        try:
            parquet = pq.ParquetFile(file)
            missing = {"image", "label"} - set(parquet.schema_arrow.names)
            if missing:
                raise DataError(
                    f"{path} has no column '{min(missing)}' among {', '.join(parquet.schema_arrow.names)}:"
                    " name the columns as the Hugging Face hub does, `image: struct<bytes, path>` and `label`"
                )
            return parquet.read(columns=["image", "label"])
        except pa.ArrowException as error:
            raise DataError(f"{path} is no readable Parquet file ({error}): write it again") from error


def _decoded_image(image: object, image_size: int, channels: int, where: str) -> np.ndarray:
    """One image as (C, H, W)."""
    encoded = image.get("bytes") if isinstance(image, dict) else None
    if not isinstance(encoded, bytes):
        raise DataError(f"{where}: the column `image` holds no bytes: write the images into the file, not their paths")
    if channels not in _MODES:
        raise DataError(
            f"{where}: images of {channels} channels cannot be read, only of {' or '.join(map(str, _MODES))}"
        )
    try:
        # Opening reads the header alone, so an image of a wrong size costs nothing, however large it claims to be.
        with Image.open(io.BytesIO(encoded)) as picture:
            width, height = picture.size
            if (width, height) != (image_size, image_size):
                raise DataError(
                    f"{where}: the image is {width} x {height} pixels, and the run needs {image_size} x {image_size};"
                    " nothing is resized here yet: write a file of images of that size"
                )
            if picture.mode not in _MODES[channels]:
                raise DataError(
                    f"{where}: an image of mode {picture.mode} has not {channels} channels: correct the data set"
                )
            pixels_HWC = np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(height, width, channels)
    # Pillow raises SyntaxError for some broken PNG files.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: the image cannot be decoded ({error}): correct the file") from error
    return np.moveaxis(pixels_HWC, -1, 0)
