"""The interactive form of a figure: one page that asks no network, reads without its script, and runs nothing else."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from db.frontiers import Point
from orchestrator.figures import draw_frontier
from tests.test_orchestrator_figures import ACCURACY, POINTS, best


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def values(self, name: str) -> list[str]:
        """The values of an attribute."""
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


def drawn(
    tmp_path: Path, points: list[Point] = POINTS, title: str = "A title", link: str = "#run-{key}"
) -> tuple[str, Page]:
    file = tmp_path / "f.html"
    draw_frontier(file, title, ACCURACY, points, [best(each) for each in points[:2]], False, link=link)
    text = file.read_text()
    return text, Page(text)


def test_a_page_asks_no_network(tmp_path: Path) -> None:
    text, page = drawn(tmp_path)
    assert not page.values("src")
    assert all(value.startswith(("#", "data:")) for value in page.values("href"))
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_equal_rows_give_equal_pages(tmp_path: Path) -> None:
    assert drawn(tmp_path)[0] == drawn(tmp_path)[0]


def test_its_policy_allows_its_own_script_and_styles_alone(tmp_path: Path) -> None:
    _, page = drawn(tmp_path)
    (policy,) = [value for value in page.values("content") if "default-src" in value]
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (content,) = page.texts[tag]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    # What the policy would refuse: styles and scripts in attributes.
    assert not page.values("style")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_every_mark_leads_to_a_row_with_its_runs(tmp_path: Path) -> None:
    _, page = drawn(tmp_path)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    marks = [attributes for tag, attributes in page.tags if tag == "a" and "data-runs" in attributes]
    assert len(marks) == len(POINTS) + 2
    assert {str(mark["href"])[1:] for mark in marks} <= set(ids)
    keys = {key for point in POINTS for key in point.runs}
    assert {f"run-{key}" for key in keys} <= set(ids)
    assert sum(tag == "tr" for tag, _ in page.tags) == 1 + len(POINTS)


def test_rows_lead_on_where_runs_have_an_address(tmp_path: Path) -> None:
    _, page = drawn(tmp_path, link="https://host/{key}?a&b")
    of_runs = {f"https://host/{key}?a&b" for point in POINTS for key in point.runs}
    assert {value for value in page.values("href") if value.startswith("https")} == of_runs
    marks = [attributes for tag, attributes in page.tags if tag == "a" and "data-runs" in attributes]
    assert all(str(mark["href"]).startswith("#run-") for mark in marks)


def test_a_row_says_what_its_mark_stands_for(tmp_path: Path) -> None:
    _, page = drawn(tmp_path)
    cells = page.texts["td"]
    assert {"ResNet-2", "3.00 gigaFLOP", "95.00 % ± 1.00", "2", "yes"} <= set(cells)
    assert page.texts["th"][:5] == ["group", "label", "training compute", "accuracy", "seeds"]


def test_names_in_the_data_are_text_and_nothing_else(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    points = [replace(POINTS[0], model=evil), POINTS[1]]
    text, page = drawn(tmp_path, points, title=evil)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "<script>alert" not in text
    assert page.texts["h1"] == [evil]


def test_the_legend_names_the_parts_that_it_hides(tmp_path: Path) -> None:
    _, page = drawn(tmp_path)
    root = next(attributes for tag, attributes in page.tags if tag == "svg")
    names = {name.rpartition("-")[2]: value for name, value in root.items() if name.startswith("data-name-")}
    assert {"ViT", "ResNet", "Hybrid", "frontier ± 1 sd of seeds"} == set(names.values())
    assert set(page.values("data-group")) == set(names)


@pytest.mark.parametrize("sizes", [1, 4])
def test_the_rows_are_counted(sizes: int, tmp_path: Path) -> None:
    _, page = drawn(tmp_path, POINTS[:sizes])
    assert {1: "1 result", 4: "4 results"}[sizes] in page.texts["h2"]
