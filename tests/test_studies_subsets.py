"""Subsets: nested, the same on every machine, and worked out without a table."""

import resource
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.datasets import DataSet, DropList, Files, Part, SplitUse, StoredSplit, Thinned
from studies.permutation import permuted, places_of
from studies.subsets import Subset, rows_digest, subset_of

FINGERPRINT = "ab" * 32


def data_set(rows: int, classes: int = 2, **splits: SplitUse) -> DataSet:
    return DataSet(
        name="some",
        origin=Files(location="/nowhere"),
        splits={"train": StoredSplit(rows=rows, fingerprint=FINGERPRINT), **splits},
        classes=classes,
        channels=3,
        image_size=None,
        source="this test",
    )


def subset(
    named: DataSet,
    split: str = "train",
    take: int | str | None = None,
    per_class: int | None = None,
    dropped: list[int] | None = None,
    label_N: np.ndarray | None = None,
) -> Subset:
    data = named.take(split, take, per_class)
    return subset_of(named.selection(split), data, np.array(dropped or [], dtype=np.int64), label_N)


def all_rows(of: Subset) -> list[int]:
    return [int(row) for row in of.rows_at(np.arange(of.rows))]


def drop_list(rows: list[int]) -> DropList:
    return DropList(file="x.parquet", rows=len(rows), digest=rows_digest(np.array(rows, dtype=np.int64)))


@given(rows=st.integers(1, 5000), key=st.integers())
@settings(max_examples=50, deadline=None)
def test_places_of_is_the_inverse_of_permuted(rows: int, key: int) -> None:
    row = permuted(np.arange(rows), rows, key)
    assert np.array_equal(np.sort(row), np.arange(rows))
    assert np.array_equal(places_of(row, rows, key), np.arange(rows))


@given(most=st.integers(2, 2000), data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_smaller_subset_is_a_prefix_of_a_larger_one_and_holds_no_row_twice(most: int, data: st.DataObject) -> None:
    larger = data.draw(st.integers(1, most))
    smaller = data.draw(st.integers(1, larger))
    named = data_set(most)
    rows = all_rows(subset(named, take=larger))
    assert all_rows(subset(named, take=smaller)) == rows[:smaller]
    assert len(set(rows)) == larger
    assert set(rows) <= set(range(most))


@given(most=st.integers(4, 800), data=st.data())
@settings(max_examples=60, deadline=None)
def test_places_and_rows_are_each_others_inverse_through_parts_and_drop_lists(most: int, data: st.DataObject) -> None:
    dropped = sorted(data.draw(st.sets(st.integers(0, most - 1), min_size=1, max_size=most // 2)))
    start = data.draw(st.integers(0, most - len(dropped) - 1))
    order: Literal["shuffled", "file"] = data.draw(st.sampled_from(["shuffled", "file"]))
    named = data_set(
        most,
        clean=Thinned(of="train", drop=(drop_list(dropped),)),
        part=Part(of="clean", start=start, order=order),
        half=Part(of="part", stop="51%"),
    )
    for split in ("clean", "part", "half"):
        most_rows = named.selection(split).rows
        some = subset(named, split, take=data.draw(st.integers(1, most_rows)), dropped=dropped)
        rows = all_rows(some)
        assert len(set(rows)) == some.rows
        assert not set(rows) & set(dropped)
        places = some.places_at(np.arange(most))
        assert [int(places[row]) for row in rows] == list(range(some.rows))
        assert sorted(places[places >= 0].tolist()) == list(range(some.rows))
    if order == "file":
        kept = [row for row in range(most) if row not in set(dropped)]
        whole = subset(named, "part", dropped=dropped)
        assert sorted(all_rows(whole)) == kept[start:]


def test_parts_of_a_split_share_no_row_and_leave_none_out() -> None:
    named = data_set(1000, development=Part(of="train", stop="2%"), remaining=Part(of="train", start="2%"))
    development, remaining = subset(named, "development"), subset(named, "remaining")
    assert (development.rows, remaining.rows) == (20, 980)
    assert sorted(all_rows(development) + all_rows(remaining)) == list(range(1000))
    assert sorted(all_rows(development)) != list(range(20)), "a part in shuffled order is no run of neighbours"


def test_per_class_takes_so_many_of_each_class_and_is_nested() -> None:
    label_N = np.arange(900) % 3
    named = data_set(900, classes=3)
    few = subset(named, per_class=5, label_N=label_N)
    more = subset(named, per_class=50, label_N=label_N)
    assert np.bincount(label_N[all_rows(few)]).tolist() == [5, 5, 5]
    assert all_rows(more)[: few.rows] == all_rows(few)
    places = few.places_at(np.arange(900))
    assert [int(places[row]) for row in all_rows(few)] == list(range(15))
    with pytest.raises(ValueError, match="class 2 has 200 images in the train split of some, fewer than the 250"):
        subset(named, per_class=250, label_N=np.repeat([0, 1, 2], [350, 350, 200]))


def test_the_certificate_names_the_rows_in_their_order_and_counts_bad_ones() -> None:
    bad = drop_list([3, 7])
    named = data_set(10).model_copy(
        update={
            "splits": {"train": StoredSplit(rows=10, fingerprint=FINGERPRINT, bad=bad)},
            "bad_rows": "skip",
        }
    )
    found = subset(named, take=5, dropped=[3, 7])
    certificate = found.certificate()
    assert (certificate.rows, certificate.skipped) == (5, 2)
    assert certificate.digest == rows_digest(np.array(all_rows(found)))
    assert subset(named, take=4, dropped=[3, 7]).certificate().digest != certificate.digest


def test_drop_lists_of_another_length_than_the_selection_says_are_refused() -> None:
    named = data_set(10, clean=Thinned(of="train", drop=(drop_list([1, 2]),)))
    with pytest.raises(ValueError, match="name 1 rows, not 2"):
        subset(named, "clean", dropped=[1])


_HUGE = """
import resource, time
import numpy as np
from studies.datasets import DataSet, Files, StoredSplit
from studies.subsets import subset_of
named = DataSet(name="jft", origin=Files(location="/"), classes=2, channels=3, image_size=None, source="",
                splits={"train": StoredSplit(rows=303_000_000, fingerprint="ab" * 32)})
before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
place = np.random.default_rng(0).integers(0, 9_000_000, 100_000)
subsets = [subset_of(named.selection("train"), named.take("train", take), np.empty(0, np.int64), None)
           for take in ("9M", "30M", "10%", None)]
rows = [each.rows_at(place) for each in subsets]
assert all((each == rows[0]).all() for each in rows)
assert (subsets[1].places_at(rows[0]) == place).all()
print(time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib)
"""


def test_subsets_of_303_million_rows_are_nested_in_less_than_50_megabytes() -> None:
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0  # in KiB on Linux
    done = subprocess.run([sys.executable, "-c", _HUGE], capture_output=True, text=True, check=True)
    seconds, grown_kib = map(float, done.stdout.split())
    assert grown_kib < 50 * 1024
    assert seconds < 10  # 0.2 s where nothing else runs; benchmarks, not tests, hold it to a second
