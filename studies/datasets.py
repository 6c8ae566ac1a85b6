"""Data sets by name: where their files are, which rows each split takes, and the fingerprint that names those rows.

Nothing is read here. `studies/registry.py` reads a user's own list of them, `studies/subsets.py` works rows out, and
`workers/data/` reads images.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, Tag
from pydantic import model_validator as validator

from studies import procedural
from studies.architectures import nearest
from studies.definitions import Data
from studies.frozen import Digest, Frozen, Listed
from studies.manifests import FOLDER, digest_of

# ----------------------------------------------------------------------------------------------------------- splits


class DropList(Frozen):
    """Rows of a stored split that are left out: a Parquet file whose column `row` names them."""

    file: str
    """Relative to the registry's folder, or absolute."""
    rows: NonNegativeInt
    digest: Digest
    """`studies.subsets.rows_digest` of the sorted rows."""


class StoredSplit(Frozen):
    """All rows of some shards."""

    rows: PositiveInt
    fingerprint: Digest | None
    """`Manifest.fingerprint`; None where there are no images."""
    fewest: NonNegativeInt | None = None
    """Images of the rarest class, where it is known."""
    bad: DropList | None = None
    """Rows that cannot be decoded, as `vitscale data check` found them."""


class Part(Frozen):
    """A range of another split's rows: of a keyed permutation of them, or of their order in the files."""

    of: str
    start: NonNegativeInt | str = 0
    """In rows, or in percent as `98%`."""
    stop: PositiveInt | str = "100%"
    order: Literal["shuffled", "file"] = "shuffled"


class Thinned(Frozen):
    """Another split without some of its rows: duplicates of test images, for one."""

    of: str
    drop: Annotated[Listed[DropList], Field(min_length=1)]


def _kind_of_split(value: Any) -> str:
    if isinstance(value, StoredSplit | Part | Thinned):
        return {StoredSplit: "stored", Part: "part", Thinned: "thinned"}[type(value)]
    fields = value if isinstance(value, dict) else {}
    return "thinned" if "drop" in fields else "part" if "of" in fields else "stored"


SplitUse = Annotated[
    Annotated[StoredSplit, Tag("stored")] | Annotated[Part, Tag("part")] | Annotated[Thinned, Tag("thinned")],
    Discriminator(_kind_of_split),
]


@dataclass(frozen=True)
class Cut:
    """Take rows [start, start + rows) of a permutation or of the file's order."""

    start: int
    rows: int
    shuffled: str | None
    """The key of the permutation; None keeps the order."""


@dataclass(frozen=True)
class Leave:
    """Leave rows of the stored split out. There is one such step at most, and it is the first."""

    lists: tuple[DropList, ...]
    rows: int
    """That stay."""


@dataclass(frozen=True)
class Selection:
    """How the rows of a split come from the rows of files: a stored split, and steps from it."""

    stored: str
    """The split whose shards are read."""
    stored_rows: int
    stored_fingerprint: str | None
    steps: tuple[Cut | Leave, ...]
    rows: int
    fingerprint: str | None
    skipped: int
    """Bad rows that were left out."""


# ------------------------------------------------------------------------------------------------------------- sets


class Files(Frozen):
    """Parquet shards with an index."""

    kind: Literal["files"] = "files"
    location: str
    """A folder, or a URI that `pyarrow.fs` opens: `s3://bucket/prefix`, `gs://`, `hdfs://`, `file://`."""
    index: str | None = None
    """Folder or URI of the index; beside the shards without it."""

    @property
    def index_location(self) -> str:
        """Where the index is."""
        if self.index is not None:
            return self.index
        # A URI may end with options: s3://bucket/prefix?endpoint_override=...
        path, mark, options = self.location.partition("?") if "://" in self.location else (self.location, "", "")
        return f"{path.rstrip('/')}/{FOLDER}{mark}{options}"


class DataSet(Frozen):
    """A labelled image set."""

    name: str
    origin: Files | procedural.Shapes | None
    """Where images come from; None of a set known by its sizes: it has a price, and no bytes."""
    splits: dict[str, SplitUse]
    classes: Annotated[int, Field(ge=2)]
    channels: PositiveInt
    image_size: PositiveInt | None
    """Side of the images as they are stored, in pixels; None where it differs from image to image."""
    multi_label: bool = False
    bad_rows: Literal["fail", "skip"] = "fail"
    """What a training does with images that cannot be decoded: `skip` leaves out, and counts, those that `vitscale data
    check` found."""
    source: str

    @validator(mode="after")
    def _is_possible(self) -> "DataSet":
        for name in self.splits:
            self._selection(name, ())
        return self

    def selection(self, split: str) -> Selection:
        """Where the rows of a split come from.

        Raises ValueError for an unknown split, a circle of splits, a range outside its split, and for `bad_rows: skip`
        before the split was checked.
        """
        selection = self._selection(split, ())
        stored = self.splits[selection.stored]
        assert isinstance(stored, StoredSplit)
        if self.bad_rows == "skip" and isinstance(self.origin, Files) and stored.bad is None:
            raise ValueError(
                f"bad rows of {self.name} are to be skipped, and nobody looked for them in its {selection.stored}"
                f" split: run `vitscale data check {self.name}` first"
            )
        return selection

    def take(self, split: str, subset: int | str | None = None, per_class: int | None = None) -> Data:
        """The first images of a split's permutation, or all of them, as part of a run's definition.

        subset: how many, as 9_000_000, `9M` or `10%`. per_class: so many of each class instead.
        Raises ValueError for an unknown split, for more images than it has, and for both at once.
        """
        selection = self.selection(split)
        most = selection.rows
        if subset is not None and per_class is not None:
            raise ValueError("'subset' and 'per_class' both choose images: keep one")
        rows = most if subset is None else parsed_rows(subset, most)
        if per_class is not None:
            rows = self._rows_of(per_class, split)
        elif most >= procedural.ENDLESS and subset is None:
            raise ValueError(f"the {split} split of {self.name} is endless: give 'subset'")
        if rows > most:
            raise ValueError(f"a subset of {rows:,} images is larger than the {split} split of {self.name}: {most:,}")
        return Data(
            name=self.name,
            fingerprint=selection.fingerprint,
            split=split,
            rows=rows,
            per_class=per_class,
            classes=self.classes,
            channels=self.channels,
            image_size=self.image_size,
            multi_label=self.multi_label,
        )

    def _rows_of(self, per_class: int, split: str) -> int:
        if self.multi_label or not isinstance(self.origin, Files):
            raise ValueError(f"'per_class' needs files with one label an image, and {self.name} has none")
        stored = self.splits[split]
        if isinstance(stored, StoredSplit) and stored.fewest is not None and stored.fewest < per_class:
            raise ValueError(
                f"a class of the {split} split of {self.name} has {stored.fewest:,} images, fewer than {per_class:,}"
            )
        return per_class * self.classes

    def _selection(self, split: str, above: tuple[str, ...]) -> Selection:
        if split not in self.splits:
            raise ValueError(f"'{split}' is no split of {self.name}{nearest(split, list(self.splits))}")
        if split in above:
            raise ValueError(f"the splits of {self.name} are made of each other: {' of '.join((*above, split))}")
        match self.splits[split]:
            case StoredSplit() as stored:
                return self._stored(split, stored)
            case Part() as part:
                return self._part(split, part, self._selection(part.of, (*above, split)))
            case Thinned() as thinned:
                return self._without(self._selection(thinned.of, (*above, split)), thinned.drop, split)

    def _stored(self, split: str, stored: StoredSplit) -> Selection:
        everything = Selection(split, stored.rows, stored.fingerprint, (), stored.rows, stored.fingerprint, 0)
        if self.bad_rows == "fail" or stored.bad is None or not stored.bad.rows:
            return everything
        return self._without(everything, (stored.bad,), split, skipped=stored.bad.rows)

    def _part(self, split: str, part: Part, of: Selection) -> Selection:
        start = _rows_at(part.start, of.rows, split)
        stop = _rows_at(part.stop, of.rows, split)
        if not start < stop <= of.rows:
            raise ValueError(
                f"the {split} split of {self.name} takes rows {start:,} to {stop:,} of {part.of}, which has {of.rows:,}"
            )
        key = of.fingerprint if part.order == "shuffled" else None
        fingerprint = of.fingerprint and digest_of(
            {"of": of.fingerprint, "start": start, "stop": stop, "order": part.order}
        )
        cut = Cut(start, stop - start, key if part.order == "shuffled" else None)
        return Selection(
            of.stored, of.stored_rows, of.stored_fingerprint, (*of.steps, cut), cut.rows, fingerprint, of.skipped
        )

    def _without(self, of: Selection, lists: tuple[DropList, ...], split: str, skipped: int = 0) -> Selection:
        if any(isinstance(step, Cut) for step in of.steps):
            raise ValueError(
                f"the {split} split of {self.name} drops rows of a part: drop them first, and take the part of the rest"
            )
        before = of.steps[0].lists if of.steps and isinstance(of.steps[0], Leave) else ()
        lists = (*before, *lists)
        left = Leave(lists, of.stored_rows - sum(each.rows for each in lists))
        if left.rows < 1:
            raise ValueError(f"the {split} split of {self.name} drops all of its {of.stored_rows:,} rows")
        fingerprint = of.stored_fingerprint and digest_of(
            {"of": of.stored_fingerprint, "dropped": sorted(each.digest for each in lists)}
        )
        return Selection(
            of.stored, of.stored_rows, of.stored_fingerprint, (left,), left.rows, fingerprint, of.skipped + skipped
        )


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def parsed_rows(subset: int | str, most: int) -> int:
    """How many images `9_000_000`, `9M`, `300k` or `10%` are. Raises ValueError for anything else, and for none."""
    if isinstance(subset, int):
        rows = subset
    elif found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMB%]?)", subset.strip()):
        rows = round(float(found[1]) * (most / 100 if found[2] == "%" else _UNITS[found[2]]))
        if found[2] == "%" and rows > most:
            raise ValueError(f"a subset of {subset} is more than there is")
    else:
        raise ValueError(f"'{subset}' is no number of images: write 9000000, 9M, 300k or 10%")
    if rows < 1:
        raise ValueError(f"a subset of {subset} has no image")
    return rows


def _rows_at(place: int | str, most: int, split: str) -> int:
    """A border of a part in rows."""
    if isinstance(place, int):
        return place
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", place.strip())
    if found is None or float(found[1]) > 100:
        raise ValueError(f"'{place}' is no border of the split {split}: write rows, or percent as 98%")
    return round(most * float(found[1]) / 100)


# --------------------------------------------------------------------------------------------------------- built in

_DIGITS = "8f80fdc4dcbc321a60c1026f4903414f09d6ce9a87383ee53729490df7b388d0"

DIGITS = DataSet(
    name="digits",
    origin=Files(location=str(Path(__file__).parent / "digits")),
    splits={
        "all": StoredSplit(rows=1797, fingerprint=_DIGITS),
        "train": Part(of="all", start=0, stop=1000, order="file"),
        "validation": Part(of="all", start=1000, stop=1297, order="file"),
        "test": Part(of="all", start=1297, stop=1797, order="file"),
    },
    classes=10,
    channels=1,
    image_size=8,
    source="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0)",
)

JFT_300M = DataSet(
    name="jft-300m",
    origin=None,
    # Counts as in arXiv:2010.11929v2, section 4.1; there are no public splits for evaluation.
    splits={"train": StoredSplit(rows=303_000_000, fingerprint=None)},
    classes=18_291,
    channels=3,
    image_size=None,
    source="Google's, arXiv:1707.02968",
)


def generated(name: str, shapes: procedural.Shapes) -> DataSet:
    """The data set of a generator of images."""
    return DataSet(
        name=name,
        origin=shapes,
        splits={
            split: StoredSplit(rows=rows, fingerprint=shapes.fingerprint(split))
            for split, rows in procedural.SPLIT_ROWS.items()
        },
        classes=shapes.classes,
        channels=3,
        image_size=shapes.image_size,
        source="generated by vitscale, docs/procedural.md",
    )


SHAPES = generated("shapes", procedural.Shapes())


def _task(name: str, difficulty: float, seed: int) -> DataSet:
    """A task of `vtab-laptop` (`studies/vtab.py`): other classes than those of `shapes`, and a thousand images."""
    shapes = generated(name, procedural.Shapes(classes=16, difficulty=difficulty, seed=seed))
    parts = {"train800": (0, 800), "val200": (800, 1000), "train800val200": (0, 1000)}
    splits: dict[str, SplitUse] = {
        split: Part(of="train", start=start, stop=stop, order="file") for split, (start, stop) in parts.items()
    }
    splits["test2000"] = Part(of="test", stop=2000, order="file")
    return shapes.model_copy(update={"splits": shapes.splits | splits})


_TASKS = [
    _task(f"shapes-{group}-{number}", difficulty, seed=10 * place + number)
    for place, (group, difficulty) in enumerate({"plain": 0.4, "usual": 0.5, "messy": 0.6}.items(), start=1)
    for number in (1, 2)
]
BUILT_IN = {each.name: each for each in (DIGITS, SHAPES, *_TASKS)}
