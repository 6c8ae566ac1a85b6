"""Named tensors out of published files, `.npz` or safetensors, as float32 on the CPU; nothing in a file is ever run."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.published.conventions import FormatError


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by its own names, in float32, and what a safetensors file says about itself.

    Raises FormatError when it is not a whole file of numbers, OSError as it comes.
    """
    if path.is_dir():
        raise FormatError(f"{path} is a folder; give a file, .npz or .safetensors")
    with path.open("rb") as file:
        begin = file.read(10)
    if not begin:
        raise FormatError(f"{path} is empty")
    if begin.startswith(b"PK"):
        return _read_npz(path), {}
    if begin[8:9] == b"{":  # after the header's length in eight bytes
        return _read_safetensors(path)
    cure = "it is a single array of NumPy" if begin.startswith(b"\x93NUMPY") else "it may be cut off, or a pickle"
    raise FormatError(f"{path} is neither .npz nor safetensors: {cure}")


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        # NumPy leaves a file open that it opened and cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: _from_numpy(name, archive[name]) for name in archive.files}
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise FormatError(f"{path} is not a whole .npz file ({error})") from error
    except ValueError as error:  # NumPy on an array of objects, which only a pickle could hold, and on a broken header
        raise FormatError(f"{path} holds something that is no array of numbers ({error})") from error


def _from_numpy(name: str, array: np.ndarray) -> Tensor:
    if array.dtype == np.dtype("V2"):  # how NumPy, which has no bfloat16, keeps it
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float()
    if not np.issubdtype(array.dtype, np.floating):
        raise FormatError(f"{name} has the type {array.dtype}; weights are floating-point numbers")
    # A copy: in memory as ours and writable, whatever the byte order and strides of the file.
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
            facts = file.metadata() or {}
    except SafetensorError as error:
        raise FormatError(f"{path} is not a whole safetensors file ({error})") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise FormatError(f"{path}: {name} has the type {kind}; weights are floating-point numbers")
    return {name: tensor.float() for name, tensor in tensors.items()}, facts
