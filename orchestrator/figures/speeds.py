"""How fast the networks of a study ran, and how many images fit on a device: stored seconds, the formula for memory."""

from collections import defaultdict
from dataclasses import dataclass

from db import answers
from db.store import Store
from db.tables import State
from orchestrator.figures.material import training_of
from orchestrator.reports import NotFound
from studies.cost import forward_flops
from studies.definitions import FineTune, Train
from studies.devices import DEVICES, DeviceFacts, device_facts
from studies.memory import recipe_memory

TRAINING, CLASSIFICATION = "training", "classification"
PAPERS_DEVICE = "tpu-v3"
"""Whose memory counts where the study ran on nothing that has a known one: the cores of Figure 12."""


@dataclass(frozen=True)
class Speed:
    """Images a second of one network at one image size, all of its runs of a kind together."""

    model: str
    family: str
    image_size: int
    forward_flops: float
    """For one image."""
    what: str
    """`training` or `classification`."""
    images: int
    seconds: float
    """Of workers, start, reading of images and checkpoints included."""
    place: str
    """Kind of device and number of threads."""
    runs: tuple[str, ...]

    @property
    def images_per_second(self) -> float:
        """Of one worker."""
        return self.images / self.seconds


@dataclass(frozen=True)
class Room:
    """The largest batch of one network, image size and recipe by the formula."""

    model: str
    family: str
    image_size: int
    forward_flops: float
    batch: int
    """Images in a training step; 0 where not even one fits."""
    fixed_bytes: int
    image_bytes: int
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Speeds:
    """What the figure of throughput and memory draws."""

    title: str
    speeds: list[Speed]
    rooms: list[Room]
    device: DeviceFacts
    """Whose memory the batches fit into."""
    notes: tuple[str, ...]


def of_study(store: Store, study: answers.Study, device: str | None) -> Speeds:
    """Speeds and largest batches of a study's runs.

    device: whose memory counts; None is the one that the study ran on, if its memory is known, else the paper's.
    Raises NotFound when no run is done, ValueError for an unknown device or one of unknown memory.
    """
    with store.read() as connection:
        runs = [run for run in answers.runs_of(connection, study.id) if run.state == State.DONE]
    by_key = {run.key: run for run in runs}
    trainings = {run.key: training for run in runs if (training := training_of(run)) is not None}
    speeds, left = _speeds(runs, trainings)
    if not speeds:
        raise NotFound(
            f"{study.name} has no finished training or classification whose seconds are known: results alone say "
            "nothing of speed"
        )
    facts = _device(runs, device)
    shown = {key: trainings[key] for speed in speeds for key in speed.runs if key in trainings}
    return Speeds(study.title, speeds, _rooms(by_key, shown, facts), facts, tuple(_notes(speeds, left)))


def _notes(speeds: list[Speed], left: int) -> list[str]:
    notes = [
        "Speeds are images over worker time as it is stored: start, reading of images and checkpoints are in it.",
        f"Measured on: {'; '.join(sorted({speed.place for speed in speeds}))}.",
    ]
    if left:
        notes.append(
            f"Left out, since other work is in their seconds: {left} trainings (stacked, or evaluated on the way)."
        )
    return notes


def _speeds(runs: list[answers.Run], trainings: dict[str, Train | FineTune]) -> tuple[list[Speed], int]:
    """Of pre-trainings and classifications; of fine-tunings, which are short, where there is nothing else."""
    is_pretrained = any(isinstance(training, Train) for training in trainings.values())
    groups: dict[tuple[str, str, int, str, str, float], list[answers.Run]] = defaultdict(list)
    left = 0
    for run in runs:
        training = trainings.get(run.key) or trainings.get(run.upstream or "")
        if training is None or not run.seconds or run.kind == "fewshot":
            continue
        if run.kind == "finetune" and is_pretrained:
            continue
        if " stacked=" in (run.numerics or "") or (run.key in trainings and training.watches):
            left += 1
            continue
        what = TRAINING if run.key in trainings else CLASSIFICATION
        forward = _forward(training, run.image_size)
        groups[run.model, run.family, run.image_size, what, _place(run), forward].append(run)
    found = [
        Speed(
            model=model,
            family=family,
            image_size=image_size,
            forward_flops=forward,
            what=what,
            images=sum(run.images for run in of),
            seconds=sum(run.seconds or 0 for run in of),
            place=place,
            runs=tuple(run.key for run in of),
        )
        for (model, family, image_size, what, place, forward), of in groups.items()
    ]
    return sorted(found, key=lambda speed: (speed.what, speed.family, speed.forward_flops, speed.model)), left


def _forward(training: Train | FineTune, image_size: int) -> float:
    return float(forward_flops(training.model, image_size, training.data.channels, training.data.classes))


def _place(run: answers.Run) -> str:
    """`cpu AuthenticAMD+avx512 threads=1`: what of a numerics class decides the speed."""
    words = (run.numerics or "an unknown device").split(" linear=")[0]
    return words.split(" torch=")[0]


def _device(runs: list[answers.Run], device: str | None) -> DeviceFacts:
    if device is not None:
        facts = device_facts(device)
        if facts.memory_bytes is None:
            raise ValueError(f"the memory of the device {device} is not known; choose another with --device")
        return facts
    names = {(run.numerics or "").split(" ")[0] for run in runs}
    own = [facts for name, facts in DEVICES.items() if name in names and facts.memory_bytes is not None]
    return own[0] if len(own) == 1 else DEVICES[PAPERS_DEVICE]


def _rooms(by_key: dict[str, answers.Run], trainings: dict[str, Train | FineTune], device: DeviceFacts) -> list[Room]:
    assert device.memory_bytes is not None
    groups: dict[tuple[str, str, int, float, int, int], list[str]] = defaultdict(list)
    for key, training in trainings.items():
        data, run = training.data, by_key[key]
        needed = recipe_memory(
            training.model, training.image_size, data.channels, data.classes, training.recipe, device
        )
        forward = _forward(training, training.image_size)
        groups[run.model, run.family, training.image_size, forward, needed.fixed, needed.per_image].append(key)
    return [
        Room(
            model=model,
            family=family,
            image_size=image_size,
            forward_flops=forward,
            batch=max(0, (device.memory_bytes - fixed) // image),
            fixed_bytes=fixed,
            image_bytes=image,
            runs=tuple(keys),
        )
        for (model, family, image_size, forward, fixed, image), keys in sorted(groups.items())
    ]
