"""The index of a data set: where each row group of its shards lies, what its bytes digest to, and all labels.

An index is a folder: `manifest.json` (`studies/manifests.py`), and for each split `SPLIT.row-groups.bin`, as
`RowGroups.to_bytes` has it, and, where each image has one label, `SPLIT.labels.bin`, little-endian int32. Both are
plain numbers, so that a digest is checked before anything is parsed. Images are read by `workers/data/shards.py`.
S = shards, G = row groups, N = rows, K = classes.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from studies.datasets import Files
from studies.manifests import FILE, Columns, Manifest, Shard, SplitManifest
from workers.data.scan import scanned
from workers.data.storage import ReadableFile, joined, read_bytes, shown, write_bytes
from workers.supervision import DataError

_ROW_GROUPS = "row-groups.bin"
_LABELS = "labels.bin"


@dataclass(frozen=True)
class RowGroups:
    """Where the row groups of a split lie, in the order of its rows."""

    shard_G: NDArray[np.int32]
    """Number of the shard in the split's manifest."""
    rows_G: NDArray[np.int32]
    offset_G: NDArray[np.int64]
    size_G: NDArray[np.int64]
    """Bytes of the file that all column chunks span."""
    digest_G: NDArray[np.uint8]
    """SHA-256 of these bytes, (G, 32)."""
    footer_offset_S: NDArray[np.int64]
    footer_size_S: NDArray[np.int64]
    """From the end of a shard's last row group to the end of the file."""
    footer_digest_S: NDArray[np.uint8]
    """SHA-256 of these bytes, (S, 32)."""

    @cached_property
    def first_row_G(self) -> NDArray[np.int64]:
        """Of each row group, in rows of the split."""
        return np.cumsum(self.rows_G, dtype=np.int64) - self.rows_G

    @cached_property
    def first_group_S(self) -> NDArray[np.int64]:
        """Of each shard, in row groups of the split."""
        return np.searchsorted(self.shard_G, np.arange(len(self.footer_size_S))).astype(np.int64)

    @property
    def rows(self) -> int:
        """Of all row groups."""
        return int(self.rows_G.sum(dtype=np.int64))

    def groups_of(self, row: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row group of each row of the split; any shape."""
        return np.searchsorted(self.first_row_G, row, side="right") - 1

    def to_bytes(self) -> bytes:
        """How many row groups and shards there are, as little-endian int64, and the arrays in the order of fields."""
        counts = np.array([len(self.rows_G), len(self.footer_size_S)], dtype="<i8")
        arrays = [np.asarray(getattr(self, name), dtype=kind) for name, kind in _KINDS.items()]
        return b"".join(array.tobytes() for array in (counts, *arrays))

    def digest(self) -> str:
        """What names all of it in a manifest: SHA-256 of its bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


_KINDS = {
    "shard_G": "<i4",
    "rows_G": "<i4",
    "offset_G": "<i8",
    "size_G": "<i8",
    "digest_G": "u1",
    "footer_offset_S": "<i8",
    "footer_size_S": "<i8",
    "footer_digest_S": "u1",
}
assert list(_KINDS) == [field.name for field in fields(RowGroups)]


@dataclass(frozen=True)
class SplitIndex:
    """The index of some shards, or of one, before it is written."""

    shards: tuple[Shard, ...]
    row_groups: RowGroups
    label_N: NDArray[np.int32] | None
    """None when each image has a list of labels."""
    count_K: NDArray[np.int64]
    """Images of each class, up to the last class that has any."""
    class_names: tuple[str, ...]
    """As the files name their classes; none when they do not."""

    def manifest(self, classes: int) -> SplitManifest:
        """What a manifest says of the split."""
        counts = np.zeros(classes, dtype=np.int64)
        counts[: len(self.count_K)] = self.count_K
        return SplitManifest(
            shards=self.shards,
            row_groups=self.row_groups.digest(),
            labels=None if self.label_N is None else _labels_digest(self.label_N),
            class_counts=tuple(counts.tolist()),
        )


# ------------------------------------------------------------------------------------------------------------ making


def index_shard(location: str, file: str, columns: Columns) -> SplitIndex:
    """The index of one shard, from one pass over its bytes; memory is a few pieces of the file and its labels.

    Raises DataError when the file is missing, is no Parquet file, has no row, or lacks the columns; and for a row that
    has no label, or a label that is no class number.
    """
    try:
        source = ReadableFile(joined(location, file))
        found = scanned(source, columns, file)
    except OSError as error:
        raise DataError(f"{file} cannot be read in {shown(location)} ({error}): put it there") from error
    layout = found.layout
    row_groups = RowGroups(
        shard_G=np.zeros(len(found.digests), dtype=np.int32),
        rows_G=layout.rows_G,
        offset_G=layout.offset_G,
        size_G=layout.size_G,
        digest_G=_digests(found.digests),
        footer_offset_S=np.array([layout.footer_offset], dtype=np.int64),
        footer_size_S=np.array([source.size_bytes - layout.footer_offset], dtype=np.int64),
        footer_digest_S=_digests([found.footer_digest]),
    )
    shard = Shard(file=file, rows=row_groups.rows, size_bytes=source.size_bytes, sha256=found.sha256)
    return SplitIndex((shard,), row_groups, found.label_N, found.count_K, found.class_names)


def index_shards(location: str, files: Sequence[str], columns: Columns) -> SplitIndex:
    """The index of a split from its shards in this order, one after the other. Raises DataError as its parts do."""
    return joined_split([index_shard(location, file, columns) for file in files])


def joined_split(parts: Sequence[SplitIndex]) -> SplitIndex:
    """The index of a split from those of its shards, in order.

    Raises DataError when the shards name their classes otherwise, or some have lists of labels and others have not.
    """
    if not parts:
        raise DataError("a split without files has no index: give at least one file")
    first = parts[0]
    for part in parts[1:]:
        files = f"{first.shards[0].file} and {part.shards[0].file}"
        if part.class_names != first.class_names:
            raise DataError(f"{files} name their classes otherwise: write them again with one list of names")
        if (part.label_N is None) != (first.label_N is None):
            raise DataError(f"{files} have one label an image and a list of them: write them again in one way")
    starts = np.cumsum([0, *(len(part.shards) for part in parts)])
    arrays = {name: np.concatenate([getattr(part.row_groups, name) for part in parts]) for name in _KINDS}
    arrays["shard_G"] = np.concatenate(
        [part.row_groups.shard_G + start for part, start in zip(parts, starts.tolist(), strict=False)]
    ).astype(np.int32)
    count_K = np.zeros(max(len(part.count_K) for part in parts), dtype=np.int64)
    for part in parts:
        count_K[: len(part.count_K)] += part.count_K
    labels = [part.label_N for part in parts if part.label_N is not None]
    return SplitIndex(
        shards=tuple(shard for part in parts for shard in part.shards),
        row_groups=RowGroups(**arrays),
        label_N=np.concatenate(labels) if labels else None,
        count_K=count_K,
        class_names=first.class_names,
    )


def manifest_of(
    splits: Mapping[str, SplitIndex],
    columns: Columns,
    *,
    channels: int,
    image_size: int | None,
    classes: int | None = None,
) -> Manifest:
    """The manifest of a data set.

    classes: when it is not given, as many as the files name, or one more than the largest label.
    Raises DataError when its splits name their classes otherwise, or a label is none of so many classes.
    """
    kinds = {(split.class_names, split.label_N is None) for split in splits.values()}
    if len(kinds) != 1:
        raise DataError(
            f"the splits {', '.join(splits)} name their classes otherwise, or only some have lists of labels: add them"
            " as several data sets"
        )
    [(names, multi_label)] = kinds
    needed = max(len(split.count_K) for split in splits.values())
    classes = classes or len(names) or needed
    if classes < needed or (names and len(names) != classes):
        raise DataError(
            f"the files have {needed:,} classes and names for {len(names):,}, and {classes:,} were given: correct the"
            " number of classes"
        )
    return Manifest(
        columns=columns,
        classes=classes,
        class_names=names,
        channels=channels,
        image_size=image_size,
        multi_label=multi_label,
        splits={name: split.manifest(classes) for name, split in splits.items()},
    )


# ----------------------------------------------------------------------------------------------- writing and reading


def packed(split: SplitIndex) -> bytes:
    """The index of some shards as bytes, so that a task can leave its part of the work behind."""
    arrays = {name: getattr(split.row_groups, name) for name in _KINDS} | {"count_K": split.count_K}
    if split.label_N is not None:
        arrays["label_N"] = split.label_N
    facts = {"shards": [shard.model_dump() for shard in split.shards], "class_names": split.class_names}
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return hashlib.sha256(stream.getvalue()).digest() + stream.getvalue()


def unpacked(data: bytes) -> SplitIndex:
    """What was packed. Raises ValueError when the bytes are not whole."""
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise ValueError("these bytes are no index of shards, or not all of one")
    with np.load(io.BytesIO(data[32:]), allow_pickle=False) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
        return SplitIndex(
            shards=tuple(Shard(**shard) for shard in facts["shards"]),
            row_groups=RowGroups(**{name: arrays[name] for name in _KINDS}),
            label_N=arrays.get("label_N"),
            count_K=arrays["count_K"],
            class_names=tuple(facts["class_names"]),
        )


def write_index(index_location: str, manifest: Manifest, splits: Mapping[str, SplitIndex]) -> None:
    """Write the arrays of some splits, and then the manifest, which names all splits there are.

    splits: those that are new; the arrays of others stay as they are.
    Raises OSError when the place cannot be written to.
    """
    for name, split in splits.items():
        assert manifest.splits[name].row_groups == split.row_groups.digest()
        write_bytes(joined(index_location, f"{name}.{_ROW_GROUPS}"), split.row_groups.to_bytes())
        if split.label_N is not None:
            write_bytes(joined(index_location, f"{name}.{_LABELS}"), split.label_N.astype("<i4").tobytes())
    write_bytes(joined(index_location, FILE), (manifest.model_dump_json(indent=1) + "\n").encode())


@dataclass(frozen=True)
class Index:
    """An index that was written: its manifest, and arrays that are read when they are asked for."""

    location: str
    manifest: Manifest

    def split(self, name: str) -> SplitManifest:
        """What the manifest says of a split. Raises DataError when it is not there."""
        if name not in self.manifest.splits:
            raise DataError(
                f"the index in {shown(self.location)} has no split '{name}' among {', '.join(self.manifest.splits)}:"
                " add it with `vitscale data add`"
            )
        return self.manifest.splits[name]

    def row_groups(self, split: str) -> RowGroups:
        """Where the row groups of a split lie. Raises DataError when this is missing or damaged."""
        return _row_groups(self._checked_bytes(f"{split}.{_ROW_GROUPS}", self.split(split).row_groups))

    def labels(self, split: str) -> NDArray[np.int32] | None:
        """Labels of all rows of a split, (N,); None of a set of many labels an image.

        Raises DataError when they are missing or damaged.
        """
        due = self.split(split).labels
        return None if due is None else np.frombuffer(self._checked_bytes(f"{split}.{_LABELS}", due), dtype="<i4")

    def _checked_bytes(self, file: str, digest: str) -> bytes:
        try:
            data = read_bytes(joined(self.location, file))
        except OSError as error:
            raise _unreadable(self.location, file, error) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise DataError(
                f"{file} of the index in {shown(self.location)} is damaged, or of other data than its {FILE}: make the"
                " index again with `vitscale data add`"
            )
        return data


def read_index(files: Files) -> Index:
    """The index of a data set. Raises DataError when it is missing, damaged, or of another version of this program."""
    location = files.index_location
    try:
        written = json.loads(read_bytes(joined(location, FILE)))
        if isinstance(written, dict) and written.get("format", 1) != 1:
            raise DataError(
                f"the index in {shown(location)} has the format {written['format']}, and this program reads 1: make it"
                " again with `vitscale data add`, or run a newer vitscale"
            )
        manifest = Manifest.model_validate(written)
    except OSError as error:
        raise _unreadable(location, FILE, error) from error
    except (ValueError, ValidationError) as error:
        raise DataError(
            f"{FILE} of the index in {shown(location)} is damaged: make the index again with `vitscale data add`"
        ) from error
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        if shard.file.startswith("/") or ".." in shard.file.split("/"):
            raise DataError(
                f"{FILE} of the index in {shown(location)} names the file {shard.file} outside of its data set: make"
                " the index again with `vitscale data add`"
            )
    return Index(location, manifest)


def _unreadable(location: str, file: str, error: OSError) -> DataError:
    cure = "make the index with `vitscale data add`, or correct the location"
    if isinstance(error, FileNotFoundError):
        return DataError(f"{shown(location)} has no {file}, which belongs to an index: {cure}")
    return DataError(f"{file} of the index in {shown(location)} cannot be read ({error}): {cure}")


def _labels_digest(label_N: NDArray[np.int32]) -> str:
    return hashlib.sha256(label_N.astype("<i4").tobytes()).hexdigest()


def _digests(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)


def _row_groups(data: bytes) -> RowGroups:
    """What `RowGroups.to_bytes` gave."""
    groups, shards = np.frombuffer(data, dtype="<i8", count=2).tolist()
    arrays, at = {}, 16
    for name, kind in _KINDS.items():
        count = (groups if name.endswith("_G") else shards) * (32 if kind == "u1" else 1)
        array = np.frombuffer(data, dtype=kind, count=count, offset=at)
        arrays[name] = array.reshape(-1, 32) if kind == "u1" else array
        at += array.nbytes
    return RowGroups(**arrays)
