"""Data sets by name: where their files are, which rows are which split, and the digest that pins their bytes.

Nothing is read here. `workers/images.py` reads, and refuses bytes of another digest.
"""

from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from studies.architectures import nearest
from studies.definitions import Data, Digest, Frozen


class Split(Frozen):
    """Rows [start, stop) of a data set's file."""

    start: NonNegativeInt
    stop: PositiveInt

    @property
    def rows(self) -> int:
        """Images in the split."""
        return self.stop - self.start


class DataSet(Frozen):
    """A labelled image set in a Parquet file of the Hugging Face layout (`image: struct<bytes, path>`, `label`)."""

    name: str
    file: str | None
    """Path of the file: absolute, or relative to this folder. None of a private set: it has a price, and no bytes."""
    fingerprint: Digest | None
    """SHA-256 of the file."""
    splits: dict[str, Split]
    classes: PositiveInt
    channels: PositiveInt
    image_size: PositiveInt
    """Side of the images in pixels as they lie in the file."""
    source: str

    @property
    def path(self) -> Path:
        """Where the file is on this machine. Raises ValueError for a private set."""
        if self.file is None:
            raise ValueError(f"{self.name} is private ({self.source}): it can be planned with, and not trained on")
        return Path(__file__).parent / self.file

    def take(self, split: str, rows: int | None = None) -> Data:
        """The first `rows` of a split's permutation, or all of them, as part of a run's definition.

        Raises ValueError for an unknown split or for more rows than it has.
        """
        if split not in self.splits:
            raise ValueError(f"'{split}' is no split of {self.name}{nearest(split, list(self.splits))}")
        most = self.splits[split].rows
        if rows is not None and rows > most:
            raise ValueError(f"a subset of {rows:,} images is larger than the {split} split of {self.name}: {most:,}")
        return Data(
            name=self.name,
            fingerprint=self.fingerprint,
            split=split,
            rows=most if rows is None else rows,
            classes=self.classes,
            channels=self.channels,
        )


DIGITS = DataSet(
    name="digits",
    file="digits.parquet",
    fingerprint="9aba8fe4150f243ccd30806f91511ac62ab4df9d15b6b7087f273efe10e7e84e",
    splits={
        "train": Split(start=0, stop=1000),
        "validation": Split(start=1000, stop=1297),
        "test": Split(start=1297, stop=1797),
    },
    classes=10,
    channels=1,
    image_size=8,
    source="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0)",
)

JFT_300M = DataSet(
    name="jft-300m",
    file=None,
    fingerprint=None,
    # Counts as in arXiv:2010.11929v2, section 4.1; there are no public splits for evaluation.
    splits={"train": Split(start=0, stop=303_000_000)},
    classes=18_291,
    channels=3,
    image_size=224,
    source="Google's, arXiv:1707.02968",
)

DATASETS = {each.name: each for each in (DIGITS, JFT_300M)}


def dataset(name: str) -> DataSet:
    """The data set of this name. Raises ValueError with the nearest valid name."""
    if name not in DATASETS:
        raise ValueError(f"'{name}' is no data set{nearest(name, list(DATASETS))}")
    return DATASETS[name]
