import gzip
import io
import json
import os
import pickle
import resource
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import foreign_files as foreign
from tests.bad_images import CORPUS
from workers.data.importing.formats import FORMATS, detected
from workers.data.importing.pixels import png, resized
from workers.data.importing.planning import plan_bytes, shard_borders
from workers.data.importing.plans import Naming, rows_in
from workers.data.importing.shard_tasks import Job, Task, plan_file, write_shard
from workers.data.storage import joined, read_bytes, write_bytes
from workers.data.writing import ShardWriter
from workers.supervision import DataError

Images = dict[str, list[tuple[Any, bytes]]]
USUAL = Naming()
IMAGE_NHWC = foreign.pixels(12)
LABEL_N = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 0])


def found_in(source: Path, naming: Naming = USUAL, format: str | None = None) -> tuple[Images, tuple[str, ...]]:
    """Label and bytes of each image of each split; and the class names."""
    kind = FORMATS[format or detected(source)]
    found = kind.find(source, naming)
    images = {}
    for split, table in found.splits.items():
        encoded = kind.images(kind.root_of(source), list(rows_in(table)), naming)
        images[split] = list(zip(table["label"].to_pylist(), encoded, strict=True))
    return images, found.class_names


def assert_same_pixels(images: Images, splits: dict[str, slice], labels: np.ndarray = LABEL_N) -> None:
    assert list(images) == list(splits)
    for split, part in splits.items():
        assert [label for label, _ in images[split]] == labels[part].tolist()
        np.testing.assert_array_equal([foreign.shown(encoded) for _, encoded in images[split]], IMAGE_NHWC[part])


# ------------------------------------------------------------------------------------------------------- class folders


def test_a_tree_has_its_classes_and_images_in_the_order_of_imagefolder(tmp_path: Path) -> None:
    files = {name: foreign.jpeg(seed) for seed, name in enumerate(("b/2.jpg", "b/10.JPEG", "a/z.png", "a-b/x.webp"))}
    files |= {"a/deep/1.jpg": foreign.jpeg(9), "a/deep-er/1.jpg": foreign.jpeg(8)}
    foreign.write_files(tmp_path, files)
    images, names = found_in(tmp_path)
    assert names == ("a", "a-b", "b")
    order = ["a/z.png", "a/deep/1.jpg", "a/deep-er/1.jpg", "a-b/x.webp", "b/10.JPEG", "b/2.jpg"]
    order[1:3] = sorted(order[1:3], key=lambda name: name.rpartition("/")[0])  # torchvision sorts folders as text
    assert images == {"": [(names.index(name.split("/")[0]), files[name]) for name in order]}


def test_folders_called_train_and_val_are_splits_with_one_list_of_classes(tmp_path: Path) -> None:
    first, second, third = foreign.jpeg(1), foreign.jpeg(2), foreign.jpeg(3)
    foreign.write_files(tmp_path, {"train/cat/1.jpg": first, "train/ant/1.jpg": second, "val/cat/7.jpg": third})
    images, names = found_in(tmp_path)
    assert names == ("ant", "cat")
    assert images == {"train": [(0, second), (1, first)], "validation": [(1, third)]}


def test_classes_called_train_and_test_are_no_splits(tmp_path: Path) -> None:
    foreign.write_files(tmp_path, {"train/1.jpg": b"x", "test/1.jpg": b"y"})
    assert found_in(tmp_path) == ({"": [(0, b"y"), (1, b"x")]}, ("test", "train"))


def test_files_that_are_no_images_are_counted_by_suffix(tmp_path: Path) -> None:
    foreign.write_files(
        tmp_path,
        dict.fromkeys(("a/1.jpg", "a/.DS_Store", "a/._1.jpg", "a/list.txt", "b/1.jpg", "b/README", "c.png"), b""),
    )
    ignored = FORMATS["folders"].find(tmp_path, Naming()).ignored
    assert ignored == {"hidden": 2, ".txt": 1, "no suffix": 1, ".png outside of class folders": 1}


def test_bad_images_keep_their_bytes(tmp_path: Path) -> None:
    files = {f"{'ab'[number % 2]}/{number:03d}.jpg": case.encoded for number, case in enumerate(CORPUS.values())}
    foreign.write_files(tmp_path, files)
    images, _ = found_in(tmp_path)
    assert [encoded for _, encoded in images[""]] == [files[name] for name in sorted(files)]


def test_links_within_a_tree_are_read_and_links_out_of_it_refused(tmp_path: Path) -> None:
    foreign.write_files(tmp_path, {"tree/a/1.jpg": b"one", "tree/b/1.jpg": b"two", "secret/key.jpg": b"three"})
    (tmp_path / "tree/b/2.jpg").symlink_to("../a/1.jpg")
    assert found_in(tmp_path / "tree")[0] == {"": [(0, b"one"), (1, b"two"), (1, b"one")]}
    (tmp_path / "tree/b/3.jpg").symlink_to(tmp_path / "secret/key.jpg")
    with pytest.raises(DataError, match=r"b/3.jpg is a link out of the tree, to .*secret/key.jpg: copy the file"):
        found_in(tmp_path / "tree")


@pytest.mark.parametrize("target", ["../../secret", "..", "nowhere"])
def test_links_to_folders_outside_above_or_nowhere_are_refused(tmp_path: Path, target: str) -> None:
    foreign.write_files(tmp_path, {"tree/a/1.jpg": b"one", "tree/b/1.jpg": b"two", "secret/key.jpg": b"three"})
    (tmp_path / "tree/a/more.jpg").symlink_to(target)
    with pytest.raises(DataError, match=r"a/more.jpg is a link"):
        found_in(tmp_path / "tree")


def test_an_empty_tree_is_an_error_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="holds no image in class folders: give the folder above"):
        found_in(tmp_path)


def test_a_class_without_images_is_an_error_that_names_it(tmp_path: Path) -> None:
    foreign.write_files(tmp_path, {"a/1.jpg": b"", "b/1.txt": b""})
    with pytest.raises(DataError, match="the class folder 'b' holds no image"):
        found_in(tmp_path)


def test_a_file_that_changed_since_the_plan_is_an_error_that_names_it(tmp_path: Path) -> None:
    foreign.write_files(tmp_path, {"a/1.jpg": b"one", "b/1.jpg": b"two"})
    kind = FORMATS["folders"]
    rows = list(rows_in(kind.find(tmp_path, Naming()).splits[""]))
    (tmp_path / "b/1.jpg").write_bytes(b"longer")
    with pytest.raises(DataError, match=r"b/1.jpg has 6 bytes and had 3"):
        list(kind.images(tmp_path, rows, Naming()))


# --------------------------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize("header", ["", "path,label\n", "\ufefffilename;class\n"])
def test_a_csv_gives_images_and_labels_by_names_in_its_order(tmp_path: Path, header: str) -> None:
    foreign.write_files(tmp_path, {"img/1.jpg": b"one", "img/2, two.jpg": b"two", "other/3.jpg": b"three"})
    lines = [("img/2, two.jpg", "dog"), (str(tmp_path / "other/3.jpg"), "cat"), ("img/1.jpg", "dog")]
    mark = ";" if ";" in header else ","
    text = header + "".join(f'"{path}"{mark}{label}\n' for path, label in lines)
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    assert found_in(tmp_path / "list.csv") == ({"": [(1, b"two"), (0, b"three"), (1, b"one")]}, ("cat", "dog"))


def test_a_csv_of_numbers_keeps_them_and_a_column_split_makes_splits(tmp_path: Path) -> None:
    foreign.write_files(tmp_path, {"1.jpg": b"one", "2.jpg": b"two"})
    (tmp_path / "list.tsv").write_text("id\tfile\tsplit\tlabel\n8\t2.jpg\ttest\t10\n9\t1.jpg\tTrain\t2\n")
    assert found_in(tmp_path / "list.tsv") == ({"test": [(10, b"two")], "train": [(2, b"one")]}, ())


def test_columns_of_a_csv_can_be_named(tmp_path: Path) -> None:
    foreign.write_files(tmp_path, {"1.jpg": b"one"})
    (tmp_path / "list.csv").write_text("where,label,breed\n1.jpg,7,pug\n")
    assert found_in(tmp_path / "list.csv", Naming("where", "breed")) == ({"": [(0, b"one")]}, ("pug",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.jpg,a\nimg/x.jpg,b\n", r"list.csv:2: img/x.jpg cannot be read \(No such file or directory\): correct"),
        ("path,label\n\n1.jpg\n", r"list.csv:3: expected a path and a label, found \['1.jpg'\]"),
        ("1.jpg,\n", r"list.csv:1: the image has no label"),
        ("", r"list.csv lists no image"),
        ("path,breed\n1.jpg,pug\n", r"list.csv: columns of paths and labels are not both known"),
    ],
)  # fmt: skip
def test_a_fault_of_a_csv_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    foreign.write_files(tmp_path, {"1.jpg": b"one", "list.csv": text.encode()})
    with pytest.raises(DataError, match=message):
        found_in(tmp_path / "list.csv")


# --------------------------------------------------------------------------------------------------------------- CIFAR


@pytest.mark.parametrize("write", [foreign.write_cifar_10_binary, foreign.write_cifar_10_python])
@pytest.mark.parametrize("place", ["folder", "above", "archive"])
def test_cifar_10_keeps_pixels_labels_and_order(tmp_path: Path, write: Any, place: str) -> None:
    write(tmp_path / "cifar-10-batches", IMAGE_NHWC, LABEL_N)
    source = {"folder": tmp_path / "cifar-10-batches", "above": tmp_path}.get(place)
    if source is None:
        foreign.packed(tmp_path / "cifar-10-batches", source := tmp_path / "cifar-10.tar.gz", "cifar-10-batches")
    assert detected(source) == "cifar"
    images, names = found_in(source)
    assert names == foreign.CIFAR_10
    assert_same_pixels(images, {"train": slice(0, 10), "test": slice(10, 12)})


@pytest.mark.parametrize("write", [foreign.write_cifar_100_binary, foreign.write_cifar_100_python])
def test_cifar_100_has_fine_labels_and_coarse_ones_on_request(tmp_path: Path, write: Any) -> None:
    label_N2 = np.stack([np.arange(12), np.arange(88, 100)], axis=1)
    write(tmp_path, IMAGE_NHWC, label_N2)
    splits = {"train": slice(0, 6), "test": slice(6, 12)}
    fine, fine_names = found_in(tmp_path)
    assert_same_pixels(fine, splits, label_N2[:, 1])
    coarse, coarse_names = found_in(tmp_path, Naming(label="coarse_labels"))
    assert_same_pixels(coarse, splits, label_N2[:, 0])
    assert (fine_names[99], coarse_names[19]) == ("fine_99", "coarse_19")


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("harm", [_Harmful(), np.array([_Harmful()], dtype=object)], ids=["call", "objects"])
def test_a_pickle_that_holds_more_than_cifar_does_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign.write_cifar_10_python(tmp_path, IMAGE_NHWC, LABEL_N)
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"data": harm, b"labels": [1]}, protocol=2))
    with pytest.raises(
        DataError,
        match=r"data_batch_3 (names (posix|nt).system|holds an array of 'O8').*do(wnload it again| not use it)",
    ):
        found_in(tmp_path)
    assert not (tmp_path / "harmed").exists()


def test_a_cifar_written_anew_by_python_3_is_read(tmp_path: Path) -> None:
    foreign.write_cifar_10_python(tmp_path, IMAGE_NHWC, LABEL_N)
    batch = {"data": foreign.planes(IMAGE_NHWC[:2]), "labels": LABEL_N[:2].tolist(), "batch_label": b"training"}
    for protocol in (2, 5):
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=protocol))
        assert_same_pixels(found_in(tmp_path)[0], {"train": slice(0, 10), "test": slice(10, 12)})


@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_a_cifar_file_that_is_cut_off_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    foreign.write_cifar_10_python(tmp_path, IMAGE_NHWC, LABEL_N)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    with pytest.raises(DataError, match=f"{name} cannot be unpickled .*: download it again"):
        found_in(tmp_path)


# ---------------------------------------------------------------------------------------------------- idx and arrays


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist_keeps_pixels_labels_and_order(tmp_path: Path, compressed: bool) -> None:
    image_NHW = foreign.pixels(20, 28, 1)[..., 0]
    label_N = np.arange(20, dtype=np.uint8) % 10
    foreign.write_mnist(tmp_path, image_NHW, label_N, compressed=compressed)
    images, names = found_in(tmp_path)
    assert (list(images), names) == (["train", "test"] if next(iter(images)) == "train" else ["test", "train"], ())
    for split, part in (("train", slice(0, 10)), ("test", slice(10, 20))):
        assert [label for label, _ in images[split]] == label_N[part].tolist()
        np.testing.assert_array_equal([foreign.shown(each)[..., 0] for _, each in images[split]], image_NHW[part])


def test_one_of_several_sets_in_a_folder_of_idx_files_is_chosen_by_a_file(tmp_path: Path) -> None:
    for family, value in (("emnist-letters", 1), ("emnist-digits", 2)):
        for split in ("train", "test"):
            images, labels = np.full((2, 28, 28), value, np.uint8), np.full(2, value, np.uint8)
            foreign.write_files(
                tmp_path,
                {
                    f"{family}-{split}-images-idx3-ubyte.gz": gzip.compress(foreign.idx(images)),
                    f"{family}-{split}-labels-idx1-ubyte.gz": gzip.compress(foreign.idx(labels)),
                },
            )
    with pytest.raises(DataError, match=r"several data sets \(emnist-digits, emnist-letters\): give one file, as "):
        found_in(tmp_path)
    images_found, _ = found_in(tmp_path / "emnist-letters-test-images-idx3-ubyte.gz")
    assert {split: [label for label, _ in each] for split, each in images_found.items()} == {
        "train": [1, 1],
        "test": [1, 1],
    }


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train-images-idx3-ubyte", b"\x00\x00\x0d\x03" + bytes(100), "begins with 00000d03 and not as an idx file"),
        ("train-labels-idx1-ubyte", foreign.idx(np.zeros(9, np.uint8)), "has 10 images and .* 9 labels"),
        ("train-images-idx3-ubyte", foreign.idx(np.zeros((10, 28, 28), np.uint8))[:-1], "ends early"),
        ("train-labels-idx1-ubyte", foreign.idx(np.zeros(10, np.uint8))[:-1], "ends early"),
    ],
)
def test_a_damaged_idx_file_is_an_error_that_names_it(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    foreign.write_mnist(tmp_path, foreign.pixels(20, 28, 1)[..., 0], np.zeros(20, np.uint8), compressed=False)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"train-(images|labels).*{message}"):
        found_in(tmp_path)


def test_a_compressed_idx_file_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    foreign.write_mnist(tmp_path, foreign.pixels(20, 28, 1)[..., 0], np.zeros(20, np.uint8), compressed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz cannot be read .*: download it again"):
        found_in(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "fortran", "int64"])
def test_arrays_in_the_manner_of_keras_keep_pixels_labels_and_order(tmp_path: Path, save: Any, layout: str) -> None:
    stored: Any = {
        "NHWC": IMAGE_NHWC,
        "NCHW": IMAGE_NHWC.transpose(0, 3, 1, 2).copy(),
        "fortran": np.asfortranarray(IMAGE_NHWC),
        "int64": IMAGE_NHWC.astype(np.int64),
    }[layout]
    save(
        tmp_path / "cifar.npz",
        x_train=stored[:8],
        y_train=LABEL_N[:8, None].astype(np.uint8),
        x_test=stored[8:],
        y_test=LABEL_N[8:],
    )
    images, _ = found_in(tmp_path / "cifar.npz")
    assert_same_pixels(images, {"train": slice(0, 8), "test": slice(8, 12)})


def test_arrays_in_files_of_their_own_are_paired_by_their_names(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGE_NHWC)
    np.save(tmp_path / "labels.npy", LABEL_N)
    np.save(tmp_path / "latents.npy", LABEL_N)
    assert_same_pixels(found_in(tmp_path)[0], {"": slice(0, 12)})


def test_arrays_can_be_named_and_their_file_may_say_the_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", pictures=IMAGE_NHWC[..., 0], x=LABEL_N, kinds=LABEL_N)
    images, _ = found_in(tmp_path / "test.npz", Naming("pictures", "kinds"))
    np.testing.assert_array_equal([foreign.shown(each) for _, each in images["test"]], IMAGE_NHWC[..., :1])


def test_a_part_of_an_array_begins_where_it_should(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=foreign.pixels(200, 4), y=np.arange(200))
    kind = FORMATS["arrays"]
    rows = list(rows_in(kind.find(tmp_path / "a.npz", Naming()).splits[""]))
    for first, stop in shard_borders(np.ones(200, np.int64), 70):
        encoded = kind.images(tmp_path, rows[first:stop], Naming())
        np.testing.assert_array_equal([foreign.shown(each) for each in encoded], foreign.pixels(200, 4)[first:stop])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGE_NHWC / 255, "y": LABEL_N}, "holds float64 and not pixels of 0..255: convert it to uint8"),
        ({"x": IMAGE_NHWC.astype(np.int16) * 2, "y": LABEL_N}, "image 0 has pixels outside of 0..255"),
        ({"x": IMAGE_NHWC, "y": LABEL_N[:5]}, "has 12 images and 5 labels"),
        ({"x": IMAGE_NHWC, "y": LABEL_N - 1}, "row 11 has the label -1"),
        ({"x": IMAGE_NHWC, "y": np.eye(10)[LABEL_N]}, "np.argmax"),
        ({"x": IMAGE_NHWC}, "has no labels beside it"),
        ({"x": IMAGE_NHWC, "y": LABEL_N.astype(object)}, "holds Python objects, which could run code"),
        ({"x": IMAGE_NHWC, "images": IMAGE_NHWC, "y": LABEL_N}, "may both be the images of a split"),
        ({"x": IMAGE_NHWC[..., :2], "y": LABEL_N}, r"has the shape \(12, 32, 32, 2\)"),
        ({"a": IMAGE_NHWC}, "has no arrays called images and labels"),
    ],
)
def test_arrays_that_are_no_images_and_labels_are_errors(tmp_path: Path, arrays: Any, message: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message):
        found_in(tmp_path / "set.npz")


# --------------------------------------------------------------------------------------------- WebDataset and Parquet


def test_a_webdataset_keeps_bytes_labels_and_order(tmp_path: Path) -> None:
    one, two, three, four = map(foreign.jpeg, range(4))
    foreign.write_files(
        tmp_path,
        {
            "train-10.tar": foreign.tar([("x/c.v2.jpg", one), ("x/c.cls", b"7\n")]),
            "train-9.tar": foreign.tar(
                [("b.json", b'{"label": 3}'), ("b.png", two), ("a.webp", three), ("a.cls", b"0")]
            ),
            "val-0.tar": foreign.tar([("notes.txt", b"hello"), ("d.jpeg", four), ("d.cls", b"1"), ("d.txt", b"a dog")]),
        },
    )
    assert found_in(tmp_path) == ({"train": [(3, two), (0, three), (7, one)], "validation": [(1, four)]}, ())


def test_labels_of_a_webdataset_may_be_names_under_a_key(tmp_path: Path) -> None:
    fields = [{"breed": "pug", "label": 5}, {"breed": "akita", "label": 6}]
    members = [
        (f"{key}.{suffix}", data)
        for key, each in enumerate(fields)
        for suffix, data in (("jpg", b"%d" % key), ("mask.png", b"-"), ("json", json.dumps(each).encode()))
    ]
    foreign.write_files(tmp_path, {"a.tar": foreign.tar(members)})
    images, names = found_in(tmp_path / "a.tar", Naming("jpg", "breed"))
    assert (images, names) == ({"": [(1, b"0"), (0, b"1")]}, ("akita", "pug"))
    with pytest.raises(
        DataError, match=r"a.tar: the sample '0' has several images \(jpg, mask.png\): choose with --image"
    ):
        found_in(tmp_path / "a.tar")


GOOD = [("a.jpg", b"1" * 700), ("a.cls", b"0"), ("b.jpg", b"2" * 700), ("b.cls", b"1")]


@pytest.mark.parametrize("length", range(512, len(foreign.tar(GOOD)), 256))
def test_a_tar_that_is_cut_off_anywhere_is_an_error_that_names_it(tmp_path: Path, length: int) -> None:
    whole = foreign.tar(GOOD)
    end = 8 * 512 + 2 * 512  # two of the four members need two blocks
    (tmp_path / "a.tar").write_bytes(whole[:length])
    if length >= end + 512:
        assert len(found_in(tmp_path)[0][""]) == 2
        return
    with pytest.raises(DataError, match=r"a.tar (ends within|is damaged|is no readable)"):
        found_in(tmp_path)


def test_a_tar_with_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    whole = bytearray(foreign.tar(GOOD))
    whole[5 * 512 + 5] ^= 255
    (tmp_path / "a.tar").write_bytes(whole)
    with pytest.raises(DataError, match=r"a.tar is damaged at byte 2,560, or cut off: download it again"):
        found_in(tmp_path)


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "b/../../a.jpg"])
def test_a_tar_whose_names_lead_out_of_it_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.tar").write_bytes(foreign.tar([(name, b""), ("a.cls", b"1")]))
    with pytest.raises(DataError, match="leads out of the archive"):
        found_in(tmp_path)


def test_a_tar_with_a_link_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match=r"'a.jpg' is a link or no file"):
        found_in(tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"")], "the sample 'a' has no label .cls or .json"),
        ([("a.jpg", b""), ("a.json", b"{")], "has a label in JSON that cannot be read"),
        ([("a.jpg", b""), ("a.json", b'{"id": 1}')], "has no label label or cls or class or target in its JSON"),
        ([("a.jpg", b""), ("a.cls", b"-1")], "has the label -1"),
        ([("a.txt", b"")], "holds no samples of an image and a label"),
    ],
)
def test_a_sample_without_a_label_is_an_error_that_names_it(tmp_path: Path, members: Any, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(foreign.tar(members))
    with pytest.raises(DataError, match=message):
        found_in(tmp_path)


def test_parquet_files_are_taken_with_their_columns_names_and_order(tmp_path: Path) -> None:
    features = {"img": {"_type": "Image"}, "fine_label": {"names": ["x", "y", "z"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("img", kind), ("fine_label", pa.int32()), ("id", pa.string())], metadata=metadata)
    (tmp_path / "data").mkdir()
    for number in range(2):
        numbers = range(100 * number, 100 * (number + 1))
        image = [{"bytes": b"%d" % row, "path": f"{row}.jpg"} for row in numbers]
        table = pa.table([image, [row % 3 for row in numbers], [str(row) for row in numbers]], schema=schema)
        pq.write_table(table, tmp_path / f"data/train-0000{number}-of-00002.parquet", row_group_size=30)
    images, names = found_in(tmp_path)
    assert names == ("x", "y", "z")
    assert images == {"train": [(row % 3, b"%d" % row) for row in range(200)]}
    table = FORMATS["parquet"].find(tmp_path, Naming()).splits["train"]
    assert table["name"].to_pylist() == [f"{row}.jpg" for row in range(200)]
    rows = list(rows_in(table))
    assert list(FORMATS["parquet"].images(tmp_path, rows[70:130], Naming())) == [b"%d" % row for row in range(70, 130)]


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        ([{"bytes": None, "path": "1.jpg"}], [1], "row 0 holds no bytes: write the images into the file"),
        ([{"bytes": b"", "path": "1.jpg"}], [-1], "without a label, or with one below 0"),
        ([{"bytes": b"", "path": "1.jpg"}], [None], "without a label, or with one below 0"),
        (["1.jpg"], [1], "holds string and not encoded images"),
    ],
)
def test_parquet_files_without_images_or_labels_are_errors(
    tmp_path: Path, image: Any, label: Any, message: str
) -> None:
    kind = pa.string() if isinstance(image[0], str) else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(image, kind), "label": pa.array(label, pa.int64())})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        found_in(tmp_path)


def test_a_source_of_no_format_is_an_error_that_names_formats(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match="is in none of the formats csv, cifar, idx, arrays, webdataset, parquet, folders"
    ):
        detected(tmp_path)
    with pytest.raises(ValueError, match=r"there is no .*nowhere: correct the path"):
        detected(tmp_path / "nowhere")


# -------------------------------------------------------------------------------------------------------------- shards


def job_of(source: Path, to: Path, *, shard_bytes: int = 1 << 28, **given: Any) -> tuple[Job, list[Task]]:
    """A job whose plan is written, and its tasks."""
    name = detected(source)
    found = FORMATS[name].find(source, Naming())
    work, tasks = str(to / "work"), []
    for split, table in found.splits.items():
        borders = shard_borders(table["size_bytes"].to_numpy(), shard_bytes)
        write_bytes(plan_file(work, split or "train"), plan_bytes(table, borders))
        tasks += [Task(split or "train", number, len(borders)) for number in range(len(borders))]
    names, many = found.class_names, found.multi_label
    return Job(
        name, str(source), Naming(), str(to), work, names, many, **({"resize": None, "skip_bad": False} | given)
    ), tasks


def test_shards_have_the_layout_of_the_hub_with_bytes_labels_names_and_order(tmp_path: Path) -> None:
    files = {f"{'ab'[number % 2]}/{number:03d}.jpg": foreign.jpeg(number) for number in range(50)}
    foreign.write_files(tmp_path / "tree", files)
    job, tasks = job_of(tmp_path / "tree", tmp_path / "set", shard_bytes=sum(map(len, files.values())) // 3)
    written = [write_shard(job, task) for task in tasks]
    assert [task.file for task in tasks] == [f"train-0000{number}-of-00004.parquet" for number in range(4)]
    tables = [pq.read_table(tmp_path / "set" / task.file) for task in tasks]
    rows = pa.concat_tables(tables).to_pylist()
    assert [row["image"] for row in rows] == [{"bytes": files[name], "path": name[2:]} for name in sorted(files)]
    assert [row["label"] for row in rows] == [0] * 25 + [1] * 25
    features = json.loads(tables[0].schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    assert [each.record.sha256 for each in written] == [each.index.shards[0].sha256 for each in written if each.index]
    sizes = [each.record.size_bytes for each in written]
    assert max(sizes) < 1.2 * min(sizes)


def test_row_groups_have_about_equal_bytes(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.parquet", row_group_bytes=10_000) as writer:
        for number in range(100):
            writer.add(bytes(1_000), number % 2)
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [10] * 10
    chunk = metadata.row_group(0).column(0)
    assert (chunk.path_in_schema, chunk.compression, chunk.has_dictionary_page, chunk.is_stats_set) == (
        "image.bytes",
        "UNCOMPRESSED",
        False,
        False,
    )


def test_datasets_reads_a_shard_with_its_features(tmp_path: Path) -> None:
    import datasets  # type: ignore[import-untyped]

    picture = png(IMAGE_NHWC[0])
    for name, many, label in (("one", False, 1), ("many", True, [0, 1])):
        with ShardWriter(tmp_path / f"{name}.parquet", ("cat", "dog"), multi_label=many) as writer:
            writer.add(picture, label, "0.png")
        read = datasets.Dataset.from_parquet(str(tmp_path / f"{name}.parquet"), cache_dir=str(tmp_path / "cache"))
        feature = read.features["label"].feature if many else read.features["label"]
        assert feature.names == ["cat", "dog"]
        np.testing.assert_array_equal(np.asarray(read[0]["image"]), IMAGE_NHWC[0])
        assert read[0]["label"] == label


def test_a_task_that_is_repeated_finds_its_shard_and_a_changed_shard_is_written_again(tmp_path: Path) -> None:
    foreign.write_files(tmp_path / "tree", {"a/1.jpg": foreign.jpeg(1), "b/1.jpg": foreign.jpeg(2)})
    job, [task] = job_of(tmp_path / "tree", tmp_path / "set")
    first = write_shard(job, task)
    shard = tmp_path / "set" / task.file
    data = shard.read_bytes()
    again = write_shard(job, task)
    assert (first.was_there, again.was_there, again.record) == (False, True, first.record)
    shard.write_bytes(data[:100] + b"!" + data[101:])
    assert not write_shard(job, task).was_there
    assert shard.read_bytes() == data


def test_a_shard_that_is_not_of_the_import_is_left_alone(tmp_path: Path) -> None:
    foreign.write_files(tmp_path / "tree", {"a/1.jpg": foreign.jpeg(1), "b/1.jpg": foreign.jpeg(2)})
    job, [task] = job_of(tmp_path / "tree", tmp_path / "set")
    (tmp_path / "set" / task.file).write_bytes(b"mine")
    with pytest.raises(DataError, match="is there, and not of this import: choose another place with --to"):
        write_shard(job, task)
    assert (tmp_path / "set" / task.file).read_bytes() == b"mine"


def test_shards_go_to_a_place_elsewhere_with_the_same_bytes(tmp_path: Path) -> None:
    files = {f"{'ab'[number % 2]}/{number:03d}.jpg": foreign.jpeg(number) for number in range(50)}
    foreign.write_files(tmp_path / "tree", files)
    elsewhere = "mock:///set"  # a file system in memory, which pyarrow has for tests
    written = []
    for to in (str(tmp_path / "set"), elsewhere, elsewhere):
        name, found = "folders", FORMATS["folders"].find(tmp_path / "tree", USUAL)
        write_bytes(plan_file(joined(to, "work"), "train"), plan_bytes(found.splits[""], [(0, 50)]))
        job = Job(name, str(tmp_path / "tree"), USUAL, to, joined(to, "work"), found.class_names, False, None, False)
        written.append(write_shard(job, Task("train", 0, 1)))
    assert written[0].record == written[1].record == written[2].record
    assert [each.was_there for each in written] == [False, False, True]
    assert read_bytes(f"{elsewhere}/{written[0].task.file}") == (tmp_path / "set" / written[0].task.file).read_bytes()


@contextmanager
def no_file_above(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_is_one_sentence_and_leaves_no_shard(tmp_path: Path) -> None:
    files = {f"{'ab'[number % 2]}/{number:03d}.jpg": bytes(10_000) for number in range(50)}
    foreign.write_files(tmp_path / "tree", files)
    job, [task] = job_of(tmp_path / "tree", tmp_path / "set")
    with (
        no_file_above(100_000),
        pytest.raises(DataError, match=r"there is no room for train-00000-of-00001.parquet in"),
    ):
        write_shard(job, task)
    assert [file.name for file in (tmp_path / "set").rglob("*") if file.is_file()] == ["train.plan.parquet"]
    assert write_shard(job, task).index is not None


def test_all_images_of_one_square_size_and_grey_ones_are_told_from_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", x=IMAGE_NHWC[..., 0], y=LABEL_N)
    foreign.write_files(tmp_path / "tree", {"a/1.jpg": foreign.jpeg(1), "b/1.jpg": foreign.jpeg(2, 16, 16)})
    records = []
    for source, to in ((tmp_path / "grey.npz", "grey"), (tmp_path / "tree", "photos")):
        job, [task] = job_of(source, tmp_path / to)
        records.append(write_shard(job, task).record)
    assert [(record.side, record.channels) for record in records] == [(32, 1), (0, 3)]


# ------------------------------------------------------------------------------------------------------------ resizing


def test_a_larger_image_is_made_smaller_and_a_small_one_keeps_its_bytes() -> None:
    from workers.data.decoding import inspect

    found = inspect(resized(foreign.jpeg(1, 64, 96), 32))
    assert (found.format, found.width, found.height, found.fault) == ("jpeg", 48, 32, None)
    small = foreign.jpeg(1, 32, 400)
    assert resized(small, 32) == small
    grey = inspect(resized(png(foreign.pixels(1, 64, 1)[0]), 32))
    assert (grey.width, grey.height, grey.oddities) == (32, 32, ("grey",))


def test_an_image_that_cannot_be_resized_is_an_error_or_is_skipped_and_told(tmp_path: Path) -> None:
    files = {"a/1.jpg": foreign.jpeg(1, 64, 64), "a/2.jpg": b"<html>", "b/1.jpg": foreign.jpeg(2, 64, 64)}
    foreign.write_files(tmp_path / "tree", files)
    job, [task] = job_of(tmp_path / "tree", tmp_path / "set", resize=16)
    with pytest.raises(DataError, match=r"a/2.jpg cannot be resized, this is an HTML page.*add --skip-bad"):
        write_shard(job, task)
    job, [task] = job_of(tmp_path / "tree", tmp_path / "other", resize=16, skip_bad=True)
    written = write_shard(job, task)
    assert [file for file, _ in written.record.skipped] == ["a/2.jpg"]
    assert pq.read_table(tmp_path / "other" / task.file)["label"].to_pylist() == [0, 1]


def test_a_shard_whose_images_are_all_skipped_is_no_file(tmp_path: Path) -> None:
    foreign.write_files(tmp_path / "tree", {"a/1.jpg": b"", "b/1.jpg": b"?"})
    job, [task] = job_of(tmp_path / "tree", tmp_path / "set", resize=16, skip_bad=True)
    written = [write_shard(job, task), write_shard(job, task)]
    assert [(each.index, len(each.record.skipped), each.was_there) for each in written] == [
        (None, 2, False),
        (None, 2, True),
    ]
    assert not (tmp_path / "set" / task.file).exists()


# ------------------------------------------------------------------------------------------------------------ borders


def test_borders_of_shards_cover_all_rows_and_no_shard_is_empty() -> None:
    for size_N in (np.ones(1), np.array([10, 1, 1, 1]), np.array([1, 1, 1, 100]), np.ones(1000), np.array([0, 0, 5])):
        borders = shard_borders(size_N.astype(np.int64), 3)
        assert [first for first, _ in borders] == [0, *(stop for _, stop in borders[:-1])]
        assert borders[-1][1] == len(size_N)
        assert all(first < stop for first, stop in borders)
