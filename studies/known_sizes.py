"""Data sets that the papers used, by their sizes alone: a study on them has a price before anyone has the images.

A user's own of such a name, from `datasets.yaml`, takes its place. Counts are those of the sets' own papers and pages.
"""

from studies.datasets import JFT_300M, DataSet, Part, SplitUse, StoredSplit
from studies.vtab import DATA_SETS


def _sized(
    name: str,
    rows: dict[str, int],
    classes: int,
    source: str,
    *,
    development: str | None = None,
    image_size: int | None = None,
    multi_label: bool = False,
) -> DataSet:
    """development: the share of `train` that hyper-parameters are chosen on (arXiv:2010.11929v2, B.1.1)."""
    splits: dict[str, SplitUse] = {split: StoredSplit(rows=count, fingerprint=None) for split, count in rows.items()}
    if development is not None:
        splits["development"] = Part(of="train", stop=development)
        splits["remaining"] = Part(of="train", start=development)
    return DataSet(
        name=name,
        origin=None,
        splits=splits,
        classes=classes,
        channels=3,
        image_size=image_size,
        multi_label=multi_label,
        source=source,
    )


_SETS = (
    JFT_300M,
    _sized("jft-3b", {"train": 3_000_000_000}, 29_593, "Google's, arXiv:2106.04560v2; nearly so many images"),
    _sized(
        "imagenet",
        {"train": 1_281_167, "validation": 50_000},
        1_000,
        "ILSVRC 2012, arXiv:1409.0575; results are quoted on its validation split",
        development="1%",
    ),
    _sized("imagenet-real", {"validation": 50_000}, 1_000, "reassessed labels, arXiv:2006.07159", multi_label=True),
    _sized("imagenet21k", {"train": 14_197_122}, 21_841, "the whole of ImageNet, Deng et al. 2009"),
    _sized("objectnet", {"test": 50_273}, 313, "Barbu et al. 2019; 113 of its classes are ImageNet's"),
    _sized(
        "cifar10",
        {"train": 50_000, "test": 10_000},
        10,
        "Krizhevsky 2009",
        development="2%",
        image_size=32,
    ),
    _sized(
        "cifar100",
        {"train": 50_000, "test": 10_000},
        100,
        "Krizhevsky 2009",
        development="2%",
        image_size=32,
    ),
    _sized("pets", {"train": 3_680, "test": 3_669}, 37, "Oxford-IIIT Pets, Parkhi et al. 2012", development="10%"),
    _sized(
        "flowers102",
        {"train": 1_020, "test": 6_149},
        102,
        "Oxford Flowers-102, Nilsback and Zisserman 2008",
        development="10%",
    ),
)


def no_images(name: str) -> str:
    """What is said when images are asked of a set that has none."""
    return f"{name} is known by its sizes alone: name your copy with `vitscale data add {name} FOLDER`"


KNOWN_SIZES = {each.name: each for each in (*_SETS, *DATA_SETS)}
