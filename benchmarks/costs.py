"""How long a model's price takes from its shape alone, beside asking torch: build it without memory and count.

python -m benchmarks.costs
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.databases import print_table
from studies.architectures import named
from studies.cost import forward_flops, parameters
from studies.memory import training_memory
from studies.models import AnyModel, MaskedPatch, ViT
from workers.models.build import blueprint
from workers.models.masked import Corruption, MaskedPatchNetwork

SIZE, CHANNELS, CLASSES = 224, 3, 1000
REPEATS, TORCH_REPEATS, CALLS = 9, 3, 1_000
MOST_MICROSECONDS = 20.0


def models() -> dict[str, AnyModel]:
    """Of each family the largest member that was published, and its usual one."""
    names = ["ViT-B/16", "ViT-G/14", "Axial-ViT-B/16", "R50x1", "R200x3", "AxialResNet-50"]
    names += ["R50+ViT-B/16", "R50+ViT-L/32"]
    base = named("ViT-B/16", head="token")
    assert isinstance(base, ViT)
    return {**{name: named(name) for name in names}, "ViT-B/16 masked": MaskedPatch(vit=base)}


def main() -> None:
    torch.set_num_threads(1)
    table = []
    for name, model in models().items():
        shape = (model, SIZE, CHANNELS, CLASSES)
        # The functions themselves, below their caches.
        count = microseconds(partial(parameters.__wrapped__, *shape))
        flops = microseconds(partial(forward_flops.__wrapped__, *shape))
        memory = microseconds(partial(training_memory.__wrapped__, *shape))
        asked = []
        for _ in range(TORCH_REPEATS):
            start = time.process_time()
            counted = torch_count(model)
            asked.append(1e6 * (time.process_time() - start))
        exact = parameters(*shape), forward_flops(*shape, padded_taps=True)
        assert counted[0] == exact[0]
        assert abs(counted[1] / exact[1] - 1) <= 0.005
        torch_median = statistics.median(asked)
        said = "met" if count[1] + flops[1] <= MOST_MICROSECONDS else "MISSED"
        goal = f"<= {MOST_MICROSECONDS:.0f} us: {said}"
        table.append((name, *count, *flops, memory[1], torch_median / 1000, torch_median / (count[1] + flops[1]), goal))
    load = os.getloadavg()[0]
    print(f"microseconds of one thread a model, {REPEATS} times {CALLS:,} calls; load average {load:.1f}")
    head = ("model", "parameters", "median", "most", "FLOPs", "median", "most", "memory", "torch [ms]", "ratio")
    print_table((*head, "goal of both"), table)


def microseconds(function: Callable[[], object]) -> tuple[float, float, float]:
    """Least, median and most processor time of one call, each of so many rounds the mean of its calls."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        for _ in range(CALLS):
            function()
        times.append(1e6 * (time.process_time() - start) / CALLS)
    return min(times), statistics.median(times), max(times)


def torch_count(model: AnyModel) -> tuple[int, int]:
    """Parameters and forward FLOPs as torch counts them on a network without memory."""
    network = blueprint(model, image_size=SIZE, channels=CHANNELS, classes=CLASSES)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        image_BCHW = torch.zeros(1, CHANNELS, SIZE, SIZE)
        if isinstance(network, MaskedPatchNetwork):
            patches = (SIZE // network.model.vit.patch) ** 2
            place_BM = torch.zeros(1, round(network.model.corrupted * patches), dtype=torch.int64)
            network(
                image_BCHW, Corruption(place_BM, torch.zeros(1, patches, dtype=torch.int64), torch.ones(1, patches) > 0)
            )
        else:
            network(image_BCHW)
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops()


if __name__ == "__main__":
    main()
