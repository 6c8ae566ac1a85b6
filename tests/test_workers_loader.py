"""Batches from real shards: the same for any number of readers and any start; errors come home, and threads end."""

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from studies.augmentations import AUGMENTATIONS, Augmentation, Resize
from studies.datasets import DIGITS, DataSet, DropList, Files, Part, StoredSplit, Thinned, generated
from studies.definitions import Data
from studies.manifests import Columns
from studies.procedural import Shapes
from studies.registry import BUILT_IN_ONLY, Registry
from studies.subsets import rows_digest
from workers.data.index import index_shards, manifest_of, write_index
from workers.data.loader import TrainLoader, eval_batches
from workers.data.procedural import render
from workers.data.sources import Source, Stored, open_source
from workers.data.views import EvalView, TrainView
from workers.supervision import DataError

ROWS, GROUP_ROWS, CLASSES = 240, 10, 4
SIZE = 16
WHOLE = Augmentation(crop=Resize())
HELD, STREAMED = 2**30, 2_000
"""Bytes of a round with which the sets here are kept in memory, or are streamed."""


def encoded(row: int, format: str | None = None, side: int | None = None) -> bytes:
    """A picture of one grey that says its row, in one of several sizes and formats."""
    height, width = (side, side) if side else (20 + row % 7, 18 + row % 11)
    pixels = np.full((height, width, 3), row, dtype=np.uint8)
    pixels[0, 0] = 255 - row  # so that no two files are alike, and shifts show
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format or ("PNG" if row % 3 else "JPEG"), quality=100, subsampling=0)
    return file.getvalue()


def stored(folder: Path, images: list[bytes], labels: list[Any], **changes: Any) -> Registry:
    """A registry with the data set `small`, written as two shards and indexed."""
    folder.mkdir(parents=True, exist_ok=True)
    half = len(images) // 2
    for number, part in enumerate((slice(0, half), slice(half, None))):
        column = [{"bytes": each, "path": None} for each in images[part]]
        table = pa.table({"image": column, "label": labels[part]})
        pq.write_table(table, folder / f"train-{number}.parquet", row_group_size=GROUP_ROWS)
    split = index_shards(str(folder), ["train-0.parquet", "train-1.parquet"], Columns())
    manifest = manifest_of({"train": split}, Columns(), channels=3, image_size=None, classes=CLASSES)
    files = Files(location=str(folder))
    write_index(files.index_location, manifest, {"train": split})
    train = StoredSplit(rows=len(images), fingerprint=manifest.fingerprint("train"))
    fields: dict[str, Any] = {
        "name": "small",
        "origin": files,
        "splits": {"train": train, **changes.pop("splits", {})},
        "classes": CLASSES,
        "channels": 3,
        "image_size": None,
        "source": "this test",
    }
    return Registry({"small": DataSet(**(fields | changes))}, folder / "datasets.yaml")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Images sorted by class; row r is of grey r."""
    labels = [row * CLASSES // ROWS for row in range(ROWS)]
    dropped = pa.table({"row": pa.array(DROPPED)})
    folder = tmp_path_factory.mktemp("small")
    pq.write_table(dropped, folder / "drop.parquet")
    listed = DropList(file="drop.parquet", rows=len(DROPPED), digest=rows_digest(DROPPED))
    splits = {"development": Part(of="train", stop="10%"), "clean": Thinned(of="train", drop=(listed,))}
    return stored(folder, [encoded(row) for row in range(ROWS)], labels, splits=splits)


DROPPED = np.arange(5, 200, 13)


def take(registry: Registry, split: str = "train", **which: Any) -> Source:
    return open_source(registry.get("small").take(split, **which), registry)


def view(augmentation: Augmentation = WHOLE, channels: int = 3) -> TrainView:
    return TrainView(augmentation, SIZE, channels, seed=3)


def batches(
    source: Source,
    steps: int,
    *,
    first_step: int = 0,
    batch: int = 32,
    readers: int = 2,
    round_bytes: int = STREAMED,
    augmentation: Augmentation = WHOLE,
    seed: int = 3,
) -> Iterator[tuple[NDArray[np.uint8], Any, NDArray[np.int64]]]:
    """Copies of a training's batches."""
    with TrainLoader(
        source,
        view(augmentation, source.data.channels),
        batch=batch,
        seed=seed,
        first_step=first_step,
        steps=steps,
        readers=readers,
        round_bytes=round_bytes,
    ) as loader:
        for images, labels, positions in loader:
            assert loader.waited_seconds > 0
            yield images.copy(), labels, positions


def rows_in(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The rows that pictures say they are: JPEG of one grey is exact but near its corner."""
    return images[:, SIZE - 1, SIZE - 1, 0].astype(np.int64)


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("round_bytes", [HELD, STREAMED])
@pytest.mark.parametrize("augmentation", ["inception", "light2"])
def test_one_two_and_seven_readers_make_the_same_batches(
    registry: Registry, augmentation: str, round_bytes: int
) -> None:
    source = take(registry)
    made = [
        list(batches(source, 20, readers=readers, round_bytes=round_bytes, augmentation=AUGMENTATIONS[augmentation]))
        for readers in (1, 2, 7)
    ]
    assert len(made[0]) == 20
    assert same(made[0], made[1])
    assert same(made[0], made[2])


@pytest.mark.parametrize("round_bytes", [HELD, STREAMED])
@pytest.mark.parametrize("first_step", [1, 7, 8, 23])
def test_a_training_that_goes_on_from_any_step_has_the_same_batches(
    registry: Registry, first_step: int, round_bytes: int
) -> None:
    source = take(registry)
    whole = list(batches(source, 30, round_bytes=round_bytes, augmentation=AUGMENTATIONS["inception"]))
    rest = batches(
        take(registry),
        30 - first_step,
        first_step=first_step,
        round_bytes=round_bytes,
        augmentation=AUGMENTATIONS["inception"],
    )
    assert same(whole[first_step:], list(rest))


@given(
    seed=st.integers(0),
    batch=st.integers(1, 100),
    which=st.sampled_from(
        [("train", {}), ("train", {"subset": 101}), ("train", {"per_class": 9}), ("development", {}), ("clean", {})]
    ),
    round_bytes=st.sampled_from([HELD, STREAMED, 9_000]),
)
@settings(max_examples=25, deadline=None)
def test_each_epoch_holds_each_image_of_the_subset_once(
    registry: Registry, seed: int, batch: int, which: tuple[str, dict[str, int]], round_bytes: int
) -> None:
    source = take(registry, which[0], **which[1])
    rows = source.data.rows
    made = list(batches(source, -(-2 * rows // batch), seed=seed, batch=batch, round_bytes=round_bytes))
    row = np.concatenate([rows_in(images) for images, _, _ in made])
    label = np.concatenate([labels for _, labels, _ in made])
    position = np.concatenate([positions for _, _, positions in made])
    assert np.array_equal(label, row * CLASSES // ROWS)
    assert np.array_equal(position, np.arange(len(position)))
    expected = np.sort(source.subset.rows_at(np.arange(rows)))
    for epoch in range(2):
        assert np.array_equal(np.sort(row[epoch * rows : (epoch + 1) * rows]), expected)
    if which[0] == "clean":
        assert not set(row.tolist()) & set(DROPPED.tolist())


def test_a_streamed_epoch_has_another_order_than_one_in_memory_and_the_same_images(registry: Registry) -> None:
    held, streamed = (
        np.concatenate([rows_in(images) for images, _, _ in batches(take(registry), 15, batch=16, round_bytes=each)])
        for each in (HELD, STREAMED)
    )
    assert not np.array_equal(held, streamed)
    assert np.array_equal(np.sort(held), np.sort(streamed))


def test_a_set_with_lists_of_labels_gives_ones_for_them(tmp_path: Path) -> None:
    lists = [[row % 2, 2] if row % 3 else [] for row in range(60)]
    registry = stored(tmp_path, [encoded(row) for row in range(60)], lists, multi_label=True)
    for images, labels, _ in batches(take(registry), 4, batch=15):
        assert labels.dtype == np.float32
        for row, ones in zip(rows_in(images).tolist(), labels, strict=True):
            assert sorted(set(lists[row])) == np.flatnonzero(ones).tolist()


def test_generated_images_come_by_the_row_without_files() -> None:
    shapes = Shapes(classes=4, image_size=SIZE)
    data_set = generated("shapes", shapes)
    source = open_source(data_set.take("train", 50), Registry({"shapes": data_set}, None))
    made = [list(batches(source, 10, batch=10, readers=readers)) for readers in (1, 3)]
    assert same(*made)
    image_NHWC, label_N = render(shapes, "train", source.subset.rows_at(np.arange(50)))
    first = made[0][:5]
    expected = sorted(zip(map(bytes, image_NHWC), label_N.tolist(), strict=True))
    found = [pair for images, labels, _ in first for pair in zip(map(bytes, images), labels.tolist(), strict=True)]
    assert sorted(found) == expected
    assert np.array_equal(source.labels(), label_N)
    assert np.array_equal(source.decoded()[0], image_NHWC)


# ---------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("which", [{}, {"subset": 77}, {"per_class": 5}])
def test_an_evaluation_sees_each_image_once_at_its_place(registry: Registry, which: dict[str, Any]) -> None:
    source = take(registry, **which)
    for readers in (1, 3):
        places, rows = [], []
        for images, labels, place_B in eval_batches(source, EvalView(Resize(), SIZE, 3), 50, readers=readers):
            assert np.array_equal(labels, rows_in(images) * CLASSES // ROWS)
            assert np.array_equal(rows_in(images), source.subset.rows_at(place_B))
            places += place_B.tolist()
            rows += rows_in(images).tolist()
        assert rows == sorted(rows)
        assert sorted(places) == list(range(source.data.rows))


def test_an_evaluation_of_some_places_sees_those_alone(registry: Registry) -> None:
    source = take(registry)
    wanted = np.array([200, 3, 77, 5])
    made = list(eval_batches(source, EvalView(Resize(), SIZE, 3), 3, wanted, readers=2))
    assert [len(batch.images) for batch in made] == [3, 1]
    places = np.concatenate([batch.places for batch in made])
    assert sorted(places.tolist()) == [3, 5, 77, 200]
    assert np.array_equal(np.concatenate([batch.labels for batch in made]), source.labels()[places])


def test_generated_images_are_evaluated_in_the_order_of_places() -> None:
    source = open_source(BUILT_IN_ONLY.get("shapes").take("test", 20), BUILT_IN_ONLY)
    made = list(eval_batches(source, EvalView(Resize(), 32, 3), 8, np.arange(5, 20), readers=2))
    assert np.concatenate([batch.places for batch in made]).tolist() == list(range(5, 20))
    assert np.array_equal(np.concatenate([batch.labels for batch in made]), source.labels()[5:])


# ----------------------------------------------------------------------------------------------------- errors, threads


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(("reader", "row-groups"))]


@pytest.mark.parametrize("round_bytes", [HELD, STREAMED])
def test_an_image_that_cannot_be_decoded_ends_the_training_with_its_row(tmp_path: Path, round_bytes: int) -> None:
    images = [encoded(row) for row in range(ROWS)]
    images[171] = images[171][:60]
    registry = stored(tmp_path, images, [0] * ROWS)
    with pytest.raises(DataError, match=r"train-1\.parquet, row 51: the image cannot be decoded .*data check small"):
        list(batches(take(registry), 20, round_bytes=round_bytes))
    assert not threads()


@pytest.mark.parametrize("round_bytes", [HELD, STREAMED])
def test_a_shard_that_changed_ends_the_training_with_its_name(tmp_path: Path, round_bytes: int) -> None:
    registry = stored(tmp_path, [encoded(row) for row in range(ROWS)], [0] * ROWS)
    file = tmp_path / "train-1.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train-1\.parquet, row group \d+: its bytes changed"):
        list(batches(take(registry), 20, round_bytes=round_bytes))
    with pytest.raises(DataError, match=r"train-1\.parquet"):
        list(eval_batches(take(registry), EvalView(Resize(), SIZE, 3), 50, readers=2))
    assert not threads()


def test_a_label_that_is_no_class_ends_the_training_with_its_row(tmp_path: Path) -> None:
    registry = stored(tmp_path, [encoded(row) for row in range(40)], [0] * 30 + [3] * 10)
    registry = Registry({"small": registry.get("small").model_copy(update={"classes": 3})}, registry.file)
    with pytest.raises(DataError, match=r"train-1\.parquet, row 1\d: the label 3 is none of the 3 classes"):
        list(batches(take(registry), 2, batch=20))
    with pytest.raises(DataError, match="the label 3 is none of the 3 classes"):
        take(registry).labels()


@pytest.mark.parametrize("asked", [0, 1, 3])
def test_a_training_that_stops_early_leaves_no_threads(registry: Registry, asked: int) -> None:
    made = batches(take(registry), 1000, readers=7)
    for _ in range(asked):
        next(made)
    made.close()  # type: ignore[attr-defined]
    assert not threads()
    evaluated = eval_batches(take(registry), EvalView(Resize(), SIZE, 3), 10, readers=3)
    for _ in range(asked):
        next(evaluated)
    del evaluated
    assert not threads()


def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(registry: Registry) -> None:
    with TrainLoader(take(registry), view(), batch=8, seed=0, first_step=0, steps=50, readers=3) as loader:
        for _ in range(20):
            images = next(loader).images
            before = images.copy()
            time.sleep(0.005)
            assert np.array_equal(images, before)


# ------------------------------------------------------------------------------------------------------------- sources


def test_images_in_memory_are_those_of_the_files_and_smaller_subsets_are_parts_of_them(tmp_path: Path) -> None:
    registry = stored(tmp_path, [encoded(row, "PNG", SIZE) for row in range(ROWS)], [1] * ROWS, image_size=SIZE)
    source = take(registry)
    assert source.resident
    image_NHWC, label_N = source.decoded()
    assert np.array_equal(rows_in(image_NHWC), source.subset.rows_at(np.arange(ROWS)))
    assert (label_N == 1).all()
    small, _ = take(registry, subset=50).decoded()
    assert np.shares_memory(small, image_NHWC)
    assert np.array_equal(small, image_NHWC[:50])
    few = take(registry, "train", subset=20)
    assert few.certificate().rows == 20
    assert few.certificate() == take(registry, "train", subset=20).certificate()


def test_digits_are_resident_and_images_of_no_common_size_are_not(registry: Registry) -> None:
    digits = open_source(DIGITS.take("validation"), BUILT_IN_ONLY)
    assert digits.resident
    image_NHWC, label_N = digits.decoded()
    assert image_NHWC.shape == (297, 8, 8, 1)
    assert np.array_equal(label_N, digits.labels())
    assert not take(registry).resident


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (encoded(7, "PNG", SIZE + 1), f"row 7: the image is {SIZE + 1} x {SIZE + 1} pixels, and .* {SIZE} x {SIZE}"),
        (encoded(7, "PNG", SIZE)[:50], "row 7: the image cannot be decoded"),
    ],
)
def test_a_bad_image_of_a_set_in_memory_is_named(tmp_path: Path, image: bytes, message: str) -> None:
    images = [encoded(row, "PNG", SIZE) for row in range(40)]
    images[7] = image
    registry = stored(tmp_path, images, [0] * 40, image_size=SIZE)
    with pytest.raises(DataError, match=message):
        take(registry).decoded()
    # It is no matter to a run that does not see it.
    rows = int(take(registry).subset.places_at(np.array([7]))[0])
    image_NHWC, _ = take(registry, subset=rows).decoded()
    assert len(image_NHWC) == rows


def test_members_of_row_groups_are_the_rows_of_the_subset(registry: Registry) -> None:
    for which in ("train", "development", "clean"):
        source = take(registry, which)
        assert isinstance(source, Stored)
        members = [source.members(group) for group in range(ROWS // GROUP_ROWS)]
        assert [len(each) for each in members] == source.rows_of_groups.tolist()
        assert np.array_equal(np.concatenate(members), np.sort(source.subset.rows_at(np.arange(source.data.rows))))


def test_files_that_are_sorted_by_class_are_not_mixed(tmp_path: Path, registry: Registry) -> None:
    source = take(registry)
    assert isinstance(source, Stored)
    assert not source.is_mixed()
    labels = np.random.default_rng(0).integers(0, CLASSES, 400).tolist()
    mixed = take(stored(tmp_path, [encoded(0)] * 400, labels))
    assert isinstance(mixed, Stored)
    assert mixed.is_mixed()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown set": ({"name": "smal"}, "'smal' is no data set.*did you mean 'small'.*: give this worker the registry"),
    "unknown split": ({"split": "tests"}, "'tests' is no split of small"),
    "other fingerprint": ({"fingerprint": "0" * 64}, "by the fingerprint 000000000000, and the registry by"),
    "too many rows": ({"rows": ROWS + 1}, "has 240 images, not 241"),
    "sizes": ({"name": "jft-300m", "fingerprint": None}, "jft-300m is known by its sizes alone"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_that_is_not_what_the_run_names_is_refused(registry: Registry, case: str) -> None:
    changes, message = REFUSED[case]
    known = Registry(dict(registry.sets) | dict(BUILT_IN_ONLY.sets), registry.file)
    data: Data = registry.get("small").take("train").model_copy(update=changes)
    with pytest.raises(DataError, match=message):
        open_source(data, known)


def test_a_list_of_rows_to_leave_out_must_be_there_and_be_the_registrys(tmp_path: Path) -> None:
    listed = DropList(file="drop.parquet", rows=2, digest=rows_digest(np.array([3, 4])))
    splits = {"clean": Thinned(of="train", drop=(listed,))}
    registry = stored(tmp_path, [encoded(row) for row in range(40)], [0] * 40, splits=splits)
    with pytest.raises(DataError, match=r"drop\.parquet, rows to leave out, cannot be read"):
        take(registry, "clean")
    pq.write_table(pa.table({"row": [3, 5]}), tmp_path / "drop.parquet")
    with pytest.raises(DataError, match="names other rows than the registry says"):
        take(registry, "clean")
    pq.write_table(pa.table({"row": [4, 3]}), tmp_path / "drop.parquet")
    assert take(registry, "clean").data.rows == 38
