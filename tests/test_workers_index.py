import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studies.datasets import DIGITS, Files
from studies.manifests import Columns, Manifest
from workers.data import index, storage
from workers.supervision import DataError

LABELS = [3, 0, 1, 1, 2, 0, 3]
IMAGES = [b"image %d" % number * (number + 1) for number in range(len(LABELS))]


def written(
    folder: Path, file: str = "train-0.parquet", *, labels: Any = None, image: Any = None, **options: Any
) -> Path:
    """A shard of seven images in row groups of three."""
    folder.mkdir(parents=True, exist_ok=True)
    images = pa.array([{"bytes": each, "path": "x.jpg"} for each in IMAGES]) if image is None else image
    names = options.pop("names", ("image", "label"))
    table = pa.table([images, pa.array(LABELS) if labels is None else labels], names=list(names))
    pq.write_table(table, folder / file, row_group_size=3, **options)
    return folder / file


def indexed(folder: Path, files: list[str], columns: Columns | None = None) -> Manifest:
    """The manifest of a folder's only split, and its index on disk."""
    columns = columns or Columns()
    split = index.index_shards(str(folder), files, columns)
    manifest = index.manifest_of({"train": split}, columns, channels=3, image_size=None)
    index.write_index(Files(location=str(folder)).index_location, manifest, {"train": split})
    return manifest


# ------------------------------------------------------------------------------------------------------------ making


def test_the_packaged_index_of_digits_is_that_of_its_file() -> None:
    assert isinstance(DIGITS.origin, Files)
    fresh = index.index_shard(DIGITS.origin.location, "digits.parquet", Columns())
    packaged = index.read_index(DIGITS.origin)

    assert packaged.manifest == index.manifest_of({"all": fresh}, Columns(), channels=1, image_size=8)
    assert packaged.manifest.fingerprint("all") == DIGITS.selection("all").fingerprint
    assert packaged.row_groups("all").digest() == fresh.row_groups.digest()
    np.testing.assert_array_equal(packaged.labels("all"), fresh.label_N)
    assert packaged.manifest.class_names == tuple("0123456789")


def test_digests_are_of_the_bytes_that_lie_in_the_file(tmp_path: Path) -> None:
    data = written(tmp_path).read_bytes()
    split = index.index_shard(str(tmp_path), "train-0.parquet", Columns())

    groups = split.row_groups
    assert groups.rows_G.tolist() == [3, 3, 1]
    assert groups.first_row_G.tolist() == [0, 3, 6]
    assert groups.groups_of(np.arange(7)).tolist() == [0, 0, 0, 1, 1, 1, 2]
    for offset, size, digest in zip(groups.offset_G, groups.size_G, groups.digest_G, strict=True):
        assert hashlib.sha256(data[offset : offset + size]).digest() == digest.tobytes()
    assert groups.offset_G[0] == 4
    assert groups.offset_G[2] + groups.size_G[2] == groups.footer_offset_S[0]
    assert groups.footer_offset_S[0] + groups.footer_size_S[0] == len(data)
    assert hashlib.sha256(data[groups.footer_offset_S[0] :]).digest() == groups.footer_digest_S[0].tobytes()
    assert split.shards[0].sha256 == hashlib.sha256(data).hexdigest()
    assert split.count_K.tolist() == [2, 2, 1, 2]


def test_a_file_larger_than_what_is_read_at_a_time_is_hashed_whole(tmp_path: Path) -> None:
    images = pa.array([np.random.default_rng(0).bytes(5_000_000) for _ in range(7)], pa.binary())
    data = written(tmp_path, image=images, compression="none").read_bytes()
    split = index.index_shard(str(tmp_path), "train-0.parquet", Columns())
    assert split.shards[0].sha256 == hashlib.sha256(data).hexdigest()
    start, size = int(split.row_groups.offset_G[1]), int(split.row_groups.size_G[1])
    assert hashlib.sha256(data[start : start + size]).digest() == split.row_groups.digest_G[1].tobytes()
    assert split.label_N is not None
    assert split.label_N.tolist() == LABELS


def test_parts_made_apart_join_to_the_index_made_at_once(tmp_path: Path) -> None:
    files = ["a.parquet", "b.parquet", "c.parquet"]
    for file in files:
        written(tmp_path, file)
    parts = [index.unpacked(index.packed(index.index_shard(str(tmp_path), file, Columns()))) for file in files]
    joined, whole = index.joined_split(parts), index.index_shards(str(tmp_path), files, Columns())
    assert joined.manifest(4) == whole.manifest(4)
    assert joined.row_groups.shard_G.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert joined.row_groups.first_group_S.tolist() == [0, 3, 6]
    assert joined.manifest(4).class_counts == (6, 6, 3, 6)
    with pytest.raises(ValueError, match="no index of shards"):
        index.unpacked(index.packed(parts[0])[:-30])


def test_a_copy_elsewhere_has_the_same_fingerprint_and_another_order_has_not(tmp_path: Path) -> None:
    written(tmp_path / "one", "a.parquet")
    written(tmp_path / "one", "b.parquet", labels=pa.array([0] * 7))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "a.parquet").rename(tmp_path / "two" / "z.parquet")
    first = indexed(tmp_path / "one", ["a.parquet", "b.parquet"]).fingerprint("train")
    assert indexed(tmp_path / "two", ["z.parquet", "b.parquet"]).fingerprint("train") == first
    assert indexed(tmp_path / "two", ["b.parquet", "z.parquet"]).fingerprint("train") != first


def test_splits_of_one_set_have_counts_for_all_its_classes(tmp_path: Path) -> None:
    written(tmp_path, "a.parquet")
    written(tmp_path, "b.parquet", labels=pa.array([0] * 7))
    splits = {name: index.index_shard(str(tmp_path), f"{name}.parquet", Columns()) for name in "ab"}
    manifest = index.manifest_of(splits, Columns(), channels=3, image_size=None)
    assert manifest.splits["b"].class_counts == (7, 0, 0, 0)
    assert index.manifest_of(splits, Columns(), channels=3, image_size=None, classes=9).classes == 9
    with pytest.raises(DataError, match="4 classes"):
        index.manifest_of(splits, Columns(), channels=3, image_size=None, classes=3)


# ----------------------------------------------------------------------------------------------------- kinds of files


INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


KINDS = [*(pa.array(LABELS, kind) for kind in INTEGERS), pa.array(LABELS).dictionary_encode()]


@pytest.mark.parametrize("labels", KINDS, ids=lambda labels: str(labels.type))
def test_labels_of_every_kind_of_whole_number_are_read(tmp_path: Path, labels: Any) -> None:
    written(tmp_path, labels=labels)
    split = index.index_shard(str(tmp_path), "train-0.parquet", Columns())
    assert split.label_N is not None
    assert split.label_N.dtype == np.int32
    assert split.label_N.tolist() == LABELS


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int16()), pa.list_(pa.uint8(), 2)], ids=str)
def test_lists_of_labels_are_counted_for_each_class(tmp_path: Path, kind: Any) -> None:
    written(tmp_path, labels=pa.array([[0, 2], [1, 2], [0, 1], [0, 2], [2, 1], [0, 3], [0, 1]]).cast(kind))
    split = index.index_shard(str(tmp_path), "train-0.parquet", Columns())
    assert split.label_N is None
    assert split.count_K.tolist() == [5, 4, 4, 1]
    manifest = indexed(tmp_path, ["train-0.parquet"])
    assert manifest.multi_label
    assert index.read_index(Files(location=str(tmp_path))).labels("train") is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pa.array([0, 1, 2, 0, -1, 1, 0]), r"row group 1: row 1 of the row group has the label -1 in 'label'"),
        (pa.array([0, 1, 2, 0, 1, 1, None]), r"row group 2: row 0 of the row group has no label"),
        (pa.array([0, 1, 2**40, 0, 1, 1, 0]), r"row group 0: row 2 of the row group has the label 1099511627776"),
        (pa.array([0, 1, 2**64 - 1, 0, 1, 1, 0], pa.uint64()), r"row group 0: row 2 of the row group has the label"),
        (pa.array([[0], [1], [], [2, -1], [0], [1], [2]]), r"row group 1: row 0 of the row group has the label -1"),
        (pa.array([[0], [1], [], [2, None], [0], [1], [2]]), r"row group 1: row 0 .* an empty place among its labels"),
        (pa.array([[0], None, [], [2], [0], [1], [2]]), r"row group 0: row 1 of the row group has no label"),
        (pa.array([0.0, 1, 2, 0, 1, 1, 0]), r"the column 'label' holds double and not labels"),
        (pa.array(list("abcabca")), r"the column 'label' holds string and not labels"),
        (pa.array(list("abcabca")).dictionary_encode(), r"the column 'label' holds string and not labels"),
    ],
)
def test_labels_that_are_none_are_refused_with_their_row(tmp_path: Path, labels: Any, message: str) -> None:
    written(tmp_path, labels=labels)
    with pytest.raises(DataError, match=message):
        index.index_shard(str(tmp_path), "train-0.parquet", Columns())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (pa.array(["a.jpg"] * 7), "the column 'image' holds string and not encoded images"),
        (pa.array([{"path": "a.jpg"}] * 7), "the column 'image' holds struct<path: string> and not encoded images"),
        (pa.array([[0, 1]] * 7), r"the column 'image' holds list<.*> and not encoded images"),
    ],
)
def test_a_column_without_encoded_images_is_refused(tmp_path: Path, image: Any, message: str) -> None:
    written(tmp_path, image=image)
    with pytest.raises(DataError, match=message):
        index.index_shard(str(tmp_path), "train-0.parquet", Columns())


def test_columns_of_other_names_are_found_when_they_are_named(tmp_path: Path) -> None:
    written(tmp_path, names=("img", "fine_label"))
    with pytest.raises(DataError, match="has no column 'image' among img, fine_label: name the columns"):
        index.index_shard(str(tmp_path), "train-0.parquet", Columns())
    split = index.index_shard(str(tmp_path), "train-0.parquet", Columns(image="img", label="fine_label"))
    assert split.label_N is not None
    assert split.label_N.tolist() == LABELS


def test_a_file_that_is_no_shard_is_refused_in_one_sentence(tmp_path: Path) -> None:
    whole = written(tmp_path, "good.parquet").read_bytes()
    files = {
        "empty": (b"", "no Parquet file, or a part of one"),
        "text": (b"path,label\n" * 10, "no Parquet file, or a part of one"),
        "cut": (whole[:-20], "no Parquet file, or a part of one"),
        "zeros": (whole[:-60] + bytes(52) + whole[-8:], "no readable Parquet file"),
        "footer": (b"PAR1" + whole[-8:], "no readable Parquet file"),
    }
    for name, (data, message) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"^{name} is {message}"):
            index.index_shard(str(tmp_path), name, Columns())
    with pytest.raises(DataError, match=r"absent.parquet cannot be read in .*: put it there"):
        index.index_shard(str(tmp_path), "absent.parquet", Columns())
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), tmp_path / "none")
    with pytest.raises(DataError, match="none has no rows: leave it out"):
        index.index_shard(str(tmp_path), "none", Columns())


def test_shards_that_disagree_about_their_classes_are_refused(tmp_path: Path) -> None:
    for file, names in {"a": ["cat", "dog"], "b": ["dog", "cat"], "c": None, "d": ["cat", "dog"]}.items():
        features = {"label": {"_type": "ClassLabel", "names": names}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
        columns = {"image": pa.array([b"x"]), "label": pa.array([1])}
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / file)
    assert index.index_shards(str(tmp_path), ["a", "d"], Columns()).class_names == ("cat", "dog")
    for file in "bc":
        with pytest.raises(DataError, match=f"a and {file} name their classes otherwise"):
            index.index_shards(str(tmp_path), ["a", file], Columns())


# ------------------------------------------------------------------------------------------------- an index on disk


def test_an_index_that_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    written(tmp_path)
    manifest = indexed(tmp_path, ["train-0.parquet"])
    found = index.read_index(Files(location=str(tmp_path)))
    assert found.manifest == manifest
    assert found.row_groups("train").rows == 7
    labels = found.labels("train")
    assert labels is not None
    assert labels.tolist() == LABELS
    assert sorted(path.name for path in (tmp_path / "vitscale-index").iterdir()) == [
        "manifest.json",
        "train.labels.bin",
        "train.row-groups.bin",
    ]
    with pytest.raises(DataError, match="has no split 'test' among train: add it"):
        found.split("test")


def test_an_index_may_lie_elsewhere(tmp_path: Path) -> None:
    written(tmp_path / "data")
    files = Files(location=str(tmp_path / "data"), index=(tmp_path / "index").as_uri())
    split = index.index_shards(files.location, ["train-0.parquet"], Columns())
    manifest = index.manifest_of({"train": split}, Columns(), channels=3, image_size=None)
    index.write_index(files.index_location, manifest, {"train": split})
    assert index.read_index(files).manifest == manifest
    assert (tmp_path / "index" / "manifest.json").exists()


def test_a_missing_or_damaged_index_is_an_error_with_a_cure(tmp_path: Path) -> None:
    files = Files(location=str(tmp_path))
    with pytest.raises(DataError, match=r"has no manifest.json.*: make the index with `vitscale data add`"):
        index.read_index(files)
    written(tmp_path)
    indexed(tmp_path, ["train-0.parquet"])
    for name in ("train.row-groups.bin", "train.labels.bin"):
        path = tmp_path / "vitscale-index" / name
        whole = path.read_bytes()
        for damaged in (b"", whole[:-9], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], b"x" * len(whole)):
            path.write_bytes(damaged)
            read = index.read_index(files)
            with pytest.raises(DataError, match=f"{name} of the index in .* is damaged, .*: make the index again"):
                read.row_groups("train") if name.endswith("groups.bin") else read.labels("train")
        path.unlink()
        with pytest.raises(DataError, match=f"has no {name}"):
            read.row_groups("train") if name.endswith("groups.bin") else read.labels("train")
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": 1', '"format": 2', "has the format 2, and this program reads 1"),
        ('"classes": 4', '"classes": "four"', "manifest.json of the index in .* is damaged"),
        ('"classes": 4', '"classes": 4, "colour": 1', "manifest.json of the index in .* is damaged"),
        ('"train-0.parquet"', '"../train-0.parquet"', "outside of its data set"),
        ('"train-0.parquet"', '"/etc/passwd"', "outside of its data set"),
        ("}", "", "manifest.json of the index in .* is damaged"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    written(tmp_path)
    indexed(tmp_path, ["train-0.parquet"])
    path = tmp_path / "vitscale-index" / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        index.read_index(Files(location=str(tmp_path)))


# ----------------------------------------------------------------------------------------------------------- storage


def test_files_are_listed_by_pattern_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in (
        "train-10.parquet",
        "train-2.parquet",
        "data/train-1.parquet",
        "a/b/train-3.parquet",
        ".train-4.parquet",
    ):
        storage.write_bytes(str(tmp_path / name), b"")
    for location in (str(tmp_path), f"{tmp_path}/", tmp_path.as_uri()):
        assert storage.listed(location, "train-*.parquet") == ["train-2.parquet", "train-10.parquet"]
        assert storage.listed(location, "*/*.parquet") == ["data/train-1.parquet"]
        assert len(storage.listed(location, "**/train-?.parquet")) == 3
        assert storage.listed(location, "train-10.parquet") == ["train-10.parquet"]
        assert storage.listed(location, "train.10.parquet") == []
    with pytest.raises(DataError, match=r"there is no folder .*absent: correct the location"):
        storage.listed(str(tmp_path / "absent"), "*")


def test_a_file_is_written_whole_in_place_of_an_earlier_one(tmp_path: Path) -> None:
    for location in (str(tmp_path / "a" / "one"), (tmp_path / "with space").as_uri()):
        storage.write_bytes(location, b"first")
        storage.write_bytes(location, b"second")
        assert storage.read_bytes(location) == b"second"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["one"]
    assert (tmp_path / "with space").read_bytes() == b"second"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        storage.write_bytes(str(tmp_path / "folder"), b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder", "with space"]


def test_what_a_uri_says_of_its_server_stays_with_it() -> None:
    assert storage.joined("/data/x/", "a", "b.parquet") == "/data/x/a/b.parquet"
    assert storage.joined("/data/what?/x", "a") == "/data/what?/x/a"
    assert storage.joined("s3://bucket/x", "a") == "s3://bucket/x/a"
    assert storage.joined("s3://bucket/x?region=eu-west-1", "a") == "s3://bucket/x/a?region=eu-west-1"
    assert storage.joined("s3://bucket", "a") == "s3://bucket/a"


def test_a_password_in_a_uri_is_in_no_message() -> None:
    assert storage.shown("s3://key:secret@bucket/x?endpoint_override=e") == "s3://bucket/x"
    assert storage.shown("abfss://container@account.dfs.core.windows.net/x").startswith("abfss://container@account")
    with pytest.raises(DataError) as caught:
        storage.opened("ftp://me:secret@host/x")
    assert str(caught.value).startswith("ftp://host/ cannot be opened (")
    assert "secret" not in str(caught.value)


def test_a_fault_that_may_pass_is_tried_again_and_a_lasting_one_is_not() -> None:
    calls: list[int] = []

    def flaky(faults: int, error: OSError) -> int:
        calls.append(len(calls))
        if len(calls) <= faults:
            raise error
        return len(calls)

    assert storage.persistent(lambda: flaky(3, OSError("slow down")), first_wait_seconds=0) == 4
    calls.clear()
    with pytest.raises(OSError, match="slow down"):
        storage.persistent(lambda: flaky(100, OSError("slow down")), first_wait_seconds=0)
    assert len(calls) == 5
    calls.clear()
    with pytest.raises(FileNotFoundError):
        storage.persistent(lambda: flaky(100, FileNotFoundError("gone")), first_wait_seconds=0)
    assert len(calls) == 1
