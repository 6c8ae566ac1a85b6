import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data_import import import_
from orchestrator.data_jobs import TaskDied, spread
from studies.datasets import Files
from studies.registry import load_registry
from tests import foreign_files as foreign
from workers.data.shards import Shards
from workers.supervision import DataError

pytestmark = pytest.mark.usefixtures("ray_here")
IMAGE_NHWC = foreign.pixels(24)
LABEL_N = np.arange(24) % 10


def read(registry: Path, name: str, split: str) -> tuple[list[bytes], list[Any]]:
    """Images and labels as a training reads them."""
    data_set = load_registry(registry).get(name)
    assert isinstance(data_set.origin, Files)
    shards = Shards(data_set.origin, split, data_set.selection(split).stored_fingerprint)
    groups = [shards.read(group) for group in range(len(shards.row_groups.rows_G))]
    return [image for group in groups for image in group.images], [label for group in groups for label in group.labels]


def files_of(location: Path) -> dict[str, str]:
    """Digest of each file below a place that belongs to the data set, not to the import."""
    return {
        file.relative_to(location).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(location.rglob("*"))
        if file.is_file() and "vitscale-import" not in file.parts
    }


def tree(folder: Path, images: int = 40, classes: tuple[str, ...] = ("ant", "bee")) -> dict[str, bytes]:
    """A tree of class folders, and what is in it."""
    files = {f"{classes[n % len(classes)]}/{n:04d}.jpg": foreign.jpeg(n) for n in range(images)}
    foreign.write_files(folder, files)
    return files


# ---------------------------------------------------------------------------------------------------------- importing


def test_a_tree_becomes_a_registered_data_set_with_its_bytes_labels_and_order(tmp_path: Path) -> None:
    files = tree(tmp_path / "tree")
    registry = tmp_path / "datasets.yaml"
    result = import_(registry, tmp_path / "tree", "insects", shard_bytes=10_000)
    assert read(registry, "insects", "train") == ([files[name] for name in sorted(files)], [0] * 20 + [1] * 20)
    data_set = load_registry(registry).get("insects")
    assert (data_set.classes, data_set.channels, data_set.image_size) == (2, 3, None)
    manifest = json.loads((tmp_path / "data/insects/vitscale-index/manifest.json").read_text())
    assert manifest["class_names"] == ["ant", "bee"]
    assert manifest["splits"]["train"]["class_counts"] == [20, 20]
    shards = manifest["splits"]["train"]["shards"]
    assert [shard["file"] for shard in shards] == [
        f"train-0000{n}-of-0000{len(shards)}.parquet" for n in range(len(shards))
    ]
    assert result["splits"]["train"] == {
        "rows": 40,
        "fingerprint": data_set.take("train").fingerprint,
        "fewest": 20,
        "shards": len(shards),
        "size_bytes": sum(shard["size_bytes"] for shard in shards),
    }
    [work] = (tmp_path / "data/insects/vitscale-import").iterdir()
    assert [file.name for file in work.iterdir()] == ["done.json"]


def test_cifar_10_becomes_two_splits_in_one_go(tmp_path: Path) -> None:
    foreign.write_cifar_10_python(tmp_path / "source", IMAGE_NHWC, LABEL_N)
    registry = tmp_path / "datasets.yaml"
    import_(registry, tmp_path / "source", "cifar-10", to=str(tmp_path / "elsewhere"), about="A. Krizhevsky, 2009")
    for split, part in (("train", slice(0, 20)), ("test", slice(20, 24))):
        images, labels = read(registry, "cifar-10", split)
        assert labels == LABEL_N[part].tolist()
        np.testing.assert_array_equal([foreign.shown(image) for image in images], IMAGE_NHWC[part])
    data_set = load_registry(registry).get("cifar-10")
    assert (data_set.classes, data_set.channels, data_set.image_size) == (10, 3, 32)
    assert data_set.source == "A. Krizhevsky, 2009"
    assert (tmp_path / "elsewhere/train-00000-of-00001.parquet").exists()


def test_grey_arrays_without_class_names_become_a_data_set_of_one_channel(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "digits.npz", x_train=IMAGE_NHWC[..., 0], y_train=LABEL_N, x_test=IMAGE_NHWC[..., 1], y_test=LABEL_N
    )
    registry = tmp_path / "datasets.yaml"
    import_(registry, tmp_path / "digits.npz", "grey", shard_bytes=5_000)
    images, labels = read(registry, "grey", "test")
    np.testing.assert_array_equal([foreign.shown(image)[..., 0] for image in images], IMAGE_NHWC[..., 1])
    assert labels == LABEL_N.tolist()
    data_set = load_registry(registry).get("grey")
    assert (data_set.classes, data_set.channels, data_set.image_size) == (10, 1, 32)


def test_parquet_with_many_labels_an_image_is_sharded_anew(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = [[n % 5, 5] if n % 2 else [] for n in range(50)]
    table = pa.table(
        {
            "image": pa.array([{"bytes": foreign.jpeg(n), "path": None} for n in range(50)], kind),
            "label": pa.array(labels, pa.list_(pa.int32())),
        }
    )
    pq.write_table(table, tmp_path / "test.parquet", row_group_size=7)
    registry = tmp_path / "datasets.yaml"
    result = import_(registry, tmp_path / "test.parquet", "scenes", shard_bytes=10_000)
    assert read(registry, "scenes", "test") == ([foreign.jpeg(n) for n in range(50)], labels)
    assert result["splits"]["test"]["shards"] > 1
    assert load_registry(registry).get("scenes").multi_label


def test_the_same_source_gives_the_same_files_wherever_and_whenever(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    for place in ("one", "two"):
        import_(tmp_path / place / "datasets.yaml", tmp_path / "tree", "insects", shard_bytes=10_000)
    assert files_of(tmp_path / "one/data/insects") == files_of(tmp_path / "two/data/insects")


def test_images_are_made_smaller_on_request(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    (tmp_path / "tree/ant/bad.jpg").write_bytes(foreign.jpeg(0)[:300])
    registry = tmp_path / "datasets.yaml"
    with pytest.raises(DataError, match=r"ant/bad.jpg cannot be resized, the JPEG ends after 300 bytes"):
        import_(registry, tmp_path / "tree", "insects", resize=16)
    assert not registry.exists()
    result = import_(registry, tmp_path / "tree", "small", resize=16, skip_bad=True)
    assert [(each["split"], each["file"]) for each in result["skipped"]] == [("train", "ant/bad.jpg")]
    assert (result["resized"], result["splits"]["train"]["rows"]) == (16, 40)


# ------------------------------------------------------------------------------------------------------- second splits


def test_another_split_is_added_with_the_labels_of_the_first(tmp_path: Path) -> None:
    tree(tmp_path / "tree", classes=("ant", "bee", "cow"))
    files = tree(tmp_path / "more", images=6, classes=("cow", "ant"))
    registry = tmp_path / "datasets.yaml"
    import_(registry, tmp_path / "tree", "animals")
    before = files_of(tmp_path / "data/animals")
    import_(registry, tmp_path / "more", "animals", split="test")
    assert read(registry, "animals", "test") == ([files[name] for name in sorted(files)], [0] * 3 + [2] * 3)
    assert len(read(registry, "animals", "train")[0]) == 40
    after = files_of(tmp_path / "data/animals")
    assert {name for name in before if before[name] != after[name]} == {"vitscale-index/manifest.json"}
    again = import_(registry, tmp_path / "more", "animals", split="test")
    assert (again["was_there"], files_of(tmp_path / "data/animals")) == (True, after)


def test_another_split_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    foreign.write_cifar_10_binary(tmp_path / "cifar", IMAGE_NHWC, LABEL_N)
    tree(tmp_path / "tree")
    np.savez(tmp_path / "large.npz", x=foreign.pixels(4, 64), y=np.arange(4))
    np.savez(tmp_path / "eleven.npz", x=IMAGE_NHWC, y=np.arange(24))
    registry = tmp_path / "datasets.yaml"
    import_(registry, tmp_path / "cifar", "cifar")
    for source, message in (
        ("tree", "cifar has no class 'ant': import this as another data set"),
        ("large.npz", "all images of cifar have 32 x 32 pixels, and some of these have not"),
        ("eleven.npz", r"has the label 23, and there are 10 classes, 0 to 9"),
    ):
        with pytest.raises(DataError, match=message):
            import_(registry, tmp_path / source, "cifar", split=f"other-{source[:3]}")
    with pytest.raises(ValueError, match="cifar has a split 'train' already"):
        import_(registry, tmp_path / "tree", "cifar")
    assert list(load_registry(registry).get("cifar").splits) == ["train", "test"]
    assert sorted(file.name for file in (tmp_path / "data/cifar").glob("*.parquet")) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]


def test_one_split_of_several_can_be_taken(tmp_path: Path) -> None:
    foreign.write_cifar_10_binary(tmp_path / "cifar", IMAGE_NHWC, LABEL_N)
    registry = tmp_path / "datasets.yaml"
    import_(registry, tmp_path / "cifar", "cifar", split="test")
    assert list(load_registry(registry).get("cifar").splits) == ["test"]
    with pytest.raises(ValueError, match="has the splits test, train and no 'dev': choose with --split"):
        import_(registry, tmp_path / "cifar", "other", split="dev")


# ------------------------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_imported_is_told_in_one_sentence_and_leaves_no_registry(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    tree(tmp_path / "one", classes=("ant",))
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/1.jpg").write_bytes(b"")
    registry = tmp_path / "datasets.yaml"
    for source, given, kind, message in (
        ("one", {}, DataError, "has only the class 'ant': give a source with two classes at least"),
        ("flat", {}, ValueError, "is in none of the formats"),
        ("flat", {"format": "folders"}, DataError, "holds no image in class folders"),
        ("nowhere", {}, ValueError, "there is no "),
        ("tree", {"format": "zip"}, ValueError, "'zip' is no format: choose among csv, cifar"),
        ("tree", {"split": "Test 1"}, ValueError, "'Test 1' cannot be a split's name"),
        ("tree", {"skip_bad": True}, ValueError, "--skip-bad does nothing without --resize"),
        ("tree", {"name": "digits"}, ValueError, "'digits' is built in"),
        ("tree", {"label": "x"}, ValueError, "a tree of folders has no columns"),
    ):
        name = str(given.pop("name", "insects"))
        with pytest.raises(kind, match=message):
            import_(registry, tmp_path / source, name, **given)
    assert not registry.exists()


def test_a_name_or_a_place_that_is_taken_is_refused(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    registry = tmp_path / "datasets.yaml"
    import_(registry, tmp_path / "tree", "insects")
    with pytest.raises(ValueError, match=r"'insects' is a data set of .*datasets.yaml already: choose another name"):
        import_(registry, tmp_path / "tree", "insects", to=str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="holds a data set already: register it with `vitscale data add`"):
        import_(registry, tmp_path / "tree", "beetles", to=str(tmp_path / "data/insects"))


def test_an_import_with_other_options_does_not_mix_with_one_that_was_not_ended(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    (tmp_path / "tree/ant/bad.jpg").write_bytes(b"")
    registry = tmp_path / "datasets.yaml"
    with pytest.raises(DataError, match="cannot be resized"):
        import_(registry, tmp_path / "tree", "insects", resize=16)
    with pytest.raises(
        ValueError, match=r"another import of the train split into .*data/insects was begun and not ended"
    ):
        import_(registry, tmp_path / "tree", "insects")


# ------------------------------------------------------------------------------------------------------------ kills

IMPORT = """
import sys
from pathlib import Path
from orchestrator.data_import import import_
import_(Path(sys.argv[1]), Path(sys.argv[2]), "insects", shard_bytes=20_000, cpus=1)
"""


@pytest.mark.slow
def test_an_import_that_is_killed_at_any_moment_goes_on_to_the_same_files(tmp_path: Path) -> None:
    tree(tmp_path / "tree", images=4_000)
    import_(tmp_path / "whole/datasets.yaml", tmp_path / "tree", "insects", shard_bytes=20_000)
    due = files_of(tmp_path / "whole/data/insects")
    place = tmp_path / "killed/data/insects"
    chance = random.Random(0)
    for _ in range(4):
        running = started(tmp_path)
        wanted = chance.randrange(1, 40) + len(list(place.glob("*.parquet")))
        while running.poll() is None and len(list(place.glob("*.parquet"))) < wanted:
            time.sleep(0.001)
        time.sleep(chance.random() / 50)
        running.kill()
        running.wait()
        assert not (tmp_path / "killed/datasets.yaml").exists()
        assert 0 < len(list(place.glob("*.parquet"))) < len(list((tmp_path / "whole/data/insects").glob("*.parquet")))
    running = started(tmp_path)
    while running.poll() is None and not (place / "vitscale-index/manifest.json").exists():
        time.sleep(0.0001)
    running.kill()
    running.wait()
    assert started(tmp_path).wait(120) == 0
    assert files_of(place) == due
    assert (tmp_path / "killed/datasets.yaml").read_text() == (tmp_path / "whole/datasets.yaml").read_text()


def started(folder: Path) -> subprocess.Popen[bytes]:
    """An import in a process, with a Ray, of its own."""
    command = [sys.executable, "-c", IMPORT, str(folder / "killed/datasets.yaml"), str(folder / "tree")]
    return subprocess.Popen(command, cwd=Path(__file__).parent.parent)


# ---------------------------------------------------------------------------------------------------------------- jobs


def squaring() -> Callable[[int], int]:
    """A task that squares; 7 is bad, and 8 kills its process. Of this file no other process can import anything."""

    def square(number: int) -> int:
        if number == 7:
            raise ValueError("seven is bad")
        if number == 8:
            os._exit(1)
        return number * number

    return square


def test_a_task_runs_once_for_each_item() -> None:
    assert sorted(spread(squaring(), [1, 2, 3, 4, 5], label="squaring")) == [(n, n * n) for n in range(1, 6)]
    assert list(spread(squaring(), [], label="squaring")) == []


def test_an_error_of_a_task_comes_home_as_itself_and_names_the_item() -> None:
    with pytest.raises(ValueError, match="seven is bad") as caught:
        list(spread(squaring(), [7], label="squaring"))
    assert caught.value.__notes__ == ["in the task for 7"]


@pytest.mark.slow
def test_a_task_whose_process_dies_is_an_error_or_what_the_caller_says_instead() -> None:
    with pytest.raises(TaskDied, match="the process that worked on 8 died twice"):
        list(spread(squaring(), [8], label="squaring"))
    assert sorted(spread(squaring(), [2, 8], label="squaring", died=lambda number: -number)) == [(2, 4), (8, -8)]
