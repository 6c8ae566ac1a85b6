"""What Matplotlib does not write into an SVG: of each mark what it stands for, and where it leads."""

from typing import Any
from xml.etree import ElementTree as ET

from orchestrator.figures.marks import Mark, Sheet

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
ET.register_namespace("", _SVG)
ET.register_namespace("xlink", _XLINK)


def linked(drawn: bytes, sheet: Sheet, link: str) -> "ET.Element[str]":
    """The root of a drawn SVG with a link and a title in each mark's group, and the legend's entries on all groups.

    A mark is `<g id><a href data-runs><title>...</title>...</a></g>`: the link leads to its first run, `data-runs` and
    the title name all of them. `data-group` is the place of the entry of the legend that a part belongs to, from 0.
    """
    root: ET.Element[str] = ET.fromstring(drawn)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)  # the drawing program's version, in a vocabulary that pages do not know
    _describe(root, sheet)
    elements = {element.attrib["id"]: element for element in root.iter() if "id" in element.attrib}
    numbers = {group: str(number) for number, group in enumerate(groups_of(sheet))}
    for name, mark in sheet.marks.items():
        _link(elements[name], mark, link)
        elements[name].set("data-group", numbers[mark.group])
    for name, group in sheet.groups.items():
        if name in elements:  # what is invisible, as a band of no height, is not drawn
            elements[name].set("data-group", numbers[group])
    return root


def groups_of(sheet: Sheet) -> list[str]:
    """The groups that anything in a sheet belongs to, in the order in which they were drawn."""
    return list(dict.fromkeys([*(mark.group for mark in sheet.marks.values()), *sheet.groups.values()]))


def as_bytes(root: "ET.Element[str]") -> bytes:
    """An SVG file."""
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def as_text(root: "ET.Element[str]") -> str:
    """The SVG as a part of a page."""
    return ET.tostring(root, encoding="unicode")


def words(mark: Mark) -> str:
    """What is said of a mark: a line each for its name, its facts and its runs."""
    runs = [f"run {key}" for key in mark.runs] if not mark.external else [f"imported {key}" for key in mark.runs]
    return "\n".join([mark.label, *(f"{name}: {value}" for name, value in mark.facts), *runs])


def _describe(root: "ET.Element[str]", sheet: Sheet) -> None:
    described = [("title", sheet.title)]
    if sheet.notes:
        described.append(("desc", " ".join(sheet.notes)))
    for place, (tag, text) in enumerate(described):
        element = ET.Element(f"{{{_SVG}}}{tag}")
        element.text = text
        root.insert(place, element)


def _link(group: Any, mark: Mark, link: str) -> None:
    href = link.replace("{key}", mark.runs[0])
    # SVG 1.1, which printing programs read, has the second attribute alone.
    anchor = ET.Element(f"{{{_SVG}}}a", {"href": href, f"{{{_XLINK}}}href": href, "data-runs": " ".join(mark.runs)})
    title = ET.SubElement(anchor, f"{{{_SVG}}}title")
    title.text = words(mark)
    for child in list(group):
        group.remove(child)
        anchor.append(child)
    group.append(anchor)
