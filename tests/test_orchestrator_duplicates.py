"""De-duplication from registry to registry: planted copies are found, and the split without them is registered."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from orchestrator.data_duplicates import dedup
from orchestrator.data_registry import add_data_set
from orchestrator.settings import Settings, settings
from studies.manifests import Columns
from studies.registry import Registry, load_registry
from studies.subsets import rows_digest, subset_of
from tests.command_line import environment
from workers.data.index import index_shards, manifest_of, write_index
from workers.supervision import DataError

pytestmark = pytest.mark.usefixtures("ray_here")
ROOT = Path(__file__).parent.parent
CHINA, FLOWER = (Image.fromarray(image) for image in load_sample_images().images)
FLAT = Image.new("RGB", (40, 40), (90, 120, 30))


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def piece(number: int) -> Image.Image:
    """A part of a photograph that no other number's overlaps."""
    photograph = (CHINA, FLOWER)[number % 2]
    x, y = number // 2 % 4, number // 8 % 3
    return photograph.crop((160 * x, 140 * y, 160 * x + 160, 140 * y + 140))


def add(home: Settings, name: str, splits: dict[str, Sequence[Sequence[bytes]]]) -> None:
    """Register a data set that has these images in the shards of its splits."""
    folder = home.datasets.parent / name
    folder.mkdir(parents=True)
    indexes = {}
    for split, shards in splits.items():
        files = [f"{split}-{number:05}-of-{len(shards):05}.parquet" for number in range(len(shards))]
        for file, images in zip(files, shards, strict=True):
            rows = [{"bytes": image, "path": None} for image in images]
            table = pa.table({"image": rows, "label": [number % 2 for number in range(len(rows))]})
            pq.write_table(table, folder / file, row_group_size=3)
        indexes[split] = index_shards(str(folder), files, Columns())
    manifest = manifest_of(indexes, Columns(), channels=3, image_size=None, classes=2)
    write_index(str(folder / "vitscale-index"), manifest, indexes)
    entries = {
        split: {"rows": manifest.splits[split].rows, "fingerprint": manifest.fingerprint(split)} for split in splits
    }
    add_data_set(home.datasets, name, {"location": name, "classes": 2, "splits": entries})


TEST = [jpeg(piece(number)) for number in range(8)] + [jpeg(FLAT), b"no image"]
PLANTED: dict[int, tuple[bytes, str, int]] = {
    2: (TEST[0], "exact", 0),
    3: (jpeg(piece(1), 40), "near", 1),
    5: (jpeg(piece(2).resize((80, 70), Image.Resampling.BICUBIC)), "near", 2),
    8: (jpeg(ImageEnhance.Brightness(piece(3)).enhance(1.1)), "near", 3),
    9: (TEST[0], "exact", 0),
    11: (jpeg(FLAT), "exact", 8),
}
"""Rows of the training split that are in the test split: the image, how, and the row there."""
OTHERS = {
    0: jpeg(Image.new("RGB", (50, 30), (200, 10, 10))),  # flat as well, and so not like the flat one of the test split
    1: b"no image",  # as one of the test split is, which nobody can train on
    6: jpeg(FLAT, 40),
}
ROWS = 13


def train_images() -> list[bytes]:
    """Unrelated images, and those that were planted."""
    images = [jpeg(piece(10 + number)) for number in range(ROWS)]
    for row, image in OTHERS.items():
        images[row] = image
    for row, (image, _, _) in PLANTED.items():
        images[row] = image
    return images


@dataclass(frozen=True)
class World:
    """A registry of two data sets."""

    home: Settings

    @property
    def registry(self) -> Registry:
        """As it is now."""
        return load_registry(self.home.datasets)


@pytest.fixture
def world(tmp_path: Path) -> World:
    home = settings(None, tmp_path / ".vitscale")
    images = train_images()
    add(home, "web", {"train": [images[:4], images[4:7], images[7:]]})
    add(home, "pets", {"test": [TEST[:5], TEST[5:]], "validation": [[jpeg(piece(12)), TEST[3]]]})
    return World(home)


def listed(result: dict[str, Any]) -> pa.Table:
    return pq.read_table(result["list"]["path"])


def test_planted_copies_are_found_and_a_split_without_them_is_registered(world: World, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    result = dedup(world.home, world.registry, "web", "train", ["pets:test"], new_split="train-clean", report=report)
    table = listed(result).to_pylist()
    assert {row["row"]: (row["reason"], row["other_row"]) for row in table} == {
        row: (reason, other) for row, (_, reason, other) in PLANTED.items()
    }
    assert [row["row"] for row in table] == sorted(PLANTED)
    assert {(row["other_dataset"], row["other_split"]) for row in table} == {("pets", "test")}
    assert all(row["hash"] is None for row in table if row["row"] == 11)
    assert (result["rows"], result["dropped"], result["exact"], result["near"]) == (ROWS, 6, 3, 3)
    assert (result["unreadable"], result["without_hash"]) == (1, 3)
    assert result["against"] == [{"dataset": "pets", "split": "test", "rows": len(TEST), "found": 6}]
    assert result["list"]["digest"] == rows_digest(np.array(sorted(PLANTED), dtype=np.int64))
    json.dumps(result)

    web = world.registry.get("web")
    selection = web.selection("train-clean")
    assert selection.rows == ROWS - len(PLANTED)
    assert selection.fingerprint != web.selection("train").fingerprint
    dropped = listed(result)["row"].to_numpy()
    places = np.arange(selection.rows, dtype=np.int64)
    kept = subset_of(selection, web.take("train-clean"), dropped, None).rows_at(places)
    assert sorted(kept.tolist()) == sorted(set(range(ROWS)) - set(PLANTED))

    text = report.read_text()
    assert text.count("<article>") == len(PLANTED)
    assert "All 6 pairs are shown." in text
    assert "train-00002-of-00003.parquet, row 1" in text


def test_shards_that_were_hashed_are_not_read_again(world: World) -> None:
    first = dedup(world.home, world.registry, "web", "train", ["pets:test"])
    assert first["new_split"] is None
    assert set(world.registry.get("web").splits) == {"train"}
    for shard in (world.home.datasets.parent / "web").glob("*.parquet"):
        shard.unlink()
    again = dedup(world.home, world.registry, "web", "train", ["pets:test"], radius=0)
    assert again["exact"] == first["exact"]
    assert again["near"] <= first["near"]
    report = world.home.datasets.parent / "report.html"
    with pytest.raises(DataError, match=r"train-00000-of-00003.parquet.*missing"):
        dedup(world.home, world.registry, "web", "train", ["pets:test"], report=report)


def test_rows_that_are_left_out_already_are_in_no_second_list(world: World) -> None:
    first = dedup(world.home, world.registry, "web", "train", ["pets:validation"], new_split="step")
    assert listed(first)["row"].to_pylist() == [8]
    second = dedup(world.home, world.registry, "web", "step", ["pets:test"], new_split="clean")
    assert listed(second)["row"].to_pylist() == sorted(set(PLANTED) - {8})
    assert second["rows"] == ROWS - 1
    assert world.registry.get("web").selection("clean").rows == ROWS - len(PLANTED)


def test_only_the_rows_of_the_other_split_count(world: World) -> None:
    text = world.home.datasets.read_text()
    stored = next(line for line in text.splitlines() if line.strip().startswith("test:"))
    blanks = stored[: len(stored) - len(stored.lstrip())]
    part = f"{blanks}half: {{of: test, stop: 5, order: file}}"
    world.home.datasets.write_text(text.replace(stored, f"{stored}\n{part}"))
    result = dedup(world.home, world.registry, "web", "train", ["pets:half"])
    assert listed(result)["row"].to_pylist() == [row for row in sorted(PLANTED) if PLANTED[row][2] < 5]
    assert result["against"] == [{"dataset": "pets", "split": "half", "rows": 5, "found": 5}]


def test_of_several_splits_the_nearest_image_is_named(world: World) -> None:
    result = dedup(world.home, world.registry, "web", "train", ["pets:test", "pets:validation"])
    assert [each["found"] for each in result["against"]] == [6, 1]
    assert listed(result)["row"].to_pylist() == sorted(PLANTED)
    table = {row["row"]: row for row in listed(result).to_pylist()}
    assert table[8]["other_split"] == "test"


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing to compare with": ({"against": []}, "name a split, as --against pets:test"),
    "no split": ({"against": ["pets"]}, "'pets' names no split: write the data set and the split, as pets:test"),
    "an unknown split": ({"against": ["pets:tset"]}, "'tset' is no split of pets"),
    "an unknown set": ({"against": ["cats:test"]}, "'cats' is no data set"),
    "a generated set": ({"against": ["shapes:test"]}, "shapes is generated: it has no files"),
    "a set known by its sizes": ({"name": "jft-300m"}, "jft-300m is known by its sizes alone"),
    "a large radius": ({"radius": 13}, "the radius is 13: give a number of bits from 0 to 12"),
    "a split that is there": ({"new_split": "train"}, "web has a split 'train' in .*: choose another name"),
    "a built-in set": ({"name": "digits", "split": "all", "new_split": "clean"}, "digits is built in"),
    "a part": ({"name": "digits"}, "the train split of digits is a part of all: drop images of all"),
    "no folder": ({"report": Path("/nowhere/report.html")}, "there is no folder /nowhere for the report"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_work_is_refused_before_anything_is_hashed(world: World, fault: str) -> None:
    arguments, message = FAULTS[fault]
    asked = {"name": "web", "split": "train", "against": ["pets:test"], **arguments}
    with pytest.raises(ValueError, match=message):
        dedup(world.home, world.registry, **asked)
    assert not (world.home.folder / "hashes").exists()


def test_a_list_that_was_changed_is_refused(world: World) -> None:
    result = dedup(world.home, world.registry, "web", "train", ["pets:test"], new_split="clean")
    pq.write_table(listed(result).slice(1), result["list"]["path"])
    with pytest.raises(DataError, match="is not the one that the registry names: put that back"):
        dedup(world.home, world.registry, "web", "clean", ["pets:validation"])


JOB = """\
import sys
from pathlib import Path
from orchestrator.data_duplicates import dedup
from orchestrator.settings import settings
from studies.registry import load_registry

home = settings(None, Path(sys.argv[1]))
dedup(home, load_registry(home.datasets), "web", "train", ["pets:test"], new_split="clean", cpus=1)
"""


@pytest.mark.slow
def test_a_job_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    home = settings(None, tmp_path / ".vitscale")
    images = [jpeg(piece(number % 24), 30 + number // 40) for number in range(2400)]
    add(home, "web", {"train": [images[start : start + 60] for start in range(0, 2400, 60)]})
    add(home, "pets", {"test": [[jpeg(piece(0))]]})
    command = [sys.executable, "-c", JOB, str(home.folder)]
    job = subprocess.Popen(command, cwd=ROOT, env=environment({}), start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while job.poll() is None and len(hashes(home)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    time.sleep(1)  # Ray's own processes see that we are gone
    kept = {file: file.stat().st_mtime_ns for file in hashes(home)}
    assert kept, "it was killed before it hashed anything"
    assert "clean" not in load_registry(home.datasets).get("web").splits, "it was done before it was killed"

    done = subprocess.run(command, cwd=ROOT, env=environment({}), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "shards have been hashed before" in done.stderr
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert load_registry(home.datasets).get("web").selection("clean").rows == 2400 - 100


def hashes(home: Settings) -> list[Path]:
    return sorted((home.folder / "hashes").glob("*/*.parquet"))


def test_a_damaged_file_of_hashes_is_made_again(world: World) -> None:
    first = dedup(world.home, world.registry, "web", "train", ["pets:test"])
    file = hashes(world.home)[0]
    file.write_bytes(file.read_bytes()[:100])
    again = dedup(world.home, world.registry, "web", "train", ["pets:test"])
    assert again == first
