"""Writes small image sets in the formats that others use, as the programs of their authors do."""

import gzip
import io
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def pixels(images: int, side: int = 32, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Noise, (N, H, W, C)."""
    return np.random.default_rng(seed).integers(0, 256, (images, side, side, channels), dtype=np.uint8)


def jpeg(seed: int, height: int = 24, width: int = 32) -> bytes:
    """A picture that differs from seed to seed."""
    image_HWC = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    encoded: bytes = simplejpeg.encode_jpeg(image_HWC.repeat(8, axis=0).repeat(8, axis=1), quality=90)
    return encoded


def shown(encoded: bytes) -> NDArray[np.uint8]:
    """Pixels of a PNG, (H, W, C)."""
    image_HWC = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image_HWC is not None
    pixels_HWC = image_HWC[..., None] if image_HWC.ndim == 2 else image_HWC[..., ::-1]
    return np.asarray(pixels_HWC, dtype=np.uint8)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files below a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


# -------------------------------------------------------------------------------------------------------------- CIFAR


def write_cifar_10_binary(folder: Path, image_NHWC: NDArray[np.uint8], label_N: NDArray[np.int64]) -> None:
    """The rows in order, a sixth of them in each of five batches and the test batch."""
    write_files(folder, {"batches.meta.txt": ("\n".join(CIFAR_10) + "\n\n").encode()})
    for name, part in _six(len(label_N)):
        write_files(folder, {f"{name}.bin": _records(image_NHWC[part], label_N[part, None])})


def write_cifar_100_binary(folder: Path, image_NHWC: NDArray[np.uint8], label_N2: NDArray[np.int64]) -> None:
    """Labels coarse and fine; the first half is the train split."""
    half = len(label_N2) // 2
    write_files(
        folder,
        {
            "coarse_label_names.txt": _lines(f"coarse {number}".replace(" ", "_") for number in range(20)),
            "fine_label_names.txt": _lines(f"fine_{number}" for number in range(100)),
            "train.bin": _records(image_NHWC[:half], label_N2[:half]),
            "test.bin": _records(image_NHWC[half:], label_N2[half:]),
        },
    )


def write_cifar_10_python(folder: Path, image_NHWC: NDArray[np.uint8], label_N: NDArray[np.int64]) -> None:
    """As Python 2 pickled them."""
    names = [name.encode() for name in CIFAR_10]
    meta = {b"num_cases_per_batch": 10000, b"label_names": names, b"num_vis": 3072}
    write_files(folder, {"batches.meta": python_2_pickle(meta)})
    for name, part in _six(len(label_N)):
        batch = {
            b"batch_label": b"training batch",
            b"labels": label_N[part].tolist(),
            b"data": planes(image_NHWC[part]),
            b"filenames": [b"image_s_%06d.png" % number for number in range(len(label_N))][part],
        }
        write_files(folder, {name: python_2_pickle(batch)})


def write_cifar_100_python(folder: Path, image_NHWC: NDArray[np.uint8], label_N2: NDArray[np.int64]) -> None:
    """As Python 2 pickled them; labels coarse and fine; the first half is the train split."""
    half = len(label_N2) // 2
    meta = {
        b"fine_label_names": [b"fine_%d" % number for number in range(100)],
        b"coarse_label_names": [b"coarse_%d" % number for number in range(20)],
    }
    write_files(folder, {"meta": python_2_pickle(meta)})
    for name, part in (("train", slice(0, half)), ("test", slice(half, None))):
        batch = {
            b"data": planes(image_NHWC[part]),
            b"coarse_labels": label_N2[part, 0].tolist(),
            b"fine_labels": label_N2[part, 1].tolist(),
        }
        write_files(folder, {name: python_2_pickle(batch)})


def packed(folder: Path, archive: Path, inside: str) -> None:
    """The folder as a .tar.gz, as its authors offer it."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, inside)


def planes(image_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """All red values of an image, then all green, then all blue: (N, 3 * H * W)."""
    return image_NHWC.transpose(0, 3, 1, 2).reshape(len(image_NHWC), -1)


def python_2_pickle(value: object) -> bytes:
    """A pickle of protocol 2 as Python 2 and NumPy 1 wrote it, with strings that are bytes."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: object) -> bytes:
    match value:
        case int():
            return b"J" + struct.pack("<i", value)
        case bytes():
            return (
                b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
            )
        case list():
            return b"](" + b"".join(map(_pickled, value)) + b"e"
        case dict():
            return b"}(" + b"".join(_pickled(key) + _pickled(each) for key, each in value.items()) + b"u"
        case np.ndarray():
            new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            shape = b"".join(map(_pickled, value.shape)) + {1: b"\x85", 2: b"\x86"}[value.ndim]
            return new + b"(K\x01" + shape + kind + b"\x89" + _pickled(value.tobytes()) + b"tb"
    raise TypeError(type(value))


def _six(rows: int) -> list[tuple[str, slice]]:
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    each = rows // 6
    return [(name, slice(number * each, (number + 1) * each)) for number, name in enumerate(names)]


def _records(image_NHWC: NDArray[np.uint8], label_NL: NDArray[np.int64]) -> bytes:
    return np.concatenate([label_NL.astype(np.uint8), planes(image_NHWC)], axis=1).tobytes()


def _lines(lines: object) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------------------- idx


def idx(values: NDArray[np.uint8]) -> bytes:
    """An idx file of unsigned bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_mnist(folder: Path, image_NHW: NDArray[np.uint8], label_N: NDArray[np.uint8], *, compressed: bool) -> None:
    """The first half as the train split, the rest as `t10k`."""
    half = len(label_N) // 2
    for split, part in (("train", slice(0, half)), ("t10k", slice(half, None))):
        for name, values in ((f"{split}-images-idx3-ubyte", image_NHW), (f"{split}-labels-idx1-ubyte", label_N)):
            data = idx(values[part])
            write_files(folder, {f"{name}.gz": gzip.compress(data)} if compressed else {name: data})


# --------------------------------------------------------------------------------------------------------- WebDataset


def tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar with such members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()
