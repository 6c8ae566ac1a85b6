"""Every figure of `vitscale figure`, of a real store: what is in it, that it names its runs, what is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copy
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from sqlalchemy import update
from typer.testing import CliRunner, Result

from db import answers, frontiers, ledger
from db.store import Store, default_url
from db.tables import RunRow
from orchestrator.cli_figures import figures_app
from orchestrator.figures import drawing, write
from orchestrator.figures.drawing import Wanted
from orchestrator.figures.marks import Sheet
from orchestrator.figures.speeds import of_study
from orchestrator.figures.throughput import throughput_sheet
from orchestrator.frontier_reports import Question
from orchestrator.reports import NotFound
from studies.definitions import Train
from studies.devices import GIB
from studies.memory import training_memory
from studies.models import ViT
from studies.planned import PlannedRun
from tests.builders import Value, evaluation, fewshot, fine_tuning, submit, training, try_claim

SVG = "{http://www.w3.org/2000/svg}"
SECONDS = 4.0
ANY = Question()


def shaped(**fields: int) -> PlannedRun:
    """A training of a shape that differs in these fields from depth 2, width 8, mlp 16, patches of 4."""
    model = ViT(patch=4, width=8, depth=2, mlp=16, heads=1).model_copy(update=fields)
    plain = training()
    assert isinstance(plain.training, Train)
    train = plain.training.model_copy(update={"model": model})
    return replace(plain, run=train, training=train, model="-".join(["shape", *map(str, fields.values())]))


def accuracy_of(planned: PlannedRun) -> float:
    """More training, more images and a transfer make it better; no two are equal."""
    digits = int(planned.key[:6], 16) / 16**6
    flops = float(planned.train_flops) / 1e10
    return 0.3 + 0.3 * flops / (1 + flops) + planned.root.data.rows / 2000 + 0.02 * digits


def finish(store: Store, planned: list[PlannedRun], name: str) -> None:
    """Submit runs as a study and do them all, each in four seconds."""
    by_key = {each.key: each for each in planned}
    with store.begin() as connection:
        submit(connection, planned, name=name)
        while (claim := try_claim(connection)) is not None:
            run = by_key[claim.key]
            value = accuracy_of(run)
            metric = {"evaluate": "accuracy", "fewshot": "accuracy_5shot"}.get(run.run.kind)
            ledger.commit(
                connection,
                run_id=claim.run_id,
                fence=claim.fence,
                values=[Value(metric, value), Value("loss_nats", 2 - value)]
                if metric == "accuracy"
                else [Value(metric, value)]
                if metric
                else [],
                checkpoint=f"{claim.key[:12]}/final" if claim.steps else None,
                step=claim.steps,
            )
        connection.execute(update(RunRow).values(seconds=SECONDS))


def everything() -> list[PlannedRun]:
    """Two networks of two families on two subsets by two seeds: classified, few-shot, fine-tuned."""
    roots = [
        training(seed=seed, width=width, rows=rows, steps=steps, family=family)
        for family, width in (("ViT", 8), ("ViT", 16), ("ResNet", 8))
        for rows, steps in ((100, 20), (400, 40), (900, 90))
        for seed in (0, 1)
    ]
    tuned = [fine_tuning(root, transfer="tuned") for root in roots]
    return [*roots, *map(evaluation, roots), *map(fewshot, roots), *tuned, *map(evaluation, tuned)]


def shapes() -> list[PlannedRun]:
    """Lines of depth, width and MLP that meet in one shape, and a shape that is none of them."""
    fields: list[dict[str, int]] = [{}, {"depth": 4}, {"depth": 8}, {"width": 16}, {"mlp": 64}]
    roots = [shaped(**each) for each in [*fields, {"depth": 4, "width": 16}]]
    return [*roots, *map(evaluation, roots)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Path:
    """A folder with a store of three finished studies."""
    home = tmp_path_factory.mktemp("figures")
    (home / ".vitscale").mkdir()
    copy(sqlite_template, home / ".vitscale" / "store.db")
    store = Store.open(default_url(home))
    finish(store, everything(), "everything")
    finish(store, shapes(), "shapes")
    alone = training(rows=50, steps=15)
    finish(store, [alone, evaluation(alone)], "one")
    store.dispose()
    return home


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    opened = Store.open(default_url(folder))
    yield opened
    opened.dispose()


def sheet_of(store: Store, figure: str, study: str = "everything", asked: Question = ANY, **wanted: Any) -> Sheet:
    with store.read() as connection:
        found = answers.study_named(connection, study)
    assert found is not None
    return drawing.drawn(store, found, figure, Wanted(asked, **wanted))


def runs_of(sheet: Sheet) -> set[str]:
    return {key for mark in sheet.marks.values() for key in mark.runs}


def command(folder: Path, *arguments: object) -> Result:
    url = default_url(folder)
    return CliRunner().invoke(figures_app, [*map(str, arguments), "--store", url], catch_exceptions=False)


STUDY = {kind: "shapes" if kind == "shape" else "everything" for kind in drawing.FIGURES}


# ---------------------------------------------------------------------------------------------------------- all figures


@pytest.mark.parametrize("kind", list(drawing.FIGURES))
def test_every_mark_of_an_svg_says_and_links_its_runs_and_equal_rows_give_equal_bytes(
    kind: str, folder: Path, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "figure.svg"
    assert command(folder, kind, STUDY[kind], file).exit_code == 0
    sheet = sheet_of(store, kind, STUDY[kind])
    root = ElementTree.parse(file)
    anchors = list(root.iter(f"{SVG}a"))
    assert len(anchors) == len(sheet.marks) > 0
    said: set[str] = set()
    for anchor in anchors:
        keys = anchor.attrib["data-runs"].split()
        assert anchor.attrib["href"] == f"#run-{keys[0]}" == anchor.attrib["{http://www.w3.org/1999/xlink}href"]
        title = anchor.findtext(f"{SVG}title") or ""
        assert all(f"run {key}" in title for key in keys)
        said.update(keys)
    assert said == runs_of(sheet)
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    write(sheet, again := tmp_path / "again.svg")
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("ending", ["png", "pdf", "html"])
def test_the_ending_of_the_file_names_its_format(ending: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / f"figure.{ending}"
    assert command(folder, "frontier", "everything", file).exit_code == 0
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "html": b"<!DOCTYPE html>"}[ending]
    assert file.read_bytes().startswith(start)


def test_links_follow_the_template(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "f.svg"
    address = "https://host/runs/{key}?a=1&b=2"
    assert command(folder, "frontier", "everything", file, "--link", address).exit_code == 0
    for anchor in ElementTree.parse(file).iter(f"{SVG}a"):
        assert anchor.attrib["href"] == f"https://host/runs/{anchor.attrib['data-runs'].split()[0]}?a=1&b=2"


@pytest.mark.parametrize("address", ["https://host/runs", "{run}", "{key}/{other}"])
def test_a_template_without_the_key_is_refused(address: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no template of a link: write \{key\} where the key of the run goes"):
        command(folder, "frontier", "everything", tmp_path / "f.svg", "--link", address)


def test_what_is_no_figure_is_refused_with_the_nearest_that_is(store: Store) -> None:
    with pytest.raises(ValueError, match=r"^'frontiers' is no figure; did you mean 'frontier'\?$"):
        sheet_of(store, "frontiers")
    with pytest.raises(
        ValueError, match="'x' is no figure; valid: transfer, fewshot, frontier, shape, throughput, sca"
    ):
        sheet_of(store, "x")


@pytest.mark.parametrize(
    ("figure", "wanted", "option"),
    [
        ("transfer", {"by_family": True}, "--by"),
        ("shape", {"law": "power"}, "--law"),
        ("frontier", {"band": "ResNet"}, "--band"),
        ("scaling", {"device": "h100"}, "--device"),
        ("scaling", {"asked": Question(axis="images")}, "--cost"),
        ("throughput", {"asked": Question(metric="accuracy")}, "a choice of results"),
    ],
)
def test_an_option_without_effect_is_refused(figure: str, wanted: dict[str, Any], option: str, store: Store) -> None:
    with pytest.raises(ValueError, match=f"{option} has no effect on the figure {figure}: it is for "):
        sheet_of(store, figure, **wanted)


def test_what_a_study_has_not_is_said_with_what_it_has(store: Store) -> None:
    with pytest.raises(NotFound) as refused:
        sheet_of(store, "transfer", "one")
    assert str(refused.value) == (
        "one has no results of a transfer: add --kind evaluate for its pre-trained models; it has enough for: "
        "vitscale figure frontier | throughput | scaling"
    )
    with pytest.raises(NotFound, match="one has no few-shot results"):
        sheet_of(store, "fewshot", "one")
    with pytest.raises(NotFound, match="no two transformers of equal data, length and image size differ in a single"):
        sheet_of(store, "shape", "one")


def test_a_page_must_end_as_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'f.svg' is no page: --html writes .html"):
        command(folder, "frontier", "everything", tmp_path / "g.svg", "--html", tmp_path / "f.svg")


# ---------------------------------------------------------------------------------------------------- transfer, fewshot


def test_a_transfer_is_drawn_against_the_images_of_the_pre_training(store: Store) -> None:
    sheet = sheet_of(store, "transfer")
    assert {mark.group for mark in sheet.marks.values()} == {"ViT-8", "ViT-16", "ResNet-8"}
    assert {mark.x for mark in sheet.marks.values()} == {100, 400, 900}
    facts = [dict(mark.facts) for mark in sheet.marks.values()]
    assert {each["pre-trained on"] for each in facts} == {"digits train"}
    assert {each["seeds"] for each in facts} == {"2"}


def test_a_family_can_be_a_band(store: Store) -> None:
    sheet = sheet_of(store, "fewshot", band="ViT")
    assert {mark.group for mark in sheet.marks.values()} == {"range of ViT", "ResNet-8"}
    assert runs_of(sheet) == runs_of(sheet_of(store, "fewshot"))
    with pytest.raises(ValueError, match="there is no family 'BiT' to draw as a band; valid: ViT, ResNet"):
        sheet_of(store, "fewshot", band="BiT")


def test_few_shot_figures_take_the_few_shot_results(store: Store) -> None:
    assert sheet_of(store, "fewshot").figure.axes[0].get_ylabel() == "digits test 5-shot accuracy"
    assert (
        sheet_of(store, "fewshot", asked=Question(kind="evaluate")).figure.axes[0].get_ylabel()
        == "digits test accuracy"
    )


def test_of_a_sweep_the_choice_by_validation_is_drawn_and_the_others_counted(sqlite_url: str) -> None:
    store = Store.open(sqlite_url)
    tried = [training(lr_peak=lr, sweep="s") for lr in (1e-3, 3e-3)]
    tried.append(training(rows=400))
    measured = [evaluation(run, split) for run in tried for split in ("validation", "test")]
    # Validation prefers the first candidate, the test split the second.
    accuracies = dict(zip([run.key for run in measured], (0.9, 0.5, 0.8, 0.6, 0.7, 0.4), strict=True))
    with store.begin() as connection:
        submit(connection, [*tried, *measured])
        while (claim := try_claim(connection)) is not None:
            accuracy = accuracies.get(claim.key)
            split = next((run.run.data.split for run in measured if run.key == claim.key), "test")
            ledger.commit(
                connection,
                run_id=claim.run_id,
                fence=claim.fence,
                values=[] if accuracy is None else [Value("accuracy", accuracy, split=split)],
                checkpoint=f"{claim.key[:12]}/final" if claim.steps else None,
                step=claim.steps,
            )
    sheet = sheet_of(store, "transfer", "tiny", Question(kind="evaluate", split="test"))
    store.dispose()
    assert [mark.y for mark in sheet.marks.values()] == [0.5, 0.4]
    assert "Of each sweep the choice by validation is drawn; 1 others are not." in sheet.notes


def test_what_an_older_version_wrote_in_another_form_is_left_unread(folder: Path, tmp_path: Path) -> None:
    copy(folder / ".vitscale" / "store.db", tmp_path / "store.db")
    store = Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    with store.begin() as connection:
        connection.execute(update(RunRow).values(definition=json.dumps({"kind": "train", "of": "another age"})))
    sheet = sheet_of(store, "transfer")
    with pytest.raises(NotFound, match="everything has no plain transformer of a known shape with a result"):
        sheet_of(store, "shape")
    store.dispose()
    assert sheet.marks


# ---------------------------------------------------------------------------------------------------------------- shape


def test_each_line_of_shapes_changes_one_dimension(store: Store) -> None:
    sheet = sheet_of(store, "shape", "shapes")
    groups = {mark.label: mark.group for mark in sheet.marks.values()}
    assert groups == {
        "shape": "where all lines meet",
        "shape-4": "depth",
        "shape-8": "depth",
        "shape-16": "width",
        "shape-64": "width of the MLP",
        "shape-4-16": "several at once",
    }
    base = next(mark for mark in sheet.marks.values() if mark.label == "shape")
    assert base.x == 1
    texts = {text.get_text() for text in sheet.figure.axes[0].texts}
    assert {"4", "8", "16", "64"} <= texts


# ----------------------------------------------------------------------------------------------------------- throughput


def test_speeds_are_images_over_stored_seconds_and_batches_follow_from_the_formula(store: Store) -> None:
    with store.read() as connection:
        study = answers.study_named(connection, "everything")
        assert study is not None
        runs = {run.key: run for run in answers.runs_of(connection, study.id)}
    found = of_study(store, study, "h100")
    for speed in found.speeds:
        assert speed.seconds == SECONDS * len(speed.runs)
        assert speed.images == sum(runs[key].images for key in speed.runs)
        assert speed.images_per_second == speed.images / speed.seconds
    assert {key for speed in found.speeds for key in speed.runs} == {
        key for key, run in runs.items() if run.kind in ("train", "evaluate")
    }
    small = next(room for room in found.rooms if training(rows=100, steps=20).key in room.runs)
    model = ViT(patch=4, width=8, depth=1, mlp=8, heads=1)
    memory = training_memory(model, 8, 1, 10, kind="gpu")
    assert small.batch == memory.largest_batch(80 * GIB)


def test_networks_at_several_image_sizes_are_lines_over_the_size(store: Store) -> None:
    with store.read() as connection:
        study = answers.study_named(connection, "everything")
    assert study is not None
    found = of_study(store, study, "h200")
    larger = [replace(speed, image_size=16, images=speed.images // 3) for speed in found.speeds]
    rooms = [replace(room, image_size=16, batch=room.batch // 4) for room in found.rooms]
    both = replace(found, speeds=[*found.speeds, *larger], rooms=[*found.rooms, *rooms])
    sheet = throughput_sheet(both)
    for axes in sheet.figure.axes:
        assert axes.get_xlabel() == "side of an image (pixels)"
        lines = [line.get_xdata() for line in axes.get_lines()]
        assert sum(list(np.asarray(across)) == [8, 16] for across in lines) >= 3
    assert throughput_sheet(found).figure.axes[0].get_xlabel() == "forward pass of one image (FLOPs)"


def test_a_device_of_unknown_memory_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="the memory of the device cpu is not known; choose another with --device"):
        sheet_of(store, "throughput", device="cpu")


def test_imported_results_say_nothing_of_speed(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"vit-paper has no finished training .* vitscale figure frontier"):
        command(tmp_path, "throughput", "vit-paper", tmp_path / "f.svg")


# ------------------------------------------------------------------------------------------------------------ frontiers


def test_the_published_table_is_a_figure_at_once(tmp_path: Path) -> None:
    file = tmp_path / "fig5.svg"
    ended = command(tmp_path, "frontier", "vit-paper", file, "--by", "family", "--law", "saturating")
    assert ended.exit_code == 0
    root = ElementTree.parse(file)
    texts = {"".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")}
    assert {"ViT", "ResNet", "Hybrid", "mean over 5 data sets, error after fine-tuning"} <= texts
    assert "saturating law (doubtful), 95 % band" in texts
    marks = [each for each in root.iter(f"{SVG}g") if each.attrib.get("id", "").startswith("run-")]
    assert len(marks) == 18
    assert "Law of ViT: " in (root.getroot().findtext(f"{SVG}desc") or "")


def test_the_frontier_can_stand_on_other_axes_of_cost(store: Store) -> None:
    for axis, label in (("images", "training images seen"), ("parameters", "parameters")):
        assert sheet_of(store, "frontier", asked=Question(axis=axis)).figure.axes[0].get_xlabel() == label


def test_three_panels_show_the_same_runs_over_compute_model_and_data(store: Store) -> None:
    sheet = sheet_of(store, "scaling")
    by_panel = {
        panel: {key for name, mark in sheet.marks.items() if name.startswith(panel) for key in mark.runs}
        for panel in ("compute", "model", "data")
    }
    with store.read() as connection:
        study = answers.study_named(connection, "everything")
        assert study is not None
        series = next(
            each
            for each in frontiers.series_of(connection, study.id)
            if (each.kind, each.metric) == ("evaluate", "accuracy")
        )
        keys = {key for point in frontiers.points_of(connection, series) for key in point.runs}
    assert by_panel == {"compute": keys, "model": keys, "data": keys}
    assert [axes.get_xlabel() for axes in sheet.figure.axes] == [
        "training compute (FLOPs)",
        "parameters",
        "images in the data set",
    ]
    assert any(note.startswith("No law over parameters: ") for note in sheet.notes)
