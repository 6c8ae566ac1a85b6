"""What is known of data sets: all of them in short, and one of them with its splits, classes, sizes and examples."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.settings import Settings
from studies.datasets import BUILT_IN, DataSet, Files, Part, Selection, SplitUse, StoredSplit
from studies.known_sizes import no_images
from studies.procedural import ENDLESS
from studies.registry import Registry, load_registry
from workers.data import contact_sheet
from workers.data.checking import sample
from workers.data.decoding import BadImage, decode
from workers.data.image_sizes import described
from workers.data.index import read_index
from workers.data.sources import Drawn, Stored, open_source
from workers.supervision import DataError

_SAMPLE = 512
"""Images whose size is looked at."""
SHEET_CLASSES = 12
SHEET_IMAGES = 10
"""Of each class."""
_DRAWN_BYTES = 64 * 2**20
_MOST_DRAWN = 4096
"""Generated images among which those of a sheet are looked for: their class is known when they are drawn."""


def all_data_sets(settings: Settings) -> list[dict[str, Any]]:
    """Every data set in short, the user's own first. A set whose index cannot be read says so in `fault`.

    Raises StudyError for a registry with a fault.
    """
    sets = load_registry(settings.datasets).sets
    return [_in_short(each) for each in sorted(sets.values(), key=_place)]


def _place(data_set: DataSet) -> int:
    """The user's own first, those without images last."""
    return 2 if data_set.origin is None else data_set.name in BUILT_IN


def _in_short(data_set: DataSet) -> dict[str, Any]:
    size_bytes, fault = None, None
    if isinstance(data_set.origin, Files):
        try:
            size_bytes = sum(split.size_bytes for split in read_index(data_set.origin).manifest.splits.values())
        except DataError as error:
            fault = str(error)
    return {
        "name": data_set.name,
        "kind": _kind(data_set),
        "built_in": data_set.name in BUILT_IN or data_set.origin is None,
        "location": data_set.origin.location if isinstance(data_set.origin, Files) else None,
        "classes": data_set.classes,
        "channels": data_set.channels,
        "image_size": data_set.image_size,
        "multi_label": data_set.multi_label,
        "splits": {split: _selection(data_set, split).rows for split in data_set.splits},
        "size_bytes": size_bytes,
        "fault": fault,
    }


def _kind(data_set: DataSet) -> str:
    if data_set.origin is None:
        return "sizes"
    return "files" if isinstance(data_set.origin, Files) else "generated"


def _selection(data_set: DataSet, split: str) -> Selection:
    """The rows of a split, of one that nobody has checked yet as well."""
    try:
        return data_set.selection(split)
    except ValueError:
        if split not in data_set.splits:
            raise
        return data_set.model_copy(update={"bad_rows": "fail"}).selection(split)


# -------------------------------------------------------------------------------------------------------------- show


def show(settings: Settings, name: str, *, split: str | None = None, picture: Path | None = None) -> dict[str, Any]:
    """A data set and one of its splits; the picture, where one is asked for, is of images of that split.

    split: `train`, or the first one, when it is None.
    Raises ValueError for an unknown set or split and a picture of a set without images, DataError when its index or
    shards cannot be read, and OSError when the picture cannot be written.
    """
    registry = load_registry(settings.datasets)
    data_set = registry.get(name)
    shown = split or ("train" if "train" in data_set.splits else next(iter(data_set.splits)))
    _selection(data_set, shown)  # an unknown one is an error before anything is read
    if picture is not None:
        contact_sheet.check_ending(picture)
        if data_set.origin is None:
            raise ValueError(no_images(name))
    files = data_set.origin if isinstance(data_set.origin, Files) else None
    report = {
        "name": name,
        "kind": _kind(data_set),
        "location": files.location if files else None,
        "index": files.index_location if files else None,
        "registry": None if name in BUILT_IN or data_set.origin is None else str(settings.datasets),
        "generator": None if files or data_set.origin is None else data_set.origin.model_dump(),
        "source": data_set.source,
        "classes": data_set.classes,
        "channels": data_set.channels,
        "image_size": data_set.image_size,
        "multi_label": data_set.multi_label,
        "bad_rows": data_set.bad_rows,
        "splits": [_described(data_set, each, use) for each, use in data_set.splits.items()],
        "shown": None,
    }
    if data_set.origin is not None:
        source = _opened(data_set, shown, registry)
        report["shown"] = _looked_into(source, shown)
        if picture is not None:
            _draw(picture, source, data_set, shown)
    return report


def _described(data_set: DataSet, split: str, use: SplitUse) -> dict[str, Any]:
    selection = _selection(data_set, split)
    return {
        "split": split,
        "rows": selection.rows,
        "skipped": selection.skipped,
        "fingerprint": selection.fingerprint,
        "stored": selection.stored,
        "how": _how(use) if isinstance(data_set.origin, Files) else _kind(data_set),
    }


def _how(use: SplitUse) -> str:
    """How a split comes from its shards or from another split."""
    if isinstance(use, StoredSplit):
        return "stored" if use.bad is None else f"stored; {use.bad.rows or 'no'} bad rows by the last check"
    if isinstance(use, Part):
        order = "shuffled" if use.order == "shuffled" else "in the order of the files"
        start, stop = (f"{border:,}" if isinstance(border, int) else border for border in (use.start, use.stop))
        return f"{start} to {stop} of {use.of}, {order}"
    rows = sum(each.rows for each in use.drop)
    return f"{use.of} without {rows:,} rows: {', '.join(each.file for each in use.drop)}"


def _opened(data_set: DataSet, split: str, registry: Registry) -> Stored | Drawn:
    """The images of a split; of a generated one, so many that each class has some."""
    rows = data_set.selection(split).rows
    if not isinstance(data_set.origin, Files):
        assert data_set.image_size is not None
        fit = _DRAWN_BYTES // (data_set.image_size**2 * data_set.channels)
        rows = min(rows, fit, _MOST_DRAWN, 4 * SHEET_IMAGES * data_set.classes)
    return open_source(data_set.take(split, rows), registry)


def _looked_into(source: Stored | Drawn, split: str) -> dict[str, Any]:
    """Classes, sizes and bytes of a split."""
    found: dict[str, Any] = {
        "split": split,
        "shards": None,
        "size_bytes": None,
        "sizes": None,
        "class_names": [],
        "class_counts": None,
    }
    if isinstance(source, Drawn):
        return found
    manifest, selection = source.shards.index.manifest, source.subset.selection
    if split == selection.stored:
        found |= {"shards": len(source.shards.manifest.shards), "size_bytes": source.shards.manifest.size_bytes}
    seen = sample(source.shards, _SAMPLE)
    found["sizes"] = described(
        (width, height, images)
        for (width, height), images in Counter((each.width, each.height) for each in seen if each.fault is None).items()
    )
    found["class_names"] = list(manifest.class_names)
    if not selection.steps:
        found["class_counts"] = list(source.shards.manifest.class_counts)
    elif not manifest.multi_label:
        found["class_counts"] = np.bincount(source.labels(), minlength=manifest.classes).tolist()
    return found


# ----------------------------------------------------------------------------------------------------- contact sheet


def _draw(picture: Path, source: Stored | Drawn, data_set: DataSet, split: str) -> None:
    """Draw a row of images for each class, or for some that lie evenly among them."""
    rows = data_set.selection(split).rows
    images = "endless images" if isinstance(source, Drawn) and rows >= ENDLESS else f"{rows:,} images"
    if data_set.multi_label:
        assert isinstance(source, Stored)
        place_N = np.arange(min(source.data.rows, SHEET_CLASSES * SHEET_IMAGES), dtype=np.int64)
        drawn = _images_at(source, place_N)
        lines = [
            contact_sheet.Row("", "", [drawn[place] for place in place_N[start : start + SHEET_IMAGES].tolist()])
            for start in range(0, len(place_N), SHEET_IMAGES)
        ]
        about = f"{images} with several of {data_set.classes:,} classes each; these were picked by chance"
        contact_sheet.draw(picture, f"{data_set.name} · {split}", about, lines)
        return
    label_N = source.labels()
    count_K = np.bincount(label_N, minlength=data_set.classes)
    chosen = _evenly(np.flatnonzero(count_K), SHEET_CLASSES)
    place_of = {label: np.flatnonzero(label_N == label)[:SHEET_IMAGES] for label in chosen}
    drawn = _images_at(source, np.concatenate(list(place_of.values())))
    names = source.shards.index.manifest.class_names if isinstance(source, Stored) else ()
    lines = [
        contact_sheet.Row(
            names[label] if names else f"class {label}",
            f"{count_K[label]:,} images" if isinstance(source, Stored) else "",
            [drawn[place] for place in place_N.tolist()],
        )
        for label, place_N in place_of.items()
    ]
    of = (
        f"{data_set.classes:,} classes"
        if len(chosen) == data_set.classes
        else f"{len(chosen)} of {data_set.classes:,} classes"
    )
    about = f"{images}; {of}, each with {SHEET_IMAGES} images picked by chance"
    contact_sheet.draw(picture, f"{data_set.name} · {split}", about, lines)


def _evenly(labels: NDArray[np.int64], most: int) -> list[int]:
    """At most so many of some labels, from the first to the last."""
    if len(labels) <= most:
        return [int(label) for label in labels]
    return [int(labels[at]) for at in np.linspace(0, len(labels) - 1, most).round().astype(np.int64)]


def _images_at(source: Stored | Drawn, place_N: NDArray[np.int64]) -> dict[int, NDArray[np.uint8] | str]:
    """The image at each place, or what is wrong with it. A row group is read once."""
    if isinstance(source, Drawn):
        image_NHWC, _ = source.draw(source.subset.rows_at(place_N))
        return dict(zip(place_N.tolist(), image_NHWC, strict=True))
    found: dict[int, NDArray[np.uint8] | str] = {}
    for group, row_N, places in source.by_group(place_N):
        images = source.shards.read(group, row_N - source.shards.row_groups.first_row_G[group]).images
        for place, encoded in zip(places.tolist(), images, strict=True):
            try:
                found[place] = decode(encoded, source.data.channels)
            except BadImage as bad:
                found[place] = bad.fault.value
    return found
