"""Data sets and the registry: what a name stands for, and one clear sentence for each way to write it wrongly."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from studies.datasets import (
    BUILT_IN,
    DIGITS,
    JFT_300M,
    SHAPES,
    DataSet,
    Files,
    Part,
    SplitUse,
    StoredSplit,
    Thinned,
    parsed_rows,
)
from studies.known_sizes import KNOWN_SIZES
from studies.manifests import Manifest, Shard, SplitManifest
from studies.registry import load_registry
from studies.yaml_source import StudyError

A, B = "aa" * 32, "bb" * 32
X = "datasets:\n  x: {location: y, classes: 2, "

REGISTRY = f"""
datasets:
  pets:  # Oxford-IIIT
    location: data/pets
    classes: 37
    development: 10%
    splits:
      train: {{rows: 3680, fingerprint: {A}, fewest: 88}}
      test: {{rows: 3669, fingerprint: {B}}}
      train800: {{of: train, stop: 800, order: file}}
  web:
    location: s3://bucket/web
    index: index/web
    classes: 10
    multi_label: true
    splits:
      train: {{rows: 1000, fingerprint: {A}}}
      clean: {{of: train, drop: [{{file: drops/web.parquet, rows: 10, digest: {B}}}]}}
  easy:
    procedural: {{classes: 4, image_size: 16, difficulty: 0.1}}
"""


def registry_file(folder: Path, text: str) -> Path:
    file = folder / "datasets.yaml"
    file.write_text(text)
    return file


def test_a_registry_names_sets_beside_the_built_in_ones(tmp_path: Path) -> None:
    registry = load_registry(registry_file(tmp_path, REGISTRY))
    assert set(registry.sets) == {*BUILT_IN, *KNOWN_SIZES, "pets", "web", "easy"}
    pets, web = registry.get("pets"), registry.get("web")
    assert isinstance(pets.origin, Files)
    assert isinstance(web.origin, Files)
    assert pets.origin.index_location == str(tmp_path / "data/pets/vitscale-index")
    assert (web.origin.location, web.origin.index_location) == ("s3://bucket/web", str(tmp_path / "index/web"))
    assert pets.take("development").rows == 368
    assert pets.take("remaining").rows == 3312
    assert pets.take("train800").rows == 800
    assert web.take("clean").rows == 990
    assert registry.get("easy").take("train", 500).image_size == 16


def test_the_index_is_beside_the_shards_whatever_options_a_location_has() -> None:
    found = [Files(location=each).index_location for each in ("/data/x?/", "s3://b/x", "s3://b/x/?region=eu")]
    assert found == ["/data/x?/vitscale-index", "s3://b/x/vitscale-index", "s3://b/x/vitscale-index?region=eu"]


def test_without_a_registry_there_are_the_built_in_sets(tmp_path: Path) -> None:
    registry = load_registry(tmp_path / "none.yaml")
    assert set(registry.sets) == {*BUILT_IN, *KNOWN_SIZES}
    with pytest.raises(
        ValueError, match=r"'digit' is no data set; did you mean 'digits'\?.*no datasets.yaml was found"
    ):
        registry.get("digit")
    assert set(load_registry(registry_file(tmp_path, "")).sets) == set(registry.sets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: [pets]", "1:11: datasets: a list should be a mapping"),
        ("datasets:\n  digits: {}", "2:3: 'digits' is built in: choose another name"),
        ("datasets:\n  ../x: {}", "2:3: '../x' is no name of a data set or split"),
        ("datasets:\n  x: {location: y, clases: 2}", "2:6: datasets.x: the key 'classes' is missing"),
        ("datasets:\n  x: {location: y, classes: 2}", "the key 'splits' is missing"),
        (f"datasets:\n  x: {{location: y, classes: 1, splits: {{train: {{rows: 1, fingerprint: {A}}}}}}}", "classes"),
        ("datasets:\n  x: {location: y, classes: 2, splits: {train: {rows: 1, fingerprint: abc}}}", "fingerprint"),
        ("datasets:\n  x: {location: y, classes: 2, splits: {a: {of: b}}}", "'b' is no split of x"),
        ("datasets:\n  x: {location: y, classes: 2, splits: {a: {of: b}, b: {of: a}}}", "made of each other: a of b"),
        (
            f"{X}splits: {{t: {{rows: 9, fingerprint: {A}}}, a: {{of: t, stop: 10}}}}}}",
            "takes rows 0 to 10 of t, which has 9",
        ),
        (
            f"{X}splits: {{t: {{rows: 9, fingerprint: {A}}}, a: {{of: t, stop: 5k}}}}}}",
            "'5k' is no border of the split a",
        ),
        (
            f"{X}development: 2%, splits: {{t: {{rows: 9, fingerprint: {A}}}}}}}",
            "development makes the splits",
        ),
        ("datasets:\n  x: {procedural: {classes: 1}}", "classes"),
    ],
)
def test_a_registry_that_is_wrong_is_refused_at_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_registry(registry_file(tmp_path, text))
    assert message in str(caught.value)
    assert "datasets.yaml:" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("subset", "rows"),
    [(7, 7), ("9M", 9_000_000), ("300k", 300_000), ("10%", 30_300_000), ("1.5M", 1_500_000), ("100%", 303_000_000)],
)
def test_a_subset_is_a_number_or_a_share(subset: int | str, rows: int) -> None:
    assert parsed_rows(subset, 303_000_000) == rows


@pytest.mark.parametrize("subset", [0, -1, "ten", "5 %%", "101%", "0%", "", "1e6"])
def test_what_is_no_subset_is_refused(subset: int | str) -> None:
    with pytest.raises(ValueError, match=r"subset|number of images"):
        parsed_rows(subset, 1000)


def test_a_split_has_a_fingerprint_of_its_own_for_all_that_changes_its_rows() -> None:
    def named(**changed: Any) -> DataSet:
        splits: dict[str, SplitUse] = {
            "train": StoredSplit(rows=100, fingerprint=A),
            "half": Part(of="train", stop="50%"),
            "first": Part(of="train", stop="50%", order="file"),
            "clean": Thinned.model_validate({"of": "train", "drop": [{"file": "a", "rows": 3, "digest": B}]}),
            "dirty": Thinned.model_validate({"of": "train", "drop": [{"file": "a", "rows": 3, "digest": A}]}),
        }
        return DataSet(
            name="x", origin=Files(location="/"), splits=splits, classes=2, channels=3, image_size=None, source=""
        )

    found = [named().selection(split).fingerprint for split in ("train", "half", "first", "clean", "dirty")]
    assert len(set(found)) == 5
    assert found[0] == A


def test_bad_rows_are_skipped_only_where_somebody_looked_for_them() -> None:
    unchecked = DIGITS.model_copy(update={"bad_rows": "skip"})
    with pytest.raises(ValueError, match="run `vitscale data check digits` first"):
        unchecked.take("train")
    assert DIGITS.selection("train").skipped == 0


def test_endless_and_private_sets_are_taken_from_as_far_as_that_makes_sense() -> None:
    with pytest.raises(ValueError, match="the train split of shapes is endless: give 'subset'"):
        SHAPES.take("train")
    assert SHAPES.take("train", "1M").rows == 1_000_000
    with pytest.raises(ValueError, match="'per_class' needs files"):
        SHAPES.take("train", per_class=5)
    assert JFT_300M.take("train", "9M").fingerprint is None
    with pytest.raises(ValueError, match="keep one"):
        DIGITS.take("train", 100, 5)


def test_images_per_class_are_checked_where_the_rarest_class_is_known() -> None:
    named = DIGITS.model_copy(update={"splits": {"train": StoredSplit(rows=1000, fingerprint=A, fewest=90)}})
    assert named.take("train", per_class=90).rows == 900
    with pytest.raises(ValueError, match="a class of the train split of digits has 90 images, fewer than 91"):
        named.take("train", per_class=91)


def manifest(**changed: Any) -> Manifest:
    shard = Shard(file="a.parquet", rows=3, size_bytes=100, sha256=A)
    split = SplitManifest(shards=(shard,), row_groups=A, labels=A, class_counts=(1, 2))
    return Manifest(classes=2, splits={"train": split.model_copy(update=changed)})


def test_a_manifest_names_bytes_and_labels_and_not_files() -> None:
    moved = Shard(file="elsewhere/b.parquet", rows=3, size_bytes=100, sha256=A)
    other = Shard(file="a.parquet", rows=3, size_bytes=100, sha256=B)
    name = manifest().fingerprint("train")
    assert manifest(shards=(moved,)).fingerprint("train") == name
    for changed in ({"shards": (other,)}, {"labels": B}, {"row_groups": B}):
        assert manifest(**changed).fingerprint("train") != name


def test_a_data_set_is_frozen_and_refuses_unknown_fields() -> None:
    with pytest.raises(ValidationError):
        DataSet.model_validate({**DIGITS.model_dump(), "colour": 3})
