"""Devices: their names, their numerics class, and what is set before torch is there."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from workers.devices import Device


def test_the_cpu_is_named_with_its_numerics_class() -> None:
    device = Device.named("cpu", threads=2)
    assert device.kind == "cpu"
    version = torch.__version__.split("+")[0]
    kind, instructions, threads, *_, built, images = device.numerics.split()
    assert (kind, threads, built) == ("cpu", "threads=2", f"torch={version}")
    assert re.fullmatch(r"images=[\d.]+\+[\d.]+\+[\d.]+", images)
    assert torch.backends.cpu.get_cpu_capability().lower() in instructions.split("+")
    assert device.numerics != Device.named("cpu").numerics


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_auto_is_the_cpu_where_there_is_no_gpu_and_asking_for_one_says_so() -> None:
    assert Device.named("auto") == Device.named("cpu")
    with pytest.raises(ValueError, match="this machine has no GPU"):
        Device.named("cuda")


def test_an_unknown_device_and_no_threads_are_errors() -> None:
    with pytest.raises(ValueError, match="'gpu' is no device; valid: cpu, cuda, xla, auto"):
        Device.named("gpu")
    with pytest.raises(ValueError, match="0 threads"):
        Device.named("cpu", threads=0)


def test_threads_are_set_in_the_thread_that_computes() -> None:
    seen = {}

    def compute(threads: int) -> None:
        Device.named("cpu", threads=threads).use()
        seen[threads] = torch.get_num_threads()

    for threads in (1, 2):
        thread = threading.Thread(target=compute, args=(threads,))
        thread.start()
        thread.join()
    assert seen == {1: 1, 2: 2}


def test_bf16_casts_products_and_fp32_does_not() -> None:
    device = Device.named("cpu")
    x = device.place(torch.ones(2, 2))
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with device.autocast(precision):  # type: ignore[arg-type]
            assert (x @ x).dtype == dtype
    device.wait()


def test_the_metadata_server_of_tpus_is_skipped_before_torch_is_imported() -> None:
    program = (
        "import os, sys, workers.supervision as s;"
        "print(os.environ['TPU_SKIP_MDS_QUERY'], 'ray' in sys.modules, 'sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False", "False"]


def test_xla_without_torch_xla_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match=re.escape("pip install 'vitscale[xla]'")):
        Device.named("xla")


def test_both_environments_pin_the_same_versions_but_of_torch_and_what_comes_with_it() -> None:
    here, xla = (_pins(name) for name in ("constraints.txt", "constraints-xla.txt"))
    differing = {name for name in here.keys() & xla.keys() if here[name] != xla[name]}
    assert differing <= {"torch", "torchvision"}
    assert xla["torch"].startswith("2.9.")


def _pins(file: str) -> dict[str, str]:
    lines = (Path(__file__).parents[1] / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
