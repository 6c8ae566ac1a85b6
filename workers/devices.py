"""Where tensors live and how steps are timed and cast there: the only file that knows one accelerator from another."""

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from workers.kernels import processor, rules

NAMES = ("cpu", "cuda", "xla", "auto")
"""What `Device.named` takes."""

_GOOGLE = "0x1ae0"
_TPUS = ("0x0027", "0x005e", "0x0063", "0x006f", "0x0076")
"""PCI devices of Google that are TPUs: v2 and v3, v4, v5e, v6e, 7x (as torch_xla lists them)."""


@dataclass(frozen=True)
class Device:
    """One device that a run computes on, together with the number of CPU threads that it was granted."""

    torch: torch.device
    threads: int = 1

    @staticmethod
    def named(name: str, threads: int = 1) -> "Device":
        """The device called `cpu`, `cuda` or `xla`; `auto` is the TPU or else the GPU where there is one, else the CPU.

        `xla` is what torch_xla finds: a TPU, or with PJRT_DEVICE=CPU this machine's processor.
        Raises ValueError for another name, for a GPU or a torch_xla that is not there, and for fewer than one thread.
        """
        if threads < 1:
            raise ValueError(f"{threads} threads cannot compute; give at least 1")
        if name not in NAMES:
            raise ValueError(f"'{name}' is no device; valid: {', '.join(NAMES)}")
        if name == "auto":
            name = "xla" if _has_tpu() else "cuda" if _has_gpu() else "cpu"
        if name == "cuda" and not _has_gpu():
            raise ValueError(
                f"this machine has no GPU that torch {torch.__version__} can use; name the device cpu or auto"
            )
        if name == "xla":
            return Device(_torch_xla().device(), threads)
        return Device(torch.device("cuda", 0) if name == "cuda" else torch.device("cpu"), threads)

    @property
    def kind(self) -> str:
        """What the device is, for people: `cpu`, the name of the GPU, or `xla` and what is behind it."""
        match self.torch.type:
            case "cpu":
                return "cpu"
            case "xla":
                return f"xla {_torch_xla().core.xla_model.xla_device_kind(self.torch)}"
            case _:
                return torch.cuda.get_device_name(self.torch)

    @property
    def numerics(self) -> str:
        """The numerics class: on places with equal text, equal work gives equal bits."""
        # Pixels come from the libraries that decode and resize images.
        decoders = "+".join(map(_version_of, ("simplejpeg", "opencv-python-headless", "pillow")))
        built = f"torch={_version_of('torch')} images={decoders}"
        match self.torch.type:
            case "cpu":
                return f"cpu {_instruction_set()} threads={self.threads} {rules.describe('cpu')} {built}"
            case "xla" if "CPU" in self.kind.upper():
                # XLA divides work among all cores, whatever was granted, and compiles for the processor it is on.
                return f"{self.kind} {_instruction_set()} cores={os.cpu_count()} xla={_version_of('torch-xla')} {built}"
            case "xla":
                return f"{self.kind} libtpu={_version_of('libtpu')} xla={_version_of('torch-xla')} {built}"
            case _:
                # CPU threads do no arithmetic there.
                cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
                return f"cuda {self.kind} cuda={torch.version.cuda} cudnn={cudnn} {built}"

    @property
    def compiles(self) -> bool:
        """Whether operations are only recorded, and run as one compiled program at each `end_step`.

        A number of the host that changes from step to step must come as a tensor there: in a program it is a constant.
        """
        return self.torch.type == "xla"

    def use(self) -> None:
        """Prepare the calling thread, before its first work on this device.

        OpenMP keeps its number of threads per thread of the program: call this in the thread that computes.
        """
        torch.set_num_threads(self.threads)
        match self.torch.type:
            case "cuda":
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
                torch.use_deterministic_algorithms(True)
                torch.backends.cudnn.benchmark = False
                torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]  # `fp32` means float32, not TF32
                torch.accelerator.set_device_index(self.torch.index or 0)
            case "xla":
                # `fp32` means float32 here too: a TPU would round the factors of its products to bf16.
                backends = _torch_xla().backends
                if backends.get_mat_mul_precision() != "highest":  # to set it again would log a warning
                    backends.set_mat_mul_precision("highest")

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on this device; itself when it is there already. Waits for no work that the device has to do."""
        return tensor.to(self.torch, non_blocking=self.torch.type != "cpu")

    def seed(self, seed: int) -> None:
        """Begin the random numbers of this device anew, for a seed of at most 63 bits."""
        torch.manual_seed(seed)
        if self.torch.type == "xla":
            _torch_xla().manual_seed(seed, self.torch)

    def autocast(self, precision: Literal["fp32", "bf16"]) -> AbstractContextManager[object]:
        """A context in which products are computed in this precision, from float32 parameters."""
        return nullcontext() if precision == "fp32" else torch.autocast(self.torch.type, dtype=torch.bfloat16)

    def end_step(self) -> None:
        """Begin to run what was recorded since the last call, as one program. Nothing where nothing is recorded."""
        if self.compiles:
            _torch_xla().sync()

    def wait(self) -> None:
        """Return when all work that was handed to the device is done."""
        match self.torch.type:
            case "cpu":
                pass
            case "xla":
                _torch_xla().sync(wait=True)
            case _:
                torch.accelerator.synchronize(self.torch)


def _has_gpu() -> bool:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator is not None and accelerator.type == "cuda"


def _has_tpu() -> bool:
    """Whether there is a TPU and what it takes to use it. Asks the PCI bus: to import torch_xla takes seconds."""
    if find_spec("torch_xla") is None or find_spec("libtpu") is None:
        return False
    for vendor in Path("/sys/bus/pci/devices").glob("*/vendor"):
        if vendor.read_text().strip() == _GOOGLE and vendor.with_name("device").read_text().strip() in _TPUS:
            return True
    return False


@functools.cache
def _torch_xla() -> Any:
    """The module, which takes seconds to import. Raises ValueError where it is not installed."""
    if find_spec("torch_xla") is None:
        raise ValueError("the device xla needs torch_xla, in an environment of its own: pip install 'vitscale[xla]'")
    import torch_xla
    import torch_xla.backends
    import torch_xla.core.xla_model

    return torch_xla


def _version_of(package: str) -> str:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return "none"


@functools.cache
def _instruction_set() -> str:
    """What decides which kernels the CPU's libraries choose: the maker, the vector width, and units for products.

    MKL takes other paths on one maker's processors than on another's of the same instruction set.
    """
    capability = torch.backends.cpu.get_cpu_capability().lower()
    units = {"avx512_bf16", "avx512_vnni", "amx_bf16"} & set((processor.fact("flags") or "").split())
    return "+".join(filter(None, [processor.maker(), capability, *sorted(units)]))
