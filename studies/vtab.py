"""Suites of tasks that a network is transferred to in one way: VTAB-1k (arXiv:1910.04867), and one for a laptop.

A transfer names a suite instead of a data set. Of VTAB's tasks the sizes are known; images are a user's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum

from studies.datasets import DataSet, StoredSplit
from studies.language import TransferSplits

_PREFIX = "vtab-"
_SPLITS = TransferSplits(whole="train800val200", search="train800", development="val200")


@dataclass(frozen=True)
class Suite:
    """Data sets in groups, and what a transfer to all of them takes where it does not say otherwise."""

    name: str
    groups: Mapping[str, tuple[str, ...]]
    """Names of data sets."""
    splits: TransferSplits
    recipe: str
    steps: int
    image_size: int | None
    """None for that of the pre-training."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The data sets of all groups."""
        return tuple(name for group in self.groups.values() for name in group)


@dataclass(frozen=True)
class _Task:
    """One of VTAB's. Its data set holds, in the order of TensorFlow Datasets that the released code reads:

    train800, val200: the first 800 images of the training part, the first 200 of the validation part, which where
    there is none is cut from the training images (the last tenth; a fifth of Pets; EuroSAT and Resisc45 60/20/20,
    dSprites 80/10/10 per cent; of smallNORB's official test half, and half is the test); train800val200: both; test:
    the whole official test split, of CLEVR the official validation split.
    """

    name: str
    group: str
    classes: int
    test: int
    image_size: int | None = None
    """Side of the images where all are square and of one size."""


_TASKS = (
    _Task("caltech101", "natural", 102, 6_084),
    _Task("cifar100", "natural", 100, 10_000, 32),
    _Task("dtd", "natural", 47, 1_880),
    _Task("flowers102", "natural", 102, 6_149),
    _Task("pets", "natural", 37, 3_669),
    _Task("sun397", "natural", 397, 21_750),
    _Task("svhn", "natural", 10, 26_032, 32),
    _Task("camelyon", "specialized", 2, 32_768, 96),
    _Task("eurosat", "specialized", 10, 5_400, 64),
    _Task("resisc45", "specialized", 45, 6_300, 256),
    _Task("retinopathy", "specialized", 5, 42_670),
    _Task("clevr-count", "structured", 8, 15_000),
    _Task("clevr-distance", "structured", 6, 15_000),
    _Task("dmlab", "structured", 6, 22_735),
    _Task("dsprites-location", "structured", 16, 73_728, 64),
    _Task("dsprites-orientation", "structured", 16, 73_728, 64),
    _Task("kitti-distance", "structured", 4, 711),
    _Task("snorb-azimuth", "structured", 18, 12_150, 96),
    _Task("snorb-elevation", "structured", 9, 12_150, 96),
)


def _sized(task: _Task) -> DataSet:
    rows = {"train800": 800, "val200": 200, "train800val200": 1_000, "test": task.test}
    return DataSet(
        name=_PREFIX + task.name,
        origin=None,
        splits={split: StoredSplit(rows=count, fingerprint=None) for split, count in rows.items()},
        classes=task.classes,
        channels=3,
        image_size=task.image_size,
        source=f"VTAB-1k, arXiv:1910.04867, of its {task.group} tasks",
    )


DATA_SETS = tuple(_sized(task) for task in _TASKS)
"""VTAB-1k by its sizes."""

# arXiv:2010.11929v2, B.1.1: one setting for all tasks, 0.01 for 2,500 steps at 384 pixels.
VTAB_1K = Suite(
    name="vtab-1k",
    groups={
        group: tuple(_PREFIX + task.name for task in _TASKS if task.group == group)
        for group in ("natural", "specialized", "structured")
    },
    splits=_SPLITS,
    recipe="vtab",
    steps=2_500,
    image_size=384,
)
# Generated images of other classes than those of `shapes`, in less, as much and more disorder.
LAPTOP = Suite(
    name="vtab-laptop",
    groups={group: (f"shapes-{group}-1", f"shapes-{group}-2") for group in ("plain", "usual", "messy")},
    splits=_SPLITS.model_copy(update={"test": "test2000"}),
    recipe="small-fine-tuning",
    steps=200,
    image_size=None,
)
SUITES = {suite.name: suite for suite in (VTAB_1K, LAPTOP)}


def task_of(data_set: str) -> str | None:
    """VTAB's own name of a task, by which its exceptions in augmentation go; None for any other data set."""
    return data_set.removeprefix(_PREFIX) if data_set in VTAB_1K.tasks else None


def group_means(values: Mapping[str, float], suite: Suite = VTAB_1K) -> dict[str, float]:
    """The mean over each group's tasks, and under `mean` that over all tasks, which is the suite's score.

    values: by the name of the data set. Raises ValueError for a task without one, and for one that is none.
    """
    missing = [name for name in suite.tasks if name not in values]
    if missing:
        raise ValueError(f"{suite.name} has no score yet: {', '.join(missing)} of its {len(suite.tasks)} tasks missing")
    strange = [name for name in values if name not in suite.tasks]
    if strange:
        raise ValueError(f"{', '.join(strange)}: no task of {suite.name}")
    members = {**suite.groups, "mean": suite.tasks}
    return {group: fsum(values[name] for name in names) / len(names) for group, names in members.items()}
