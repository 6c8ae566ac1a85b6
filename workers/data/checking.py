"""Decodes every image of some row groups and says which cannot be trained on, which are odd, and how large they are.

It works on one piece of a split; `orchestrator/data_check.py` spreads pieces and writes what was found down.
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from studies.datasets import Files
from studies.frozen import Frozen, Listed
from workers.data.decoding import Inspection, Oddity, inspect
from workers.data.headers import BadImage, format_of, jpeg_header, png_header, webp_size
from workers.data.shards import Shards
from workers.supervision import DataError

_SAMPLED_GROUPS = 8


class Misfit(StrEnum):
    """Why a row whose image can be decoded cannot be trained on all the same."""

    LABEL = "label-out-of-range"
    SIZE = "other-size"
    """Not of the size that the registry promises for every image."""
    CRASH = "crashes"
    """The process that decoded it died."""


class Promise(Frozen):
    """A data set, and what the registry promises of each of its images."""

    files: Files
    fingerprints: dict[str, str | None]
    """Of the stored splits."""
    classes: PositiveInt
    channels: PositiveInt
    image_size: PositiveInt | None

    def shards(self, split: str) -> Shards:
        """The shards of a split. Raises DataError when its index cannot be read."""
        return Shards(self.files, split, self.fingerprints[split])


class Piece(Frozen):
    """Row groups of one shard, or some rows of one row group."""

    split: str
    file: str
    first_group: NonNegativeInt
    groups: PositiveInt
    first_row: NonNegativeInt
    """Of the split; the first that is looked at."""
    rows: PositiveInt

    def __str__(self) -> str:
        """As progress and errors name it."""
        return f"{self.file}, rows {self.first_row:,} to {self.first_row + self.rows - 1:,} of {self.split}"


class BadRow(Frozen):
    """A row that cannot be trained on."""

    row: NonNegativeInt
    fault: str
    """A value of `headers.Fault` or `Misfit`."""
    message: str


class BrokenGroup(Frozen):
    """A row group that cannot be read at all: its images were not looked at."""

    first_row: NonNegativeInt
    rows: PositiveInt
    message: str


class Findings(Frozen):
    """What is known of the images of a piece."""

    rows: NonNegativeInt
    """Images that were looked at."""
    image_bytes: NonNegativeInt
    """Of the encoded images."""
    bad: Listed[BadRow]
    broken: Listed[BrokenGroup]
    oddities: dict[str, Listed[int]]
    """Rows of each kind of `decoding.Oddity`."""
    sizes: Listed[tuple[int, int, int]]
    """Width, height and number of images of each size that there is; without the images that cannot be decoded."""
    formats: dict[str, int]
    class_counts: dict[int, int]
    """Images of each label, wrong labels too."""


def check(promise: Promise, piece: Piece) -> Findings:
    """Decode every image of a piece. Memory is one row group and one image.

    Raises DataError when the index or the shard's columns cannot be read; a damaged row group is a finding.
    """
    shards = promise.shards(piece.split)
    found = Tally()
    for group in range(piece.first_group, piece.first_group + piece.groups):
        first = int(shards.row_groups.first_row_G[group])
        rows = int(shards.row_groups.rows_G[group])
        try:
            read = shards.read(group)
        except DataError as error:
            found.broken.append(BrokenGroup(first_row=first, rows=rows, message=str(error)))
            continue
        for index in range(max(piece.first_row - first, 0), min(piece.first_row + piece.rows - first, rows)):
            found.see(promise, first + index, read.images[index], read.labels[index])
    return found.findings()


def crashed(piece: Piece) -> Findings:
    """What is known of a single row whose decoding ended the process."""
    assert piece.rows == 1, piece
    found = Tally()
    found.rows = 1
    message = "the process that decoded the image died: it makes a library crash, or needs too much memory"
    found.bad.append(BadRow(row=piece.first_row, fault=Misfit.CRASH, message=message))
    return found.findings()


def pieces_of(shards: Shards) -> list[Piece]:
    """One piece for each shard of a split."""
    first_group_S, first_row_G = shards.row_groups.first_group_S, shards.row_groups.first_row_G
    groups_S = np.diff(first_group_S, append=len(first_row_G))
    return [
        Piece(
            split=shards.split,
            file=shard.file,
            first_group=int(first_group),
            groups=int(groups),
            first_row=int(first_row_G[first_group]),
            rows=shard.rows,
        )
        for shard, first_group, groups in zip(shards.manifest.shards, first_group_S, groups_S, strict=True)
    ]


def by_row_group(shards: Shards, piece: Piece) -> list[Piece]:
    """A piece cut into one for each row group."""
    groups = shards.row_groups
    return [
        piece.model_copy(
            update={
                "first_group": group,
                "groups": 1,
                "first_row": int(groups.first_row_G[group]),
                "rows": int(groups.rows_G[group]),
            }
        )
        for group in range(piece.first_group, piece.first_group + piece.groups)
    ]


def by_row(piece: Piece) -> list[Piece]:
    """A piece of one row group cut into one for each row."""
    return [piece.model_copy(update={"first_row": piece.first_row + at, "rows": 1}) for at in range(piece.rows)]


class Tally:
    """Findings while they come, of any number of pieces: memory grows with what is found, not with the images."""

    def __init__(self) -> None:
        self.rows = 0
        self.image_bytes = 0
        self.bad: list[BadRow] = []
        self.broken: list[BrokenGroup] = []
        self.oddities: dict[str, list[int]] = {}
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.formats: Counter[str] = Counter()
        self.class_counts: Counter[int] = Counter()

    def see(self, promise: Promise, row: int, encoded: bytes, label: int | Sequence[int]) -> None:
        """Look at an image and its label, or labels."""
        self.rows += 1
        self.image_bytes += len(encoded)
        labels = [int(each) for each in label] if isinstance(label, Sequence) else [int(label)]
        self.class_counts.update(labels)
        seen = inspect(encoded)
        if seen.format is not None:
            self.formats[seen.format] += 1
        if seen.fault is None:
            self.sizes[seen.width, seen.height] += 1
            for oddity in seen.oddities:
                if not (oddity == Oddity.GREY and promise.channels == 1):
                    self.oddities.setdefault(oddity, []).append(row)
        wrong = _wrong(promise, seen, labels)
        if wrong is not None:
            self.bad.append(BadRow(row=row, fault=wrong[0], message=wrong[1]))

    def add(self, found: Findings) -> None:
        """Take the findings of a piece."""
        self.rows += found.rows
        self.image_bytes += found.image_bytes
        self.bad += found.bad
        self.broken += found.broken
        for kind, rows in found.oddities.items():
            self.oddities.setdefault(kind, []).extend(rows)
        self.sizes.update({(width, height): images for width, height, images in found.sizes})
        self.formats.update(found.formats)
        self.class_counts.update(found.class_counts)

    def findings(self) -> Findings:
        """All of them, rows in their order."""
        return Findings(
            rows=self.rows,
            image_bytes=self.image_bytes,
            bad=tuple(sorted(self.bad, key=lambda bad: bad.row)),
            broken=tuple(sorted(self.broken, key=lambda broken: broken.first_row)),
            oddities={kind: tuple(sorted(rows)) for kind, rows in sorted(self.oddities.items())},
            sizes=tuple((width, height, images) for (width, height), images in self.sizes.items()),
            formats=dict(self.formats.most_common()),
            class_counts=dict(self.class_counts),
        )


def _wrong(promise: Promise, seen: Inspection, labels: list[int]) -> tuple[str, str] | None:
    """The fault of a row and a sentence about it."""
    size = promise.image_size
    if seen.fault is not None:
        return seen.fault, seen.message
    if size is not None and (seen.width, seen.height) != (size, size):
        return Misfit.SIZE, f"the image has {seen.width} x {seen.height} pixels, and not {size} x {size} as all should"
    outside = [label for label in labels if not 0 <= label < promise.classes]
    if outside:
        return Misfit.LABEL, f"the label {outside[0]} is none of the {promise.classes:,} classes"
    return None


def size_of(encoded: bytes) -> tuple[int, int]:
    """Width and height as the header says, decoding only where it does not say; zeros when there is no telling."""
    try:
        match format_of(encoded):
            case "jpeg":
                jpeg = jpeg_header(encoded)
                return jpeg.width, jpeg.height
            case "png":
                png = png_header(encoded)
                return png.width, png.height
            case "webp":
                height, width = webp_size(encoded)
                return width, height
    except BadImage:
        return 0, 0
    seen = inspect(encoded)
    return seen.width, seen.height


def has_size(files: Files, size: int, piece: Piece) -> bool:
    """Whether the images of a piece are squares of so many pixels, as their headers say.

    Raises DataError for a row group that cannot be read.
    """
    shards = Shards(files, piece.split, None)
    for group in range(piece.first_group, piece.first_group + piece.groups):
        if any(size_of(encoded) != (size, size) for encoded in shards.read(group).images):
            return False
    return True


def sample(shards: Shards, images: int) -> list[Inspection]:
    """At most so many images of a split, from row groups that lie evenly in it.

    Raises DataError for a row group that cannot be read.
    """
    rows_G = shards.row_groups.rows_G
    group_N = np.arange(len(rows_G))
    if len(rows_G) > _SAMPLED_GROUPS and shards.rows > images:
        group_N = np.linspace(0, len(rows_G) - 1, _SAMPLED_GROUPS).astype(np.int64)
    each = -(-images // len(group_N))
    found = []
    for group in group_N.tolist():
        rows = int(rows_G[group])
        only = np.linspace(0, rows - 1, min(each, rows)).astype(np.int64)
        found += [inspect(encoded) for encoded in shards.read(group, only).images]
    return found[:images]
