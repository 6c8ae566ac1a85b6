import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data_registry import add_data_set, add_split, drops_folder, set_bad
from studies.registry import load_registry
from studies.yaml_source import StudyError

DIGEST = "ab" * 32
ENTRY: dict[str, Any] = {
    "location": "/data/pets",
    "index": None,
    "classes": 37,
    "image_size": None,
    "source": "Parkhi et al.: Cats and Dogs, 2012 # CC BY-SA",
    "splits": {"train": {"rows": 3680, "fingerprint": DIGEST, "fewest": 93}},
}
WRITTEN = """\
# our sets
datasets:
    # a private one
    jft: {location: /jft, classes: 5, splits: {train: {rows: 9, fingerprint: null}}}  # no bytes

    cats:
        location: 'cats'   # beside this file
        classes: 2
        splits:
            train: {rows: 8, fingerprint: null}   # all of them
            mine:
                of: train
                start: 50%
    # that is all
"""


def registry(folder: Path, text: str = WRITTEN) -> Path:
    file = folder / "datasets.yaml"
    file.write_text(text)
    return file


def test_a_registry_is_made_where_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "new" / "datasets.yaml"
    add_data_set(file, "pets", ENTRY)
    found = load_registry(file).get("pets")
    assert found.take("train").rows == 3680
    assert found.source == ENTRY["source"]
    assert file.read_text().startswith("# ")


def test_every_line_that_a_change_does_not_touch_stays_as_it_is(tmp_path: Path) -> None:
    file = registry(tmp_path)
    add_data_set(file, "pets", ENTRY)
    add_split(file, "cats", "rest", {"of": "train", "stop": "50%"})
    set_bad(file, "cats", "train", {"file": "drops/x.parquet", "rows": 1, "digest": DIGEST}, skip=True)
    lines = file.read_text().splitlines()
    rest = iter(lines)
    assert all(line in rest for line in WRITTEN.splitlines() if "all of them" not in line)  # in their order
    assert [line for line in lines if "# all of them" in line and "drops/x.parquet" in line]
    cats = load_registry(file).get("cats")
    assert cats.bad_rows == "skip"
    assert cats.selection("train").rows == 7
    assert list(load_registry(file).sets)[-1] == "pets"


@pytest.mark.parametrize("text", ["", "# only a comment", "datasets: {}  # none yet\n", "{}\n", "---\n"])
def test_a_registry_without_data_sets_takes_its_first(tmp_path: Path, text: str) -> None:
    file = registry(tmp_path, text)
    add_data_set(file, "pets", ENTRY)
    assert "pets" in load_registry(file).sets
    assert text.partition("#")[2].strip() in file.read_text()


def test_the_same_line_ends_are_written_that_were_read(tmp_path: Path) -> None:
    file = tmp_path / "datasets.yaml"
    file.write_bytes(WRITTEN.replace("\n", "\r\n").encode())
    add_data_set(file, "pets", ENTRY)
    written = file.read_bytes()
    assert written.count(b"\n") == written.count(b"\r\n") == WRITTEN.count("\n") + 6


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    file = registry(tmp_path)
    for name in ("cats", "digits", "Cats", "../cats", ""):
        with pytest.raises(ValueError, match=f"'{name}'"):
            add_data_set(file, name, ENTRY)
    with pytest.raises(ValueError, match="'mine'"):
        add_split(file, "cats", "mine", {"of": "train"})
    assert file.read_text() == WRITTEN
    add_data_set(file, "cats", ENTRY, replace=True)
    assert load_registry(file).get("cats").classes == 37


def test_what_would_be_no_valid_registry_is_not_written(tmp_path: Path) -> None:
    file = registry(tmp_path)
    with pytest.raises(ValueError, match=r"was not changed.*pets\.classes: 1 "):
        add_data_set(file, "pets", {**ENTRY, "classes": 1})
    with pytest.raises(ValueError, match="unknown key 'colour'"):
        add_data_set(file, "pets", {**ENTRY, "colour": 1})
    with pytest.raises(ValueError, match="'trian' is no split of cats"):
        add_split(file, "cats", "part", {"of": "trian"})
    with pytest.raises(ValueError, match=r"'dogs' is no data set .*cats"):
        set_bad(file, "dogs", "train", {"file": "x", "rows": 0, "digest": DIGEST})
    with pytest.raises(ValueError, match="'test' is no split of cats"):
        set_bad(file, "cats", "test", {"file": "x", "rows": 0, "digest": DIGEST})
    assert file.read_text() == WRITTEN
    assert not list(tmp_path.glob("*.new")) + list(tmp_path.glob(".*.new"))


def test_a_registry_with_a_fault_is_named_by_line_and_column_and_left_alone(tmp_path: Path) -> None:
    for text, where in (
        ("datasets:\n  a: [\n", "3:1: "),
        ("datasets:\n  a:\n    classes: x\n", "3:"),
        ("datasets:\n", "[0-9]+:1: datasets"),
    ):
        file = registry(tmp_path, text)
        with pytest.raises(StudyError, match=rf"datasets\.yaml:{where}"):
            add_data_set(file, "pets", ENTRY)
        assert file.read_text() == text


def test_entries_that_share_fields_by_an_anchor_are_not_changed_together(tmp_path: Path) -> None:
    text = (
        "datasets:\n"
        "  one: {location: /x, classes: 3, splits: &s {train: {rows: 5, fingerprint: null}}}\n"
        "  two: {location: /y, classes: 3, splits: *s}\n"
    )
    file = registry(tmp_path, text)
    with pytest.raises(ValueError, match="anchor"):
        set_bad(file, "two", "train", {"file": "x", "rows": 0, "digest": DIGEST})
    assert file.read_text() == text
    add_data_set(file, "pets", ENTRY)
    assert load_registry(file).get("two").splits == load_registry(file).get("one").splits


def test_a_link_to_a_registry_stays_a_link_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    file = registry(tmp_path / "shared")
    file.chmod(0o664)
    link = tmp_path / "datasets.yaml"
    link.symlink_to(file)
    add_data_set(link, "pets", ENTRY)
    assert link.is_symlink()
    assert "pets" in load_registry(file).sets
    assert file.stat().st_mode & 0o777 == 0o664
    assert drops_folder(link) == tmp_path / "drops"  # where a relative name in the registry leads


ADDING = """
import sys
from pathlib import Path
from orchestrator.data_registry import add_data_set
entry = {"location": "/x", "classes": 2, "splits": {"train": {"rows": 5, "fingerprint": None}}}
print("begun", flush=True)
for number in range(int(sys.argv[3])):
    add_data_set(Path(sys.argv[1]), f"{sys.argv[2]}{number}", entry)
"""


def adding(file: Path, prefix: str, sets: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", ADDING, str(file), prefix, str(sets)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_two_commands_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    file = registry(tmp_path)
    processes = [adding(file, prefix, 15) for prefix in "ab"]
    for process in processes:
        with process:
            assert process.wait(60) == 0
    assert {f"{prefix}{number}" for prefix in "ab" for number in range(15)} < set(load_registry(file).sets)
    assert [line for line in WRITTEN.splitlines() if line not in file.read_text().splitlines()] == []


def test_a_kill_at_any_moment_leaves_a_whole_registry_and_no_lock(tmp_path: Path) -> None:
    file = registry(tmp_path)
    for attempt in range(6):
        with adding(file, f"k{attempt}-", 1000) as process:
            time.sleep(0.02 + 0.037 * attempt)
            process.send_signal(signal.SIGKILL)
        known = [name for name in load_registry(file).sets if name.startswith(f"k{attempt}-")]
        assert known == [f"k{attempt}-{number}" for number in range(len(known))]
    add_data_set(file, "pets", ENTRY)
    assert "pets" in load_registry(file).sets
