"""A user's own images through the installed command: named, trained on, and never other bytes than those named."""

import json
from pathlib import Path

import pytest

from studies.registry import load_registry
from tests.command_line import vitscale, write_study
from tests.image_shards import write_split
from workers.data.sources import open_source

pytestmark = pytest.mark.slow

STUDY = """\
name: photos
title: Photos
source: tests
shows: nothing
shapes: {ViT: {t: {width: 8, depth: 1, mlp: 16, heads: 1}}}
defaults: {model: ViT-t/8, data: photos, image_size: 16, epochs: 10, recipe: {base: small, augmentation: inception}}
grids:
  - {subset: [50%, 100%]}
  - {per_class: 20}
evaluations:
  - {kind: split, split: test, view: {kind: center-crop, resize: 20}}
  - {kind: fewshot, shots: 5}
"""


def test_images_of_ones_own_are_named_trained_on_and_certified(tmp_path: Path) -> None:
    write_split(tmp_path / "shards", "train", shards=2, rows=60)
    write_split(tmp_path / "shards", "test", shards=1, rows=30)
    added = vitscale("data", "add", "photos", "shards", cwd=tmp_path)
    assert added.code == 0, added.err
    write_study(tmp_path, STUDY)
    submitted = vitscale("submit", "tiny.yaml", "--yes", cwd=tmp_path)
    assert submitted.code == 0, submitted.err
    registry = load_registry(tmp_path / ".vitscale" / "datasets.yaml")
    plan = json.loads(vitscale("plan", "tiny.yaml", "--json", cwd=tmp_path).out)
    assert {run["state"] for run in plan["runs"]} == {"done"}
    for planned in plan["runs"]:
        shown = json.loads(vitscale("show", planned["key"], "--json", cwd=tmp_path).out)
        named = registry.get("photos")
        data = shown["definition"]["data"]
        taken = named.take(data["split"], None if data["per_class"] else data["rows"], data["per_class"])
        assert shown["data_digest"] == open_source(taken, registry).certificate().digest
        assert shown["data_skipped"] == 0


def test_a_run_on_a_shard_that_changed_fails_and_names_the_file_and_the_cure(tmp_path: Path) -> None:
    write_split(tmp_path / "shards", "train", shards=1, rows=60)
    shard = tmp_path / "shards" / "train-00000-of-00001.parquet"
    write_split(tmp_path / "shards", "test", shards=1, rows=30)
    assert vitscale("data", "add", "photos", "shards", cwd=tmp_path).code == 0
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    write_study(tmp_path, STUDY)
    submitted = vitscale("submit", "tiny.yaml", "--yes", cwd=tmp_path)
    assert submitted.code == 5
    status = json.loads(vitscale("status", "photos", "--json", cwd=tmp_path).out)
    causes = {failed["cause"] for failed in status["failed"]}
    assert causes
    assert all("train-00000-of-00001.parquet, row group" in cause for cause in causes)
    assert all(":" in cause for cause in causes), "a cure follows"
    assert all(failed["kind"] == "train" for failed in status["failed"])
