"""The frontier's figure: what is in it, from rows made by hand, and that equal rows give equal files."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import numpy as np
import pytest

from db.frontiers import AXES, FrontierPoint, Point, Series
from orchestrator.figures import COLOURS, MARKERS, check_format, draw_frontier
from orchestrator.figures.axes import COST_LABELS, error_label, size, value_label
from orchestrator.figures.frontier import frontier_sheet
from orchestrator.figures.marks import Sheet
from orchestrator.figures.style import looks_of
from studies.architectures import Family
from studies.laws.fits import fit
from studies.laws.points import Floats, Points

ACCURACY = Series(1, 1, "evaluate", "accuracy", "digits", "test", 8, +1, 4)
LOSS = Series(2, 1, "evaluate", "loss_nats", "digits", "test", 8, -1, 4)


def point(number: int, cost: float, value: float, family: str = "ViT", sd: float | None = 0.01) -> Point:
    digit = f"{number:x}"
    return Point(
        configuration=digit * 64,
        training=digit * 64,
        family=family,
        model=f"{family}-{number}",
        cost=cost,
        quality=value,
        value=value,
        sd=sd,
        seeds=2,
        epochs=10.0,
        data_rows=100,
        parameters=1000,
        sweep=None,
        searched=None,
        runs=(digit * 63 + "0", "f" + digit * 63),
    )


def best(of: Point) -> FrontierPoint:
    kept = {name: value for name, value in vars(of).items() if name not in ("training", "sweep", "searched")}
    return FrontierPoint(**kept, same=())


POINTS = [
    point(1, 4e8, 0.60),
    point(2, 3e9, 0.95, "ResNet"),
    point(3, 5e9, 0.70, "Hybrid"),
    point(4, 2e11, 0.99, sd=None),
]
FRONTIER = [best(POINTS[0]), best(POINTS[1]), best(POINTS[3])]


def draw(
    file: Path,
    points: list[Point] = POINTS,
    frontier: list[FrontierPoint] = FRONTIER,
    series: Series = ACCURACY,
    by_family: bool = False,
    title: str = "A title",
) -> Path:
    draw_frontier(file, title, series, points, frontier, by_family)
    return file


def ids_and_texts(file: Path) -> tuple[list[str], list[str]]:
    tree = ElementTree.parse(file)
    ids = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    texts = ["".join(element.itertext()).strip() for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    return ids, texts


@pytest.mark.parametrize("by_family", [False, True])
def test_every_family_of_models_has_its_marks_and_its_name_in_the_legend(by_family: bool, tmp_path: Path) -> None:
    families = get_args(Family)
    points = [point(number, 10.0**number, number / 10, family) for number, family in enumerate(families, 1)]
    _, texts = ids_and_texts(draw(tmp_path / "f.svg", points, [best(each) for each in points], by_family=by_family))
    assert set(families) <= set(texts)
    assert len({COLOURS[family] for family in families}) == len({MARKERS[family] for family in families}) == 6


def test_the_axis_names_the_transfer_after_which_was_measured(tmp_path: Path) -> None:
    tuned = Series(3, 1, "tuned", "accuracy", "digits", "test", 8, +1, 4)
    _, texts = ids_and_texts(draw(tmp_path / "f.svg", series=tuned))
    assert "digits test error after tuned" in texts


@pytest.mark.parametrize("by_family", [False, True])
def test_every_mark_carries_the_keys_of_its_runs(by_family: bool, tmp_path: Path) -> None:
    ids, texts = ids_and_texts(draw(tmp_path / "f.svg", by_family=by_family))
    marks = [name for name in ids if name.startswith(("run-", "frontier-"))]
    assert marks == [
        *(
            f"run-{each.runs[0][:16]}-{each.runs[1][:16]}"
            for family in ("ViT", "ResNet", "Hybrid")
            for each in POINTS
            if each.family == family
        ),
        *(f"frontier-{each.runs[0][:16]}-{each.runs[1][:16]}" for each in FRONTIER),
    ]
    assert len(ids) == len(set(ids))
    assert {"ViT", "ResNet", "Hybrid", "A title", "training compute (FLOPs)", "digits test error"} <= set(texts)
    assert "frontier ± 1 sd of seeds" in texts


def test_networks_on_the_common_frontier_are_named(tmp_path: Path) -> None:
    _, texts = ids_and_texts(draw(tmp_path / "f.svg"))
    assert {"ViT-1", "ResNet-2", "ViT-4"} <= set(texts)
    assert "Hybrid-3" not in texts


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_equal_rows_give_equal_bytes(ending: str, tmp_path: Path) -> None:
    first = draw(tmp_path / f"a.{ending}").read_bytes()
    assert draw(tmp_path / f"b.{ending}").read_bytes() == first


def test_a_loss_is_drawn_as_it_is(tmp_path: Path) -> None:
    _, texts = ids_and_texts(draw(tmp_path / "f.svg", series=LOSS))
    assert "digits test loss (nats)" in texts
    assert not any(text.endswith("%") for text in texts)


def test_a_few_shot_error_says_of_how_many_shots(tmp_path: Path) -> None:
    fewshot = Series(3, 1, "fewshot", "accuracy_5shot", "digits", "test", 8, +1, 4)
    assert "digits test 5-shot error" in ids_and_texts(draw(tmp_path / "f.svg", series=fewshot))[1]


def test_one_point_is_a_figure_with_labelled_axes(tmp_path: Path) -> None:
    _, texts = ids_and_texts(draw(tmp_path / "f.svg", POINTS[:1], FRONTIER[:1]))
    assert sum(text.endswith("%") for text in texts) >= 2
    assert sum("×" in text for text in texts) >= 2


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.9, 1.0]])
def test_errors_of_zero_are_drawn_on_a_linear_axis(values: list[float], tmp_path: Path) -> None:
    points = [point(number, 10.0 ** (9 + number), value) for number, value in enumerate(values, 1)]
    ids, texts = ids_and_texts(draw(tmp_path / "f.svg", points, [best(each) for each in points]))
    assert "0 %" in texts
    assert sum(name.startswith("frontier-") for name in ids) == 2


def test_a_title_is_text_whatever_it_holds_and_wraps_when_long(tmp_path: Path) -> None:
    _, texts = ids_and_texts(draw(tmp_path / "f.svg", title="$5 <b> & $\\frac{" + " a long title" * 20))
    assert any("$5 <b> & $\\frac{" in text for text in texts)
    assert not any(len(text) > 90 for text in texts)


def test_labels_that_would_cover_each_other_are_left_out(tmp_path: Path) -> None:
    close = [point(number, 1e9 * 1.01**number, 0.5 + 0.001 * number) for number in range(1, 15)]
    _, texts = ids_and_texts(draw(tmp_path / "f.svg", close, [best(each) for each in close]))
    assert 1 <= sum(text.startswith("ViT-") for text in texts) < 14


def test_another_format_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'f.gif' names no figure format; valid endings: .svg, .png, .pdf, .html"):
        check_format(Path("f.gif"))


# ------------------------------------------------------------------------------------------------ laws, hulls, others


def sheet_of(points: list[Point], **more: Any) -> Sheet:
    frontier = [best(each) for each in points]
    return frontier_sheet("A title", ACCURACY, points, frontier, more.pop("by_family", False), **more)


def faces(sheet: Sheet) -> dict[str, object]:
    """The colour inside of each mark, by its label."""
    lines = {line.get_gid(): line for line in sheet.figure.axes[0].get_lines()}
    return {mark.label: lines[name].get_markerfacecolor() for name, mark in sheet.marks.items()}


def curves(sheet: Sheet) -> list[tuple[Floats, Floats]]:
    """The lines of a sheet: where each is across and up."""
    drawn = [np.asarray(line.get_xydata(), float) for line in sheet.figure.axes[0].get_lines()]
    return [(each[:, 0], each[:, 1]) for each in drawn]


def test_imported_points_are_open_beside_own_ones_alone() -> None:
    mixed = faces(sheet_of([POINTS[0], replace(POINTS[1], external=True)]))
    assert mixed == {"ViT-1": COLOURS["ViT"], "ResNet-2": "white"}
    foreign = faces(sheet_of([replace(each, external=True) for each in POINTS[:2]]))
    assert foreign == {"ViT-1": COLOURS["ViT"], "ResNet-2": COLOURS["ResNet"]}


def test_families_that_are_not_ours_have_looks_of_their_own(tmp_path: Path) -> None:
    families = ["ViT", "MLP-Mixer", "ConvNeXt", "A $b_"]
    points = [point(number, 10.0**number, number / 10, family) for number, family in enumerate(families, 1)]
    file = tmp_path / "f.svg"
    draw_frontier(file, "A title", ACCURACY, points, [best(each) for each in points], True)
    assert set(families) <= set(ids_and_texts(file)[1])
    looks = looks_of(families)
    assert looks == looks_of(reversed(families))
    assert len({look.marker for look in looks.values()}) == len({look.colour for look in looks.values()}) == 4


@pytest.mark.parametrize("axis", AXES)
def test_every_axis_of_cost_has_a_label(axis: str) -> None:
    assert sheet_of(POINTS, axis=axis).figure.axes[0].get_xlabel() == COST_LABELS[axis]


@pytest.mark.parametrize("axes", ["log-cost", "log-log", "linear"])
def test_a_hull_is_drawn_instead_of_the_staircase_straight_in_its_own_axes(axes: str) -> None:
    corners = [POINTS[0], POINTS[1], POINTS[3]]
    sheet = sheet_of(corners, hull=(axes, corners))
    named = [text.get_text() for text in sheet.figure.legends[0].get_texts()]
    assert any(name.startswith("hull (") for name in named)
    assert not any(name.startswith("frontier") for name in named)
    cost, error = next(each for each in curves(sheet) if len(each[0]) > 10)
    across = cost if axes == "linear" else np.log(cost)
    up = np.log(error) if axes == "log-log" else error
    ends = np.interp([POINTS[0].cost, POINTS[1].cost], cost, across)
    edge = (across >= ends[0]) & (across <= ends[1])
    slopes = np.diff(up[edge]) / np.diff(across[edge])
    assert np.allclose(slopes, slopes[0], rtol=1e-6)


def test_a_hull_in_unknown_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="'log' names no axes of a hull; valid: log-cost, log-log, linear"):
        sheet_of(POINTS, hull=("log", POINTS))


def test_runners_up_are_ringed_and_the_legend_says_why() -> None:
    sheet = sheet_of(POINTS[:3], tied=[POINTS[2]])
    rings = [line for line in sheet.figure.axes[0].get_lines() if line.get_markerfacecolor() == "none"]
    assert [np.asarray(line.get_xydata()).tolist() for line in rings] == [[[5e9, pytest.approx(0.3)]]]
    assert "tied: within one standard error" in [text.get_text() for text in sheet.figure.legends[0].get_texts()]


def test_a_law_is_drawn_through_what_it_was_fitted_on_dotted_beyond_and_with_its_doubts() -> None:
    cost = np.geomspace(1e9, 1e12, 7)
    error = 0.02 + 0.5 * (cost / 1e9) ** -0.4
    law = fit(Points(cost, error, tuple("abcdefg")), "saturating", replicates=50)
    doubted = replace(law, warnings=("It is not so.",))
    points = [point(number, each, 1 - of) for number, (each, of) in enumerate(zip(cost, error, strict=True), 1)]
    for of, name in ((law, "saturating law, 95 % band"), (doubted, "saturating law (doubtful), 95 % band")):
        sheet = sheet_of(points, laws=[(None, of)])
        assert name in [text.get_text() for text in sheet.figure.legends[0].get_texts()]
        *said, bands = sheet.notes
        assert said == [f"Law: {warning}" for warning in of.warnings]
        assert bands.startswith(
            "Bands: configurations drawn anew and the frontier of each draw; a frontier picks lucky"
        )
        below, inside, above = (each for each in curves(sheet) if len(each[0]) > 20)
        assert (inside[0][0], inside[0][-1]) == (pytest.approx(1e9), pytest.approx(1e12))
        assert (below[0][-1], above[0][0]) == (pytest.approx(1e9), pytest.approx(1e12))
        assert np.allclose(inside[1], 0.02 + 0.5 * (inside[0] / 1e9) ** -0.4, rtol=1e-4)


def test_a_mean_over_data_sets_is_named_by_their_number() -> None:
    parts = tuple(replace(ACCURACY, dataset=name) for name in ("cifar10", "pets"))
    mean = replace(ACCURACY, metric="mean(cifar10,pets)", dataset="cifar10, pets", parts=parts)
    assert error_label(mean) == "mean over 2 data sets, error"
    assert value_label(replace(mean, kind="finetune")) == "mean over 2 data sets, accuracy after fine-tuning"


@pytest.mark.parametrize(
    ("value", "words"),
    [(800, "800"), (1024, "1,024"), (65_000, "65k"), (65_536, "65,536"), (1_281_167, "1.28M"), (3e9, "3B")],
)
def test_numbers_of_images_are_those_that_one_would_say(value: float, words: str) -> None:
    assert size(value) == words
