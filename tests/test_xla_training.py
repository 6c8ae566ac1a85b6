"""torch_xla: every family trains there as on the CPU, in one compiled program, and its results are good elsewhere.

B = images. Programs are counted as torch_xla counts them: `UncachedCompile` is a program that it had to compile, and
`ExecuteTime` has an entry for each that it ran.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from studies.datasets import DIGITS
from studies.definitions import SGD, Adafactor, AdamW, Evaluate, Recipe, Train, key_of
from studies.models import Hybrid, MaskedPatch, ResNet, ViT
from studies.schedules import Cosine
from workers.checkpoints import load_facts
from workers.data.batches import Batches
from workers.devices import Device
from workers.models.build import build
from workers.models.masked import Corruption, corruption_of
from workers.optimization import Optimizer
from workers.perform import perform
from workers.supervision import Finished, Place, Wish, Yielded
from workers.training import Training

pytestmark = pytest.mark.xla

CPU = Device.named("cpu")
STEPS = 5
VIT = ViT(patch=4, width=8, depth=1, mlp=16, heads=2)
RESNET = ResNet(blocks=(1,), width=8, root="3x3", groups=4)
MODELS: dict[str, ViT | ResNet | Hybrid] = {
    "class token and tanh, learned-1d": VIT,
    "map, sincos-2d": VIT.model_copy(update={"head": "map", "position": "sincos-2d"}),
    "gap, relative": VIT.model_copy(update={"head": "gap", "position": "relative"}),
    "token, learned-2d at every layer": VIT.model_copy(
        update={"head": "token", "position": "learned-2d", "position_at": "layers"}
    ),
    "axial": VIT.model_copy(update={"head": "gap", "attention": "axial"}),
    "resnet": RESNET,
    "post-activation resnet": RESNET.model_copy(update={"form": "post-activation"}),
    "axial resnet": RESNET.model_copy(update={"mixing": "axial", "width": 16}),
    "hybrid": Hybrid(body=RESNET, vit=VIT),
}
# No batch of 16 holds each of 10 classes equally often. Where it would, gradients of a new head that are zero on one
# device are the rounding of the other, which Adam's division would make as large as any.
RECIPE = Recipe(lr_peak=1e-2, schedule=Cosine(), warmup_steps=2, weight_decay=0.1, batch=16, clip_norm=1.0)


def training_of(model: ViT | ResNet | Hybrid = VIT, **recipe: Any) -> Train:
    changed = Recipe.model_validate({**RECIPE.model_dump(), **recipe})
    data = DIGITS.take("train", 50)
    return Train(model=model, data=data, image_size=8, recipe=changed, examples=STEPS * changed.batch, seed=0)


@pytest.fixture(scope="module")
def xla() -> Device:
    device = Device.named("xla", threads=1)
    device.use()
    return device


@dataclass
class Programs:
    """What torch_xla did meanwhile."""

    compiled: int = 0
    run: int = 0


@contextmanager
def counted() -> Iterator[Programs]:
    import torch_xla
    import torch_xla.debug.metrics as metrics

    def now() -> tuple[int, int]:
        torch_xla.sync(wait=True)  # a program counts once it has run
        return metrics.counter_value("UncachedCompile") or 0, (metrics.metric_data("ExecuteTime") or (0,))[0]

    programs, before = Programs(), now()
    yield programs
    programs.compiled, programs.run = (after - begin for after, begin in zip(now(), before, strict=True))


class Recorder:
    """Wishes the run to yield from a step on, and keeps its checkpoint."""

    def __init__(self, at: int = STEPS + 1) -> None:
        self.at = at
        self.current: Path | None = None

    def reached(self, step: int) -> Wish:
        return Wish.YIELD if step >= self.at else Wish.CONTINUE

    def measure(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def checkpointed(self, folder: Path, step: int) -> None:
        assert load_facts(folder).step == step
        self.current = folder


def losses_of(update: Callable[[], Tensor]) -> list[float]:
    """Read at the end: a read between two steps would end a program early, and hide one that ends late."""
    return [float(loss) for loss in [update() for _ in range(STEPS)]]


@pytest.mark.parametrize("name", MODELS)
def test_each_family_trains_to_the_losses_of_the_cpu_in_one_program(name: str, xla: Device) -> None:
    run = training_of(MODELS[name])
    expected = losses_of(Training(run, CPU).update)
    training = Training(run, xla)
    with counted() as programs:
        found = losses_of(training.update)
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(expected) < expected[0]
    assert programs == Programs(compiled=1, run=STEPS)


def test_a_masked_patch_model_trains_to_the_losses_of_the_cpu_in_one_program(xla: Device) -> None:
    expected = losses_of(masked_update(CPU))
    update = masked_update(xla)
    with counted() as programs:
        found = losses_of(update)
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(expected) < expected[0]
    assert programs == Programs(compiled=1, run=STEPS)


def masked_update(device: Device) -> Callable[[], Tensor]:
    """A step of a masked-patch model, each time the next: what `Training` does for a classifier."""
    model = MaskedPatch(vit=VIT.model_copy(update={"head": "token"}))
    network = build(model, image_size=8, channels=1, classes=10, seed=0).to(device.torch)
    optimizer = Optimizer(network, RECIPE, compiled=device.compiles)
    batches = Batches(training_of(), device)
    device.end_step()
    steps = iter(range(STEPS))

    def update() -> Tensor:
        step = next(steps)
        image_BCHW, _ = batches.at(step)
        drawn = corruption_of(0, step, batch=RECIPE.batch, patches=4, share=model.corrupted)
        corruption = Corruption(*(device.place(tensor) for tensor in drawn))
        loss = network.loss(network(image_BCHW, corruption), network.targets(image_BCHW, corruption))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.update(RECIPE.lr_at(step, STEPS))
        device.end_step()
        return loss.detach()

    return update


def test_sgd_trains_to_the_losses_of_the_cpu_in_one_program_at_a_rate_of_one_too(xla: Device) -> None:
    # XLA takes 0 and 1 for constants of the program: the peak, which the rate passes, is one of them.
    run = training_of(optimizer=SGD(momentum=0.9), lr_peak=1.0, clip_norm=0.1)
    expected = losses_of(Training(run, CPU).update)
    training = Training(run, xla)
    with counted() as programs:
        assert losses_of(training.update) == pytest.approx(expected, rel=1e-4)
    assert programs == Programs(compiled=1, run=STEPS)


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": AdamW(momentum_precision="bf16"), "head_weight_decay": 3.0},
        {"optimizer": SGD(momentum_precision="bf16"), "lr_peak": 0.1, "clip_norm": 0.1},
        {"optimizer": Adafactor(factored_from=8), "schedule": {"kind": "rsqrt", "timescale": 2, "cooldown_steps": 2}},
        # A second moment that is replaced whole at the first step and by a number of its own at each further one.
        {"optimizer": Adafactor(), "lr_peak": 1.0, "clip_norm": None, "weight_decay": 0.0},
        {"polyak": 0.5, "loss": "sigmoid", "head_bias": -2.0},
    ],
    ids=["adamw bf16", "sgd bf16", "adafactor", "adafactor, nothing factored", "polyak"],
)
def test_each_optimizer_trains_to_the_weights_of_the_cpu_in_one_program(recipe: dict[str, Any], xla: Device) -> None:
    run = training_of(VIT.model_copy(update={"head": "gap"}), **recipe)
    reference, training = Training(run, CPU), Training(run, xla)
    expected = losses_of(reference.update)
    with counted() as programs:
        assert losses_of(training.update) == pytest.approx(expected, rel=1e-4)
    assert programs == Programs(compiled=1, run=STEPS)
    for name, tensor in reference.evaluated_weights().items():
        found = training.evaluated_weights()[name].cpu()
        if name.endswith("qkv.bias"):
            # That of the keys changes no attention: its gradient is rounding alone, which is divided by its own size.
            tensor, found = (torch.stack([bias.chunk(3)[0], bias.chunk(3)[2]]) for bias in (tensor, found))
        torch.testing.assert_close(found, tensor, atol=1e-4, rtol=1e-3)


def test_a_batch_in_parts_trains_to_the_losses_of_the_cpu_by_programs_that_are_compiled_once(xla: Device) -> None:
    run = training_of()
    expected = losses_of(Training(run, CPU).update)
    training = Training(run, xla, micro_batch=RECIPE.batch // 4)
    found = [float(training.update()) for _ in range(2)]
    with counted() as programs:
        found += [float(training.update()) for _ in range(STEPS - 2)]
    assert found == pytest.approx(expected, rel=1e-4)
    assert programs.compiled == 0


def test_what_is_random_differs_from_step_to_step_repeats_and_is_one_program(xla: Device) -> None:
    deep = VIT.model_copy(update={"depth": 2})
    run = training_of(
        deep,
        dropout=0.3,
        stochastic_depth=0.5,
        augmentation={"crop": {"kind": "shift"}, "flip": True, "mixup": 0.3},
        precision="bf16",
    )
    first, second = Training(run, xla), Training(run, xla)
    with counted() as programs:
        losses = losses_of(first.update)
    assert programs == Programs(compiled=1, run=STEPS)
    torch.rand(3, device=xla.torch)  # whatever else draws from the device's generator meanwhile
    with counted() as programs:
        assert losses_of(second.update) == losses
    assert programs.compiled <= 1  # of those random numbers
    xla.seed(1)
    kept = [nn.functional.dropout(torch.ones(64, device=xla.torch)).cpu() for _ in range(2)]
    xla.seed(1)
    again = nn.functional.dropout(torch.ones(64, device=xla.torch)).cpu()
    assert torch.equal(again, kept[0])
    assert not torch.equal(kept[0], kept[1])


@pytest.fixture(scope="module")
def trained(xla: Device, tmp_path_factory: pytest.TempPathFactory) -> tuple[Train, Finished]:
    run, folder = training_of(), tmp_path_factory.mktemp("unbroken")
    return run, perform(run, Place(xla, folder), Recorder())


def test_a_run_that_stops_goes_on_to_the_same_bits_and_compiles_no_step_again(
    trained: tuple[Train, Finished], xla: Device, tmp_path: Path
) -> None:
    run, unbroken = trained
    recorder = Recorder(at=3)
    with counted() as programs:
        with pytest.raises(Yielded):
            perform(run, Place(xla, tmp_path / "first"), recorder)
        finished = perform(run, Place(xla, tmp_path / "second", resume=recorder.current), Recorder())
    assert finished.values == unbroken.values
    assert bits_of(finished) == bits_of(unbroken)
    assert finished.checkpoint is not None
    # The state to begin from and the check that it is finite, neither of them a step.
    assert programs.compiled <= 2
    assert load_facts(finished.checkpoint).numerics == xla.numerics


def test_adafactor_and_an_average_go_on_to_the_same_bits(xla: Device, tmp_path: Path) -> None:
    run = training_of(optimizer=Adafactor(factored_from=8), polyak=0.5)
    unbroken = perform(run, Place(xla, tmp_path / "unbroken"), Recorder())
    recorder = Recorder(at=3)
    with pytest.raises(Yielded):
        perform(run, Place(xla, tmp_path / "first"), recorder)
    finished = perform(run, Place(xla, tmp_path / "second", resume=recorder.current), Recorder())
    assert finished.values == unbroken.values
    assert bits_of(finished) == bits_of(unbroken)


def bits_of(finished: Finished) -> bytes:
    assert finished.checkpoint is not None
    return (finished.checkpoint / "state.safetensors").read_bytes()


def test_an_evaluation_of_many_batches_compiles_the_network_once(
    trained: tuple[Train, Finished], xla: Device, tmp_path: Path
) -> None:
    run, finished = trained
    evaluation = Evaluate(upstream=key_of(run), data=DIGITS.take("train", 900), image_size=8)

    def evaluated(device: Device) -> list[float | None]:
        place = Place(device, tmp_path, upstream=finished.checkpoint)
        return [value.value for value in perform(evaluation, place, Recorder()).values]

    with counted() as programs:
        found = evaluated(xla)
    assert found == pytest.approx(evaluated(CPU), rel=1e-5)
    # The network, sums over a whole batch and over the last, and nothing that grows with the batches.
    assert programs.compiled <= 4


def test_weights_trained_there_load_on_a_host_without_torch_xla(
    trained: tuple[Train, Finished], tmp_path: Path
) -> None:
    _, finished = trained
    program = f"""
import sys
sys.modules["torch_xla"] = None  # an import raises ImportError
from pathlib import Path
from workers.checkpoints import load
tensors, facts = load(Path({str(finished.checkpoint)!r}))
print({{str(tensor.device) for tensor in tensors.values()}}, facts.step, "torch_xla" in sys.modules and "none")
"""
    environment = {name: value for name, value in os.environ.items() if name != "PJRT_DEVICE"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["{'cpu'}", str(STEPS), "none"]


def test_the_device_says_what_is_behind_it_and_computes_in_float32(xla: Device) -> None:
    import torch_xla.backends

    assert xla.kind == "xla cpu"
    assert xla.numerics.startswith("xla cpu ")
    assert f"torch={torch.__version__.split('+')[0]}" in xla.numerics.split()
    assert torch_xla.backends.get_mat_mul_precision() == "highest"
    assert xla.numerics != CPU.numerics
    assert Device.named("auto") == CPU  # torch_xla is there, and no TPU
    with xla.autocast("bf16"):
        x = torch.ones(2, 2, device=xla.torch)
        assert (x @ x).dtype == torch.bfloat16
    xla.wait()
