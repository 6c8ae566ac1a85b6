from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from studies.datasets import Files
from studies.manifests import Columns
from tests.bad_images import CORPUS
from tests.image_shards import encoded, write_shard, write_split
from workers.data import contact_sheet
from workers.data.checking import (
    Findings,
    Piece,
    Promise,
    Tally,
    by_row,
    by_row_group,
    check,
    crashed,
    has_size,
    pieces_of,
    sample,
    size_of,
)
from workers.data.decoding import decode, inspect
from workers.data.image_sizes import described
from workers.data.index import index_shards, manifest_of, write_index
from workers.data.shards import Shards


def indexed(folder: Path, split: str = "train", classes: int = 3, image_size: int | None = None) -> Promise:
    files = Files(location=str(folder))
    names = sorted(file.name for file in folder.glob("*.parquet"))
    found = {split: index_shards(str(folder), names, Columns())}
    manifest = manifest_of(found, Columns(), channels=3, image_size=image_size)
    write_index(files.index_location, manifest, found)
    return Promise(
        files=files,
        fingerprints={split: manifest.fingerprint(split)},
        classes=classes,
        channels=3,
        image_size=image_size,
    )


def findings(promise: Promise, split: str = "train") -> Findings:
    tally = Tally()
    for piece in pieces_of(promise.shards(split)):
        tally.add(check(promise, piece))
    return tally.findings()


def test_every_bad_and_odd_image_of_the_corpus_is_reported_by_its_row(tmp_path: Path) -> None:
    cases = list(CORPUS.values())
    write_shard(tmp_path / "train.parquet", [case.encoded for case in cases], [0] * len(cases), group=7)
    found = findings(indexed(tmp_path, classes=2))
    assert {bad.row: bad.fault for bad in found.bad} == {
        row: case.fault for row, case in enumerate(cases) if case.fault is not None
    }
    due: dict[str, list[int]] = {}
    for row, case in enumerate(cases):
        for oddity in case.oddities if case.fault is None else ():
            due.setdefault(oddity, []).append(row)
    assert {kind: list(rows) for kind, rows in found.oddities.items()} == due
    assert found.rows == len(cases)
    assert len(cases) >= 40


def test_a_split_in_several_shards_is_seen_whole_and_once(tmp_path: Path) -> None:
    write_split(tmp_path, "train", shards=3, rows=10)
    promise = indexed(tmp_path)
    found = findings(promise)
    assert found.rows == 30
    assert found.class_counts == {0: 10, 1: 10, 2: 10}
    assert found.sizes == ((20, 16, 30),)
    assert found.formats == {"jpeg": 30}
    assert found.bad == ()
    assert found.broken == ()
    assert found.image_bytes == sum(len(encoded(number)) for number in range(30))


def test_pieces_of_row_groups_and_of_rows_find_the_same_as_the_whole_shard(tmp_path: Path) -> None:
    images = [encoded(number) for number in range(10)]
    images[5] = b"no image"
    write_shard(tmp_path / "train.parquet", images, [0] * 10)
    promise = indexed(tmp_path)
    [whole] = pieces_of(promise.shards("train"))
    groups = by_row_group(promise.shards("train"), whole)
    assert [piece.rows for piece in groups] == [4, 4, 2]
    for pieces in (groups, [row for group in groups for row in by_row(group)]):
        tally = Tally()
        for piece in pieces:
            tally.add(check(promise, piece))
        assert tally.findings() == check(promise, whole)


def test_findings_are_the_same_after_a_way_through_a_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "train.parquet", [encoded(0), b"", encoded(1, mode="L")], [0, 1, 2])
    found = findings(indexed(tmp_path))
    assert Findings.model_validate_json(found.model_dump_json()) == found


def test_a_damaged_row_group_is_broken_and_the_others_are_looked_at(tmp_path: Path) -> None:
    write_split(tmp_path, "train", shards=1, rows=12)
    promise = indexed(tmp_path)
    [shard] = tmp_path.glob("*.parquet")
    groups = promise.shards("train").row_groups
    data = bytearray(shard.read_bytes())
    data[int(groups.offset_G[1]) + 10] ^= 1
    shard.write_bytes(data)
    found = findings(promise)
    assert found.rows == 8
    [broken] = found.broken
    assert (broken.first_row, broken.rows) == (4, 4)
    assert "row group 1" in broken.message


def test_an_image_of_another_size_than_promised_and_a_label_of_no_class_are_bad(tmp_path: Path) -> None:
    images = [encoded(0, 16, 16), encoded(1, 16, 18), encoded(2, 16, 16)]
    write_shard(tmp_path / "train.parquet", images, [0, 1, 2])
    found = findings(indexed(tmp_path, classes=2, image_size=16))
    assert [(bad.row, bad.fault) for bad in found.bad] == [(1, "other-size"), (2, "label-out-of-range")]


def test_grey_images_are_not_odd_in_a_grey_set(tmp_path: Path) -> None:
    write_shard(tmp_path / "train.parquet", [encoded(0, mode="L")], [0])
    promise = indexed(tmp_path)
    assert findings(promise).oddities == {"grey": (0,)}
    assert findings(promise.model_copy(update={"channels": 1})).oddities == {}


def test_lists_of_labels_are_counted_one_by_one(tmp_path: Path) -> None:
    write_shard(tmp_path / "train.parquet", [encoded(0), encoded(1), encoded(2)], [[0, 1], [1], []])
    found = findings(indexed(tmp_path))
    assert found.class_counts == {0: 1, 1: 2}
    assert found.bad == ()


def test_a_row_whose_decoding_ended_the_process_is_bad(tmp_path: Path) -> None:
    piece = Piece(split="train", file="a.parquet", first_group=0, groups=1, first_row=7, rows=1)
    [bad] = crashed(piece).bad
    assert (bad.row, bad.fault) == (7, "crashes")


@pytest.mark.parametrize("name", sorted(name for name, case in CORPUS.items() if case.fault is None))
def test_the_size_in_the_header_is_that_of_the_pixels(name: str) -> None:
    encoded_image = CORPUS[name].encoded
    height, width = decode(encoded_image, 3).shape[:2]
    assert size_of(encoded_image) == (width, height)


def test_a_sample_lies_evenly_in_the_split(tmp_path: Path) -> None:
    widths = range(10, 110)
    write_shard(tmp_path / "train.parquet", [encoded(0, width) for width in widths], [0] * 100, group=2)
    shards = indexed(tmp_path).shards("train")
    found = sample(shards, 16)
    assert len(found) == 16
    assert [each.width for each in found] == sorted({each.width for each in found})
    assert {10, 109} <= {each.width for each in found}
    assert len(sample(shards, 1000)) == 100


def test_one_image_of_another_size_is_found(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.parquet", [encoded(number, 16, 16) for number in range(6)], [0] * 6)
    write_shard(tmp_path / "train-1.parquet", [encoded(0, 16, 16)] * 5 + [encoded(0, 17, 16)], [0] * 6)
    promise = indexed(tmp_path)
    assert [has_size(promise.files, 16, piece) for piece in pieces_of(promise.shards("train"))] == [True, False]


def test_sizes_are_described_by_counted_images() -> None:
    found = described([(500, 375, 6), (375, 500, 3), (32, 40, 2)])
    assert found is not None
    assert found["images"] == 11
    assert found["width"] == {"min": 32, "median": 500, "max": 500}
    assert found["height"] == {"min": 40, "median": 375, "max": 500}
    assert found["by_shorter_side"] == [
        {"from": 32, "to": 63, "images": 2},
        {"from": 64, "to": 127, "images": 0},
        {"from": 128, "to": 255, "images": 0},
        {"from": 256, "to": 511, "images": 9},
    ]
    assert found["most_common"][0] == {"width": 500, "height": 375, "images": 6}
    assert described([]) is None


# ----------------------------------------------------------------------------------------------------- contact sheet


def test_a_sheet_shows_small_images_with_their_own_pixels(tmp_path: Path) -> None:
    image_HWC = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    file = tmp_path / "sheet.png"
    contact_sheet.draw(file, "digits", "one image", [contact_sheet.Row("", "", [image_HWC])])
    shown_HWC = np.array(Image.open(file))
    times = contact_sheet.TILE // 8
    enlarged_HWC = np.kron(image_HWC, np.ones((times, times, 1), np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(shown_HWC, enlarged_HWC.shape)
    assert any((window == enlarged_HWC).all() for row in windows[:, contact_sheet.MARGIN] for window in row)


def test_a_sheet_takes_names_of_any_length_images_of_any_shape_and_faults(tmp_path: Path) -> None:
    images: list[NDArray[np.uint8] | str] = [
        np.zeros((300, 2, 1), np.uint8),
        np.zeros((1, 900, 3), np.uint8),
        "truncated",
    ]
    rows = [
        contact_sheet.Row("tench, Tinca tinca, " * 20, "732 images", images),
        contact_sheet.Row("Ωmega_" * 40, "", images[:1]),
    ]
    for ending in contact_sheet.ENDINGS:
        file = tmp_path / f"sheet{ending}"
        contact_sheet.draw(file, "a title " * 40, "a subtitle " * 40, rows)
        with Image.open(file) as sheet:
            assert sheet.height > 2 * contact_sheet.TILE


def test_a_sheet_needs_a_name_of_a_picture() -> None:
    with pytest.raises(ValueError, match=r"sheet\.txt.*\.png, \.jpg"):
        contact_sheet.check_ending(Path("sheet.txt"))


def test_shards_and_inspection_agree_on_what_an_image_is(tmp_path: Path) -> None:
    write_split(tmp_path, "train", shards=1, rows=3)
    promise = indexed(tmp_path)
    images = Shards(promise.files, "train", None).read(0).images
    assert [inspect(image).format for image in images] == ["jpeg"] * 3
