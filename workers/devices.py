"""Where tensors live and how steps are timed and cast there: the only file that knows one accelerator from another."""

import functools
import os
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Device:
    """One device that a run computes on, together with the number of CPU threads that it was granted."""

    torch: torch.device
    threads: int = 1

    @staticmethod
    def named(name: str, threads: int = 1) -> "Device":
        """The device called `cpu` or `cuda`; `auto` is the GPU where there is one, else the CPU.

        Raises ValueError for another name, for a GPU that is not there, and for fewer than one thread.
        """
        if threads < 1:
            raise ValueError(f"{threads} threads cannot compute; give at least 1")
        if name not in ("cpu", "cuda", "auto"):
            raise ValueError(f"'{name}' is no device; valid: cpu, cuda, auto")
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        has_gpu = accelerator is not None and accelerator.type == "cuda"
        if name == "cuda" and not has_gpu:
            raise ValueError(
                f"this machine has no GPU that torch {torch.__version__} can use; name the device cpu or auto"
            )
        return Device(torch.device("cuda", 0) if has_gpu and name != "cpu" else torch.device("cpu"), threads)

    @property
    def kind(self) -> str:
        """What the device is, for people: `cpu`, or the name of the GPU."""
        return "cpu" if self.torch.type == "cpu" else torch.cuda.get_device_name(self.torch)

    @property
    def numerics(self) -> str:
        """The numerics class: on places with equal text, equal work gives equal bits."""
        version = torch.__version__.split("+")[0]
        if self.torch.type == "cpu":
            return f"cpu {_instruction_set()} threads={self.threads} torch={version}"
        # CPU threads do no arithmetic there.
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        return f"cuda {self.kind} cuda={torch.version.cuda} cudnn={cudnn} torch={version}"

    def use(self) -> None:
        """Prepare the calling thread, before its first work on this device.

        OpenMP keeps its number of threads per thread of the program: call this in the thread that computes.
        """
        torch.set_num_threads(self.threads)
        if self.torch.type != "cpu":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
            torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]  # a run's `fp32` means float32, not TF32
            torch.accelerator.set_device_index(self.torch.index or 0)

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on this device; itself when it is there already."""
        return tensor.to(self.torch)

    def autocast(self, precision: Literal["fp32", "bf16"]) -> AbstractContextManager[object]:
        """A context in which products are computed in this precision, from float32 parameters."""
        return nullcontext() if precision == "fp32" else torch.autocast(self.torch.type, dtype=torch.bfloat16)

    def wait(self) -> None:
        """Return when all work that was handed to the device is done."""
        if self.torch.type != "cpu":
            torch.accelerator.synchronize(self.torch)


@functools.cache
def _instruction_set() -> str:
    """What decides which kernels the CPU's libraries choose: the maker, the vector width, and units for products.

    MKL takes other paths on one maker's processors than on another's of the same instruction set.
    """
    capability = torch.backends.cpu.get_cpu_capability().lower()
    try:
        facts = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return capability
    maker = re.search(r"^vendor_id\s*:\s*(\S+)", facts, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", facts, re.MULTILINE)
    units = {"avx512_bf16", "avx512_vnni", "amx_bf16"} & set(flags[1].split() if flags else ())
    return "+".join([*([maker[1]] if maker else []), capability, *sorted(units)])
