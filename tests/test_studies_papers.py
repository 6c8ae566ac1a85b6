"""Study files: each is accepted, and costs what its header says."""

import math
import re
from functools import cache
from pathlib import Path

import pytest

from studies.definitions import Train
from studies.grid import Study, load_study

FOLDER = Path(__file__).parent.parent / "studies"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PAPERS = [name for name in NAMES if not name.endswith("-laptop") and name != "quickstart"]
ON_JFT = ["fig4", "fig5", "fig8", "fig9", "fig13", "table8"]
LAPTOP = [name for name in NAMES if name.endswith("-laptop")]
PREFIXES = {"giga": 1e9, "tera": 1e12, "exa": 1e18}


@cache
def study(name: str) -> Study:
    return load_study(FOLDER / f"{name}.yaml")


def header(name: str) -> str:
    """The comment that the file opens with, as one line."""
    lines = (FOLDER / f"{name}.yaml").read_text().split("\nname:")[0].splitlines()
    return " ".join(line.lstrip("# ") for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_costs_what_its_header_says(name: str) -> None:
    found = re.search(r"Cost:.*?([\d.,]+) (giga|tera|exa)FLOP", header(name))
    assert found, "the header has a line `Cost:` with FLOPs"
    shown = found[1].replace(",", "")
    last_digit = 10.0 ** -len(shown.partition(".")[2])
    flops = math.fsum(
        [*(planned.flops for planned in study(name).runs), *(search.flops for search in study(name).searches)]
    )
    assert flops / PREFIXES[found[2]] == pytest.approx(float(shown), abs=last_digit / 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_has_as_many_runs_as_its_header_says(name: str) -> None:
    runs, searches = study(name).runs, study(name).searches
    trainings = [planned for planned in runs if isinstance(planned.run, Train)]
    counts = {
        "trainings": sum(planned.role is None for planned in trainings),
        "shared trunks": sum(planned.role == "trunk" for planned in trainings),
        "evaluations": len(runs) - len(trainings),
        "searches": len(searches),
        "trials": sum(search.trials for search in searches),
    }
    cost = header(name).split("Cost:")[1].split("FLOP")[0]
    said = {what: int(number.replace(",", "")) for number, what in re.findall(rf"([\d,]+) ({'|'.join(counts)})", cost)}
    assert said == {what: counts[what] for what in said}
    assert name in PAPERS or set(said) == {what for what, count in counts.items() if count}


@pytest.mark.parametrize("name", ON_JFT)
def test_a_study_of_the_papers_is_on_the_papers_images(name: str) -> None:
    data = {planned.training.data.name for planned in study(name).runs}
    assert data == {"jft-300m"}
    assert all(planned.training.recipe.batch == 4096 for planned in study(name).runs)
    assert all(planned.training.image_size == 224 for planned in study(name).runs)


@pytest.mark.parametrize("name", LAPTOP)
def test_a_laptop_study_stands_on_built_in_images_with_bytes(name: str) -> None:
    assert all(planned.training.data.fingerprint for planned in study(name).runs)
    assert all(planned.flops < 1e14 for planned in study(name).runs)


def test_axial_transformers_cost_what_figure_13_shows() -> None:
    exaflops = {planned.model: planned.train_flops / 1e18 for planned in study("fig13").runs}
    assert exaflops["Axial-ViT-B/32"] == pytest.approx(107.6, rel=0.0015)
    assert exaflops["Axial-ViT-B/16"] == pytest.approx(426.8, rel=0.0015)


def test_figure_4_has_the_four_subsets_for_each_of_its_six_models() -> None:
    cells = {(planned.model, planned.training.data.rows) for planned in study("fig4").runs}
    subsets = {rows for _, rows in cells}
    assert subsets == {9_000_000, 30_000_000, 90_000_000, 303_000_000}
    assert len(cells) == 6 * len(subsets)
