"""From what was found in a source to what is written: names of splits, labels of classes, rows of each shard.

N = rows.
"""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from studies.manifests import Manifest
from workers.data.importing.plans import UNSPLIT, Found
from workers.supervision import DataError


def check_split_name(split: str) -> None:
    """Raise ValueError for a name that no split of a registry can have."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", split):
        raise ValueError(
            f"'{split}' cannot be a split's name: begin with a small letter or a digit, go on with these and . _ -"
        )


def named_splits(found: Found, split: str | None, source: str) -> dict[str, Any]:
    """Tables of rows by the names that splits will have.

    split: of a source with splits the one to take, of another what its split is called.
    Raises DataError when only some files belong to a split, and ValueError for a split that is not there.
    """
    tables = dict(found.splits)
    own = sorted(set(tables) - {UNSPLIT})
    if own and UNSPLIT in tables:
        raise DataError(
            f"some of the files in {source} name a split ({', '.join(own)}) and others none: import them one"
            " after the other"
        )
    if not own:
        return {split or "train": tables[UNSPLIT]}
    for each in own:
        check_split_name(each)
    if split is None:
        return {each: tables[each] for each in sorted(own, key=lambda each: (each != "train", each))}
    if split not in own:
        raise ValueError(f"{source} has the splits {', '.join(own)} and no '{split}': choose with --split")
    return {split: tables[split]}


def same_classes(
    found: Found, tables: Mapping[str, Any], before: Manifest | None, name: str
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Class names, and tables with the labels that these have: those of the data set when it is there already.

    Raises DataError when the data set has other classes.
    """
    if before is None:
        return found.class_names, dict(tables)
    if found.multi_label != before.multi_label:
        raise DataError(f"{name} has {'lists of labels' if before.multi_label else 'one label an image'}, this has not")
    if not found.class_names or found.class_names == before.class_names:
        return before.class_names, dict(tables)
    place = {each: label for label, each in enumerate(before.class_names)}
    if unknown := [each for each in found.class_names if each not in place]:
        raise DataError(f"{name} has no class '{unknown[0]}': import this as another data set, or rename the class")
    if found.multi_label:
        raise DataError(f"the classes of {name} have another order: write the lists of labels in that order")
    label_of = [place[each] for each in found.class_names]
    return before.class_names, {split: _relabeled(table, label_of) for split, table in tables.items()}


def count_classes(tables: Mapping[str, Any], names: Sequence[str], before: Manifest | None, source: str) -> int:
    """How many classes there are. Raises DataError when there are too few, or a label is none of them."""
    labels = [table["label"] for table in tables.values()]
    flat = [pc.list_flatten(label) if pa.types.is_list(label.type) else label for label in labels]
    largest = max((pc.max(label).as_py() for label in flat if len(label)), default=0)
    classes = before.classes if before else len(names) or largest + 1
    if largest >= classes:
        raise DataError(
            f"{source} has the label {largest}, and there are {classes:,} classes, 0 to {classes - 1}: mend it"
        )
    if classes < 2:
        only = f"the class '{names[0]}'" if names else "the label 0"
        raise DataError(f"{source} has only {only}: give a source with two classes at least")
    return classes


def shard_borders(size_N: NDArray[np.int64], shard_bytes: int) -> list[tuple[int, int]]:
    """First row and the row after the last of each shard: shards of equal bytes, none above the limit by much."""
    until_N = np.cumsum(size_N)
    shards = max(-(-int(until_N[-1]) // shard_bytes), 1)
    inner = np.searchsorted(until_N, until_N[-1] * np.arange(1, shards) / shards)
    borders = np.unique([0, *inner.tolist(), len(size_N)]).tolist()
    return list(pairwise(borders))


def plan_bytes(table: Any, borders: Sequence[tuple[int, int]]) -> bytes:
    """A plan as Parquet, whose row group k holds the rows of shard k."""
    stream = io.BytesIO()
    with pq.ParquetWriter(stream, table.schema, compression="zstd") as writer:
        for first, stop in borders:
            writer.write_table(table.slice(first, stop - first), row_group_size=stop - first)
    return stream.getvalue()


def _relabeled(table: Any, label_of: Sequence[int]) -> Any:
    """A table of rows, each label replaced by the one in its place."""
    label_N = np.asarray(label_of, dtype=np.int64)[table["label"].to_numpy()]
    return table.set_column(table.schema.get_field_index("label"), "label", pa.array(label_N))
