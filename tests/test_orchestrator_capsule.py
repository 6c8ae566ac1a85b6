"""Studies in capsules: what one holds, what is refused of it, what a kill leaves, and the way to another store."""

import json
import random
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db import answers, external
from db.exported import StudyTables
from db.store import Store, default_url
from orchestrator import capsule_files, capsules
from orchestrator.capsule_files import CapsuleError
from orchestrator.settings import Settings
from studies.definitions import REVISION, canonical_json
from tests import builders, command_in_process
from tests.builders import fine_tuning
from tests.command_line import TINY, Ended, vitscale, write_study
from tests.test_db_capsules import FIRST, PUBLISHED, done, merge, source, tables

__all__ = ["source"]  # a fixture

PACKED = ("x.vitscale.tar.gz", "x.vitscale.zip")


def study_of(store: Store, name: str = "tiny") -> answers.Study:
    with store.read() as connection:
        found = answers.study_named(connection, name)
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------------------------- capsules


@pytest.mark.parametrize("name", PACKED)
def test_a_study_goes_through_a_capsule_whole(name: str, source: Store, store: Store, tmp_path: Path) -> None:
    done(source)
    counts = capsules.write(source, study_of(source), tmp_path / name)
    assert (counts["runs"], counts["links"], counts["results"]) == (4, 4, 2)
    read = capsules.read(tmp_path / name)
    assert read == tables(source)
    merge(store, read)
    assert tables(store) == tables(source)
    capsules.write(store, study_of(store), tmp_path / f"again-{name}")
    assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()


def test_a_capsule_holds_what_a_reader_without_vitscale_wants(source: Store, tmp_path: Path) -> None:
    done(source)
    capsules.write(source, study_of(source), tmp_path / PACKED[0])
    manifest, files = capsule_files.read(tmp_path / PACKED[0])
    assert files["study.yaml"] == b"name: tiny"
    environment = json.loads(files["environment.json"])
    assert environment["written_by"]["packages"]["numpy"]
    assert environment["runs"]["done_by_numerics_class"] == {"cpu-avx2-1": 4}
    (figure,) = (content for name, content in files.items() if name.startswith("figures/"))
    assert b"<svg" in figure
    assert manifest["rows"]["runs"] == 4
    assert not any(str(tmp_path).encode() in content for content in files.values())


def forged(tables: StudyTables, **changed: Any) -> StudyTables:
    """The second run says something else."""
    first, second, *others = tables.runs
    return replace(tables, runs=(first, replace(second, **changed), *others))


def test_a_run_that_is_not_what_its_key_says_is_refused(source: Store, tmp_path: Path) -> None:
    done(source)
    with source.begin() as connection:
        external.store(connection, "tiny", [PUBLISHED], title="", source="")
    whole = tables(source)
    definition = json.loads(whole.runs[1].definition)
    other = canonical_json({**definition, "seed": 5})
    cases = [
        (forged(whole, definition=other), "is not what its key says: the capsule is damaged or forged"),
        (forged(whole, definition="{"), "is not what its key says"),
        (forged(whole, definition="[" * 100_000), "is not what its key says"),
        (forged(whole, definition=json.dumps(definition)), "is not what its key says"),
        (forged(whole, kind="evaluate"), "has the kind 'evaluate', and its definition 'train'"),
        (forged(whole, seed=9), "has the seed 9, and its definition"),
        (forged(whole, configuration="0" * 64), "is not that of its definition"),
        (forged(whole, upstream="0" * 64), "which does not come before it"),
        (forged(whole, checkpoint="../../etc"), "has its weights at '../../etc', which is no place below"),
        (forged(whole, checkpoint="/etc"), "which is no place below"),
        (replace(whole, external=(replace(whole.external[0], value=0.99),)), "is not what its key says"),
        (forged(whole, state="lost"), "in a state that this vitscale does not know"),
        (forged(whole, key=whole.runs[0].key), "it holds a run twice"),
        (replace(whole, runs=whole.runs[:-1]), "name a run .* that it does not hold"),
        (replace(whole, runs=tuple(reversed(whole.runs))), "which does not come before it"),
        (replace(whole, results=(*whole.results, whole.results[0])), "it holds a result twice"),
        (replace(whole, results=(replace(whole.results[0], value=float("nan")),)), "is no finite number"),
    ]
    for number, (tampered, why) in enumerate(cases):
        file = tmp_path / f"{number}.vitscale.zip"
        capsules.pack(file, tampered, {})
        with pytest.raises(CapsuleError, match=rf"{number}.vitscale.zip was not imported: .*{why}"):
            capsules.read(file)


def test_tables_that_are_no_tables_are_refused(source: Store, tmp_path: Path) -> None:
    done(source)
    file = tmp_path / PACKED[0]
    capsules.write(source, study_of(source), file)
    manifest, files = capsule_files.read(file)
    about = {name: value for name, value in manifest.items() if name not in ("format", "files")}
    cases: list[tuple[dict[str, Any], dict[str, bytes], str]] = [
        ({}, {"tables/runs.parquet": b"PAR1"}, "tables/runs.parquet cannot be read: it is no whole Parquet file"),
        ({}, {"tables/runs.parquet": files["tables/links.parquet"]}, "its columns are others"),
        ({}, {"study.yaml": b"name: other"}, "its study is not the one that its manifest names"),
        ({"study": "other"}, {}, "its study is not the one that its manifest names"),
        ({"rows": {}}, {}, "do not have as many rows as its manifest says"),
        ({"revision": REVISION + 1}, {}, "its keys are of a newer vitscale: upgrade vitscale"),
    ]
    for said, changed, why in cases:
        capsule_files.write(file, {**about, **said}, {**files, **changed})
        with pytest.raises(CapsuleError, match=why):
            capsules.read(file)


def test_a_training_that_waits_here_is_taken_once_its_weights_are_in_the_folder(source: Store, tmp_path: Path) -> None:
    done(source, [FIRST])
    own = Settings(store_url=default_url(tmp_path), folder=tmp_path / "here", datasets=tmp_path / "datasets.yaml")
    target = Store.open(default_url(tmp_path / "target"))
    with target.begin() as connection:
        builders.submit(connection, [FIRST, fine_tuning(FIRST)])
    assert capsules.take_in(target, own, tables(source), None).left == (FIRST.key,)
    (own.checkpoints / FIRST.key[:12] / "final").mkdir(parents=True)
    assert capsules.take_in(target, own, tables(source), None).taken == 1
    target.dispose()


# -------------------------------------------------------------------------------------------------------- killed there

LOOP = """
import sys
from pathlib import Path
from db import answers, external
from db.store import Store
from orchestrator import capsules
from orchestrator.settings import Settings
url, file, folder = sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
store = Store.open(url)
tables = None if sys.argv[1] == "export" else capsules.read(file)
with store.read() as connection:
    study = answers.study_named(connection, "tiny")
settings = Settings(url, folder, folder / "datasets.yaml")
if tables is None:
    capsules.write(store, study, folder / "first.vitscale.zip")
print("ready", flush=True)
while tables is None:
    capsules.write(store, study, file)
capsules.take_in(store, settings, tables, None)
print("merged", flush=True)
"""


def killed(what: str, url: str, file: Path, folder: Path, seconds: float) -> str:
    """Kill a process that exports again and again, or imports once, so long after it began; what it had said."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP, what, url, str(file), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    said = process.stdout.read()
    process.wait()
    process.stdout.close()
    return said


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_a_whole_capsule_or_none(source: Store, tmp_path: Path) -> None:
    done(source)
    url = default_url(tmp_path / "source")
    chance = random.Random(0)
    for number in range(4):
        file = tmp_path / f"{number}.vitscale.zip"
        killed("export", url, file, tmp_path, 0.7 * number * chance.uniform(0.5, 1.5))
        if file.exists():
            assert capsules.read(file) == tables(source)
    assert file.exists()


@pytest.mark.slow
def test_an_import_that_is_killed_stores_all_or_nothing_and_can_be_repeated(source: Store, tmp_path: Path) -> None:
    done(source)
    whole = tables(source)
    run = whole.runs[0]
    one = replace(whole.measurements[0], key=run.key)
    whole = replace(whole, measurements=tuple(replace(one, step=step, value=step / 7) for step in range(30_000)))
    file = tmp_path / "x.vitscale.zip"
    capsules.pack(file, whole, {})
    outcomes = set()
    for number, seconds in enumerate((0.0, 0.02, 0.05, 0.1, 60.0)):
        url = default_url(tmp_path / f"target-{number}")
        said = killed("import", url, file, tmp_path, seconds)
        target = Store.open(url)
        with target.read() as connection:
            there = answers.study_named(connection, "tiny") is not None
            assert len(answers.known(connection, [each.key for each in whole.runs])) == (4 if there else 0)
        if there:
            assert tables(target) == whole
        assert there or not said
        assert merge(target, whole).changed is not there
        assert tables(target) == whole
        outcomes.add(there)
        target.dispose()
    assert outcomes == {True, False}


# ------------------------------------------------------------------------------------------------------ from end to end

ONE = TINY.replace("epochs: [5, 10]", "epochs: 5").replace("seed: [0, 1]", "seed: 0").split("  - {model:")[0] + (
    "evaluations: [{kind: split, split: test}]\n"
)
MORE = ONE.replace("split: test}", "split: test}, {kind: split, split: validation}")


def said(ended: Ended) -> str:
    assert ended.code == 0, ended.err
    return ended.err


def results(folder: Path, **variables: str) -> list[dict[str, Any]]:
    assert vitscale("export", "tiny", "-o", "results.json", cwd=folder, **variables).code == 0
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.slow
def test_a_trained_study_is_found_done_in_another_store_and_back(tmp_path: Path, postgres_url: str) -> None:
    here, there, back = (tmp_path / name for name in ("here", "there", "back"))
    for folder in (here, there, back):
        folder.mkdir()
    study = write_study(tmp_path, ONE)
    said(vitscale("submit", study, cwd=here))
    assert "wrote 2 runs" in said(vitscale("export", "tiny", "--capsule", "tiny.vitscale.tar.gz", cwd=here))
    capsule = here / "tiny.vitscale.tar.gz"
    assert "2 done and new here" in said(vitscale("import", capsule, cwd=there, VITSCALE_STORE=postgres_url))
    assert results(there, VITSCALE_STORE=postgres_url) == results(here)
    bill = vitscale("plan", study, "--json", cwd=there, VITSCALE_STORE=postgres_url)
    assert json.loads(bill.out)["total"]["flops_left"] == 0
    submitted = said(vitscale("submit", study, "--queue", cwd=there, VITSCALE_STORE=postgres_url))
    assert "2 runs done before\nnothing is left to pay" in submitted
    said(vitscale("export", "tiny", "--capsule", "again.vitscale.zip", cwd=there, VITSCALE_STORE=postgres_url))
    merged = vitscale("import", there / "again.vitscale.zip", "--json", cwd=back)
    assert json.loads(merged.out)["new_done"] == 2
    assert results(back) == results(here)
    assert "nothing changed" in said(vitscale("import", capsule, cwd=here))


@pytest.mark.slow
def test_a_run_that_needs_weights_which_are_elsewhere_says_which_and_finds_them_once_they_are_copied(
    tmp_path: Path,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    said(vitscale("submit", write_study(tmp_path, ONE), cwd=here))
    said(vitscale("export", "tiny", "--capsule", "tiny.vitscale.tar.gz", cwd=here))
    assert "the weights of 1 training are not here" in said(
        vitscale("import", here / "tiny.vitscale.tar.gz", cwd=there)
    )
    missed = vitscale("submit", write_study(tmp_path, MORE, "more.yaml"), cwd=there)
    assert missed.code == 5
    (training,) = (run.key for run in capsules.read(here / "tiny.vitscale.tar.gz").runs if run.kind == "train")
    place = f"{there}/.vitscale/checkpoints/{training[:2]}/{training}/attempt-1/final"
    assert re.search(rf"failed: .*are not here: copy {re.escape(place)} from", missed.err)
    shutil.copytree(here / ".vitscale" / "checkpoints", there / ".vitscale" / "checkpoints", dirs_exist_ok=True)
    assert "3 runs done" in said(vitscale("resume", "tiny", "--failed", cwd=there))


def test_the_command_refuses_what_is_no_capsule_and_stores_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.vitscale.zip").write_bytes(b"PK\x03\x04")
    refused = command_in_process.vitscale("import", "x.vitscale.zip", cwd=tmp_path)
    assert (refused.code, refused.out) == (2, "")
    assert "is no whole capsule" in refused.err
    assert command_in_process.vitscale("import", "y.vitscale.zip", cwd=tmp_path).code == 1
    assert not (tmp_path / ".vitscale").exists()
