"""The frontier's figure: what is in it, and that equal rows give equal files."""

from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest

from db.frontiers import FrontierPoint, Point, Series
from orchestrator.figures import COLOURS, MARKERS, check_format, draw_frontier
from studies.architectures import Family

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
    with pytest.raises(ValueError, match=r"'f.gif' names no figure format; valid endings: .svg, .png, .pdf"):
        check_format(Path("f.gif"))
