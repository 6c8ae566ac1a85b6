import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from orchestrator.cli_data import data
from orchestrator.data_add import told_splits
from orchestrator.data_check import check_data
from orchestrator.settings import settings
from studies.registry import load_registry
from studies.subsets import rows_digest
from tests.image_shards import encoded, write_shard, write_split
from workers.data.checking import Findings, Piece, Promise, check
from workers.data.shards import Shards
from workers.supervision import DataError

REGISTRY = """\
datasets:
  jft: {location: /jft, classes: 5, splits: {train: {rows: 9, fingerprint: null}}}
  cats: {location: cats, classes: 2, splits: {train: {rows: 8, fingerprint: null}, mine: {of: train, start: 50%}}}
"""

# --------------------------------------------------------------------------------------------------- telling splits


def empty_files(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
         {"train": 2, "test": 1}),
        (["data/validation-00000-of-00001-0123456789abcdef.parquet"], {"validation": 1}),
        (["default/train/0000.parquet", "default/train/0001.parquet", "default/val/0000.parquet"],
         {"train": 2, "validation": 1}),
        (["train.parquet", "valid_01.parquet", "testing.2.parquet"], {"train": 1, "validation": 1, "test": 1}),
        (["extra-00000-of-00001.parquet", "train-00000-of-00001.parquet"], {"train": 1, "extra": 1}),
    ],
)  # fmt: skip
def test_names_of_files_and_folders_tell_splits(tmp_path: Path, names: list[str], splits: dict[str, int]) -> None:
    found = told_splits(empty_files(tmp_path, *names))
    assert [(split, len(files)) for split, files in found.items()] == list(splits.items())


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ([], "no .parquet file"),
        (["part-0.parquet"], "no split can be told from the name part-0.parquet .* --split"),
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "1 of 3 files of the train split .* 00001"),
        (["a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet"], "more than one set of files"),
    ],
)
def test_files_whose_split_is_uncertain_are_refused(tmp_path: Path, names: list[str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        told_splits(empty_files(tmp_path, *names))


# --------------------------------------------------------------------------------------------- commands without Ray


def run(folder: Path, *arguments: str | Path) -> Result:
    """A command, with a registry and a work folder of its own."""
    options = ["--folder", str(folder / "work")]
    return CliRunner().invoke(data, [*map(str, arguments), *options])


def test_all_data_sets_are_listed_the_users_own_first_and_faults_said(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "datasets.yaml").write_text(REGISTRY)
    listed = json.loads(run(tmp_path, "list", "--json").stdout)
    assert [each["name"] for each in listed][:4] == ["jft", "cats", "digits", "shapes"]
    cats, digits, sized = listed[1], listed[2], next(each for each in listed if each["name"] == "jft-300m")
    assert cats["splits"] == {"train": 8, "mine": 4}
    assert "manifest.json" in cats["fault"]
    assert digits["size_bytes"] > 100_000
    assert digits["fault"] is None
    assert sized["kind"] == "sizes"
    shown = run(tmp_path, "list")
    assert "endless" in shown.stdout
    assert "cats: " in shown.stderr


def test_digits_are_shown_with_counts_that_are_those_of_the_split(tmp_path: Path) -> None:
    report = json.loads(run(tmp_path, "show", "digits", "--split", "test", "--json").stdout)
    assert sum(report["shown"]["class_counts"]) == 500
    assert report["shown"]["sizes"]["most_common"] == [{"width": 8, "height": 8, "images": 512}]
    assert {each["split"]: each["rows"] for each in report["splits"]} == {
        "all": 1797,
        "train": 1000,
        "validation": 297,
        "test": 500,
    }


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_a_sheet_of_examples_is_the_same_each_time(tmp_path: Path, name: str) -> None:
    pixels = []
    for number in range(2):
        file = tmp_path / f"{number}.png"
        assert run(tmp_path, "show", name, "-o", file).exit_code == 0
        with Image.open(file) as sheet:
            pixels.append(np.array(sheet))
    assert (pixels[0] == pixels[1]).all()
    assert pixels[0].shape[0] > 1000


def test_what_cannot_be_shown_or_checked_is_said_in_a_sentence(tmp_path: Path) -> None:
    for arguments, fault in (
        (["show", "digit"], "'digit' is no data set; did you mean 'digits'"),
        (["show", "digits", "--split", "trian"], "'trian' is no split of digits"),
        (["show", "digits", "-o", "sheet.txt"], r"sheet\.txt"),
        (["show", "jft-300m", "-o", "sheet.png"], "known by its sizes alone"),
        (["check", "jft-300m"], "known by its sizes alone"),
        (["check", "shapes"], "generated"),
        (["check", "digits", "--split", "train"], "--split all"),
        (["check", "digits", "--skip-bad"], "built in"),
        (["add", "digits", "/nowhere"], "built in"),
        (["add", "Pets", "/nowhere"], "begin with a small letter"),
        (["add", "pets", str(tmp_path), "--split", "train"], "train=train"),
        (["add", "pets", str(tmp_path), "--split", "train=x*.parquet"], "no file below .* matches"),
    ):
        error = run(tmp_path, *arguments).exception
        assert isinstance(error, ValueError), arguments
        with pytest.raises(ValueError, match=fault):
            raise error
    assert not (tmp_path / "work" / "datasets.yaml").exists()


# ------------------------------------------------------------------------------------------------ commands with Ray


def answer(result: Result) -> Any:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


@pytest.mark.usefixtures("ray_here")
def test_shards_as_the_hub_ships_them_are_added_as_they_lie(tmp_path: Path) -> None:
    place = tmp_path / "cats"
    write_split(place / "data", "train", shards=3, rows=10)
    write_split(place / "data", "validation", shards=1, rows=6, width=9)
    before = {file: file.read_bytes() for file in place.rglob("*.parquet")}
    added = answer(run(tmp_path, "add", "cats", place, "--source", "tests", "--development", "10%", "--json"))
    cats = load_registry(tmp_path / "work" / "datasets.yaml").get("cats")
    assert {split: cats.selection(split).rows for split in cats.splits} == {
        "train": 30,
        "validation": 6,
        "development": 3,
        "remaining": 27,
    }
    assert (cats.classes, cats.channels, cats.image_size, cats.source) == (3, 3, None, "tests")
    assert added["splits"]["train"]["fewest"] == 10
    shards = Shards(cats.origin, "train", added["splits"]["train"]["fingerprint"])  # type: ignore[arg-type]
    assert shards.index.manifest.class_names == ("class a", "class b", "class c")
    assert shards.read(0).images[2] == encoded(2)
    assert {file: file.read_bytes() for file in place.rglob("*.parquet")} == before
    with pytest.raises(ValueError, match="'cats' is a data set"):
        answer(run(tmp_path, "add", "cats", place))


@pytest.mark.usefixtures("ray_here")
def test_changed_shards_are_added_again_in_place_of_the_old_ones(tmp_path: Path) -> None:
    place = tmp_path / "cats"
    write_split(place, "train", shards=1, rows=6)
    before = answer(run(tmp_path, "add", "cats", place, "--json"))
    write_split(place, "train", shards=1, rows=7)
    with pytest.raises(DataError, match="vitscale data add"):
        answer(run(tmp_path, "show", "cats", "--json"))
    after = answer(run(tmp_path, "add", "cats", place, "--replace", "--json"))
    assert after["splits"]["train"]["fingerprint"] != before["splits"]["train"]["fingerprint"]
    assert sum(answer(run(tmp_path, "show", "cats", "--json"))["shown"]["class_counts"]) == 7


@pytest.mark.usefixtures("ray_here")
def test_the_index_of_another_data_set_is_not_written_over(tmp_path: Path) -> None:
    place = tmp_path / "cats"
    write_split(place, "train", shards=2, rows=4)
    answer(run(tmp_path, "add", "cats", place, "--json"))
    half: list[str | Path] = ["add", "half", place, "--split", "train=train-00000*.parquet", "--json"]
    with pytest.raises(ValueError, match="--index"):
        answer(run(tmp_path, *half))
    assert answer(run(tmp_path, *half, "--index", tmp_path / "half"))["splits"]["train"]["rows"] == 4
    assert answer(run(tmp_path, "show", "cats", "--json"))["shown"]["size_bytes"] > 0


@pytest.mark.usefixtures("ray_here")
def test_a_size_is_promised_only_when_every_image_has_it(tmp_path: Path) -> None:
    write_split(tmp_path / "same", "train", shards=2, rows=6, width=16, height=16, mode="L")
    added = answer(run(tmp_path, "add", "same", tmp_path / "same", "--json"))
    assert (added["image_size"], added["channels"]) == (16, 1)
    images = [encoded(number, 16, 16) for number in range(400)]
    images[333] = encoded(0, 16, 17)  # the sample does not see it
    write_shard(tmp_path / "other" / "train.parquet", images, [0, 1] * 200, group=100)
    assert answer(run(tmp_path, "add", "other", tmp_path / "other", "--json"))["image_size"] is None


@pytest.mark.usefixtures("ray_here")
def test_other_columns_and_another_place_of_the_index_are_taken_as_they_are_named(tmp_path: Path) -> None:
    place = tmp_path / "cifar"
    write_split(place, "train", shards=1, rows=6)
    [file] = place.glob("*.parquet")
    pq.write_table(pq.read_table(file).rename_columns(["img", "fine_label"]), place / "all.parquet")
    file.unlink()
    (place / "vitscale-index").write_text("in the way")
    given: list[str | Path] = [
        "add",
        "cifar",
        place,
        "--split",
        "train=all.parquet",
        "--image",
        "img",
        "--label",
        "fine_label",
        "--json",
    ]
    with pytest.raises(DataError, match="--index"):
        answer(run(tmp_path, *given))
    with pytest.raises(DataError, match="--image"):
        answer(run(tmp_path, *given[:5]))
    added = answer(run(tmp_path, *given, "--index", tmp_path / "index"))
    cifar = load_registry(tmp_path / "work" / "datasets.yaml").get("cifar")
    assert added["index"] == str(tmp_path / "index")
    assert Shards(cifar.origin, "train", None).read(0).images[0] == encoded(0)  # type: ignore[arg-type]


@pytest.mark.usefixtures("ray_here")
def test_adding_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    place = tmp_path / "cats"
    write_split(place, "train", shards=8, rows=4)
    last = place / "train-00007-of-00008.parquet"
    whole = last.read_bytes()
    last.write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"train-00007-of-00008\.parquet"):
        answer(run(tmp_path, "add", "cats", place))
    left = list((tmp_path / "work" / "indexing").rglob("*.npz"))
    assert left
    last.write_bytes(whole)
    again = run(tmp_path, "add", "cats", place, "--json")
    assert f"{len(left)} of 8 shards were indexed" in again.stderr
    assert answer(again)["splits"]["train"]["rows"] == 32
    assert not list((tmp_path / "work" / "indexing").rglob("*.npz"))


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """A set with two bad rows in its second shard, and odd ones, added as `cats`."""
    place = tmp_path / "cats"
    write_split(place, "train", shards=3, rows=6)
    images = [encoded(6), encoded(7)[:99], encoded(8, mode="L"), b"", encoded(10, mode="CMYK"), encoded(11)]
    names = ["class a", "class b", "class c"]
    write_shard(place / "train-00001-of-00003.parquet", images, [0, 1, 2] * 2, names)
    answer(run(tmp_path, "add", "cats", place, "--json"))
    return tmp_path


@pytest.mark.usefixtures("ray_here")
def test_a_check_reports_each_bad_and_odd_image_by_shard_and_row(spoiled: Path) -> None:
    checked = run(spoiled, "check", "cats", "--json")
    assert checked.exit_code == 1
    [train] = json.loads(checked.stdout)["splits"]
    assert [(each["file"], each["row_in_file"], each["row"], each["fault"]) for each in train["faults"]] == [
        ("train-00001-of-00003.parquet", 1, 7, "truncated"),
        ("train-00001-of-00003.parquet", 3, 9, "empty"),
    ]
    assert train["oddities"] == {
        "cmyk": {"train-00001-of-00003.parquet": [4]},
        "grey": {"train-00001-of-00003.parquet": [2]},
    }
    assert train["class_counts"] == [6, 6, 6]
    assert train["rows_read"] == 18
    shown = run(spoiled, "check", "cats")
    assert "train-00001-of-00003.parquet" in shown.stdout
    assert "--skip-bad" in shown.stderr


@pytest.mark.usefixtures("ray_here")
def test_bad_rows_are_listed_for_trainings_that_skip_them(spoiled: Path) -> None:
    file = spoiled / "work" / "datasets.yaml"
    run(spoiled, "check", "cats")
    assert load_registry(file).get("cats").take("train").rows == 18
    before = load_registry(file).get("cats").selection("train").fingerprint
    run(spoiled, "check", "cats", "--skip-bad")
    selection = load_registry(file).get("cats").selection("train")
    assert (selection.rows, selection.skipped) == (16, 2)
    assert selection.fingerprint != before
    [listed] = [each for step in selection.steps for each in step.lists]  # type: ignore[union-attr]
    table = pq.read_table(file.parent / listed.file)
    assert table["row"].to_pylist() == [7, 9]
    assert table["fault"].to_pylist() == ["truncated", "empty"]
    assert listed.digest == rows_digest(table["row"].to_numpy())
    assert run(spoiled, "show", "cats", "-o", spoiled / "sheet.png").exit_code == 0


@pytest.mark.usefixtures("ray_here")
def test_a_set_that_is_only_odd_passes_its_check(tmp_path: Path) -> None:
    write_shard(tmp_path / "cats" / "train.parquet", [encoded(0), encoded(1, mode="L")], [0, 1])
    answer(run(tmp_path, "add", "cats", tmp_path / "cats", "--json"))
    checked = run(tmp_path, "check", "cats")
    assert checked.exit_code == 0
    assert "grey" in checked.stdout
    assert "every image is sound" in run(tmp_path, "check", "digits").stdout


@pytest.mark.usefixtures("ray_here")
def test_of_a_damaged_shard_no_list_of_bad_rows_is_written(spoiled: Path) -> None:
    shard = spoiled / "cats" / "train-00002-of-00003.parquet"
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    before = (spoiled / "work" / "datasets.yaml").read_text()
    checked = run(spoiled, "check", "cats", "--json")
    assert checked.exit_code == 1
    [train] = json.loads(checked.stdout)["splits"]
    [broken] = train["broken"]
    assert (broken["file"], broken["row_in_file"], broken["rows"]) == (shard.name, 0, 4)
    assert train["rows_read"] == 14
    assert (spoiled / "work" / "datasets.yaml").read_text() == before


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_an_image_that_ends_the_process_is_found_and_the_others_are_checked(spoiled: Path) -> None:
    def look(promise: Promise, piece: Piece) -> Findings:
        if piece.first_row <= 13 < piece.first_row + piece.rows:
            os.kill(os.getpid(), signal.SIGKILL)
        return check(promise, piece)

    report = check_data(settings(None, spoiled / "work"), "cats", look=look)
    [train] = report["splits"]
    assert [(each["row"], each["fault"]) for each in train["faults"]] == [
        (7, "truncated"),
        (9, "empty"),
        (13, "crashes"),
    ]
    assert train["rows_read"] == 18
    assert not report["sound"]


@pytest.mark.usefixtures("ray_here")
def test_a_check_goes_on_where_it_was_stopped(spoiled: Path) -> None:
    records = spoiled / "work" / "checks"

    def look(promise: Promise, piece: Piece) -> Findings:
        if piece.first_row == 12:
            while len(list(records.rglob("*.json"))) < 2:
                time.sleep(0.05)
            raise RuntimeError("power cut")
        return check(promise, piece)

    ours = settings(None, spoiled / "work")
    with pytest.raises(RuntimeError, match="power cut"):
        check_data(ours, "cats", look=look)
    looked_at: list[Any] = json.loads(run(spoiled, "check", "cats", "--json").stdout)["splits"]
    assert looked_at[0]["shards_read_before"] == 2
    whole: list[Any] = json.loads(run(spoiled, "check", "cats", "--json").stdout)["splits"]
    assert whole[0]["shards_read_before"] == 0
    assert {**looked_at[0], "shards_read_before": 0} == whole[0]
