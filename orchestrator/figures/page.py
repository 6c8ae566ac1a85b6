"""The interactive form of a figure: one page, the same SVG in it, that asks no network for anything.

It reads without its script (`page.js`): the figure, then a table of its marks, each row where a mark leads. A policy in
its head allows this script and these styles alone, so that a key or a name in the data can never become code.
"""

import base64
import hashlib
import html
import re
from importlib.resources import files
from typing import Any
from xml.etree import ElementTree as ET

from orchestrator.figures.files import LINK
from orchestrator.figures.marks import Mark, Sheet
from orchestrator.figures.svg import as_text, groups_of
from orchestrator.wording import counted

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<figure id="figure">
{svg}
<figcaption id="how" hidden>Point at a mark, or reach it with the Tab key, to see what it stands for; Enter goes to its
row. A click on an entry of the legend hides it. The wheel zooms, dragging moves, a double click or 0 shows all
again.</figcaption>
</figure>
<div id="tip" role="status" hidden></div>
{notes}<h2>{count}</h2>
<div class="wide"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
</main>
<script>{script}</script>
</body>
</html>
"""


def page(root: "ET.Element[str]", sheet: Sheet, link: str) -> str:
    """The page as text.

    root: the figure, its marks linked to `files.LINK`; it is changed. link: where the keys in the table lead.
    """
    for number, group in enumerate(groups_of(sheet)):
        root.set(f"data-name-{number}", group)
    _without_inline_styles(root)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "group")
    root.set("aria-label", sheet.title)
    style, script = (files("orchestrator.figures").joinpath(name).read_text() for name in ("page.css", "page.js"))
    rows = _rows(sheet)
    heads = ["group", "label", *_names(rows), "runs"]
    placed: set[str] = set()
    return _PAGE.format(
        policy=f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}",
        title=html.escape(sheet.title),
        style=style,
        notes=_notes(sheet),
        svg=as_text(root),
        count=counted(len(rows), "result"),
        heads="".join(f'<th scope="col">{html.escape(head)}</th>' for head in heads),
        rows="\n".join(_row(mark, _names(rows), link, placed) for mark in rows),
        script=script,
    )


def _notes(sheet: Sheet) -> str:
    if not sheet.notes:
        return ""
    listed = "\n".join(f"<li>{html.escape(note)}</li>" for note in dict.fromkeys(sheet.notes))
    return f"<h2>Notes</h2>\n<ul>\n{listed}\n</ul>\n"


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


# --------------------------------------------------------------------------------------------------------------- table


def _rows(sheet: Sheet) -> list[Mark]:
    """One mark for the runs of each; a result that is drawn twice has one row."""
    rows: dict[tuple[str, ...], Mark] = {}
    claimed: set[str] = set()
    for mark in sorted(sheet.marks.values(), key=lambda mark: -len(mark.runs)):
        if not claimed.issuperset(mark.runs):
            rows[mark.runs] = mark
            claimed.update(mark.runs)
    return sorted(rows.values(), key=lambda mark: (mark.group, mark.x, mark.y))


def _names(rows: list[Mark]) -> list[str]:
    return list(dict.fromkeys(name for mark in rows for name, _ in mark.facts))


def _row(mark: Mark, names: list[str], link: str, placed: set[str]) -> str:
    values = dict(mark.facts)
    cells = [mark.group, mark.label, *(values.get(name, "") for name in names)]
    keys = " ".join(_key(key, link, is_first=key not in placed) for key in mark.runs)
    placed.update(mark.runs)
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + f'<td class="keys">{keys}</td></tr>'


def _key(key: str, link: str, *, is_first: bool) -> str:
    """A run of the table: where a mark's link leads, and a link where there is somewhere to go."""
    known, shown = html.escape(key), html.escape(key[:16])
    place = f' id="run-{known}"' if is_first else ""
    if link == LINK:
        return f'<code{place} title="{known}">{shown}</code>'
    return f'<a{place} href="{html.escape(link.replace("{key}", key))}" title="{known}">{shown}</a>'


# -------------------------------------------------------------------------------------------------------------- styles


def _without_inline_styles(root: Any) -> None:
    """Write styles as attributes of SVG: a strict policy forbids them inside of elements."""
    for defs in root.iter("{http://www.w3.org/2000/svg}defs"):
        for style in defs.findall("{http://www.w3.org/2000/svg}style"):
            defs.remove(style)
    root.set("stroke-linejoin", "round")
    for element in root.iter():
        for name, value in _styles(element.attrib.pop("style", "")):
            element.set(name, value)


def _styles(style: str) -> list[tuple[str, str]]:
    pairs = [part.split(":", 1) for part in re.split(r";\s*", style) if ":" in part]
    return [(name.strip(), value.strip()) for name, value in pairs]
