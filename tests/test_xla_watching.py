"""torch_xla: masked patches, fine-tunings, watches and trunks compute what they do on the CPU, in few programs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from studies.datasets import DIGITS
from studies.definitions import AnyTraining, FewShotWatch, FineTune, SplitWatch, Train, key_of
from studies.metrics import ACCURACY, watched
from studies.models import MaskedPatch, fine_tuned
from tests.small_trainings import CPU, VIT, Recorder, bits_of, place_in, training_of
from workers.devices import Device
from workers.perform import perform
from workers.starting import start_of
from workers.supervision import Place
from workers.training import Training

pytestmark = pytest.mark.xla

MASKED = MaskedPatch(vit=VIT.model_copy(update={"head": "token"}))


@pytest.fixture(scope="module")
def xla() -> Device:
    device = Device.named("xla", threads=1)
    device.use()
    return device


@contextmanager
def compiled_at_most(programs: int) -> Iterator[None]:
    import torch_xla
    import torch_xla.debug.metrics as metrics

    def now() -> int:
        torch_xla.sync(wait=True)  # a program counts once it has run
        return metrics.counter_value("UncachedCompile") or 0

    before = now()
    yield
    assert now() - before <= programs


def losses_of(training: Training) -> list[float]:
    return [float(loss) for loss in [training.update() for _ in range(training.run.steps)]]


def begun(run: AnyTraining, device: Device, folder: Path, upstream: Path | None) -> Training:
    return Training(run, device, network=start_of(run, Place(device, folder, upstream=upstream)).network)


def test_a_masked_training_has_the_losses_of_the_cpu_in_one_program(xla: Device) -> None:
    run = training_of(5, model=MASKED, batch=16)
    expected = losses_of(Training(run, CPU))
    training = Training(run, xla)
    with compiled_at_most(1):
        found = losses_of(training)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("trained", ["all", "head"])
def test_a_fine_tuning_has_the_losses_of_the_cpu_in_one_program(trained: str, xla: Device, tmp_path: Path) -> None:
    upstream = training_of(3, batch=16)
    checkpoint = perform(upstream, place_in(tmp_path / "upstream"), Recorder()).checkpoint
    run = FineTune.model_validate(
        {
            **training_of(5, batch=16, optimizer={"kind": "sgd"}, lr_peak=0.1).model_dump(exclude={"kind"}),
            "model": fine_tuned(VIT),
            "upstream": key_of(upstream),
            "trained": trained,
        }
    )
    expected = losses_of(begun(run, CPU, tmp_path, checkpoint))
    training = begun(run, xla, tmp_path, checkpoint)
    with compiled_at_most(1):
        found = losses_of(training)
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(expected) < expected[0]


def test_watches_change_no_bit_and_compile_their_networks_once(xla: Device, tmp_path: Path) -> None:
    plain = training_of(6, batch=16, polyak=0.5)
    data = DIGITS.take("test", 300)
    watches = (
        SplitWatch(data=data, image_size=16, every=1, keep="best"),
        FewShotWatch(
            support=DIGITS.take("validation"),
            data=data,
            image_size=8,
            shots=(2,),
            support_seeds=(0,),
            l2=(1.0,),
            every=1,
        ),
    )
    run = Train.model_validate({**plain.model_dump(), "watches": watches})
    last = Train.model_validate({**plain.model_dump(), "watches": [{**watches[1].model_dump()}]})
    unseen = perform(plain, Place(xla, tmp_path / "plain"), Recorder())
    assert bits_of(perform(last, Place(xla, tmp_path / "watched"), Recorder())) == bits_of(unseen)
    here, there = Recorder(), Recorder()
    perform(run, Place(xla, tmp_path / "once"), Recorder())
    with compiled_at_most(1):
        perform(run, Place(xla, tmp_path / "best"), there)
    perform(run, Place(CPU, tmp_path / "cpu"), here)
    name = watched(ACCURACY, "digits", "test")
    # Of 300 images one or two may be at the border.
    for step in range(1, 7):
        assert there.measured[step][name] == pytest.approx(here.measured[step][name], abs=0.01)


def test_a_branch_has_the_bits_of_a_training_that_starts_alone(xla: Device, tmp_path: Path) -> None:
    trunk, branch = (
        training_of(
            steps,
            batch=16,
            polyak=0.5,
            dropout=0.1,
            schedule={"kind": "rsqrt", "timescale": 3, "cooldown_steps": cooldown},
        )
        for steps, cooldown in ((3, 0), (5, 2))
    )
    left = perform(trunk, Place(xla, tmp_path / "trunk"), Recorder())
    found = perform(branch, Place(xla, tmp_path / "branch", upstream=left.checkpoint), Recorder())
    alone = perform(branch, Place(xla, tmp_path / "alone"), Recorder())
    assert bits_of(found) == bits_of(alone)
    assert found.values == alone.values
