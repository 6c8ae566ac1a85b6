"""From a sheet to a file: SVG, PDF, PNG, or a page with the SVG in it. Equal sheets give equal bytes."""

import io
from pathlib import Path
from typing import Any

from orchestrator.figures.marks import Sheet
from orchestrator.figures.style import STYLE

FORMATS = (".svg", ".png", ".pdf", ".html")
LINK = "#run-{key}"
"""Where a mark leads without more: to the row of its run in a page."""
_NO_DATE: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def check_format(path: Path) -> None:
    """Raise ValueError unless the file's ending is one that a figure can be written in."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"'{path.name}' names no figure format; valid endings: {', '.join(FORMATS)}")


def check_link(link: str) -> None:
    """Raise ValueError unless a template of links has a place for the key of a run, and only that."""
    if "{key}" not in link or link.replace("{key}", "").count("{") or link.replace("{key}", "").count("}"):
        raise ValueError(f"'{link}' is no template of a link: write {{key}} where the key of the run goes")


def write(sheet: Sheet, path: Path, link: str = LINK) -> None:
    """Write a figure in the format that the file's ending names.

    link: address of a run, with `{key}` in it. Raises OSError when the file cannot be written.
    """
    import matplotlib

    from orchestrator.figures import page, svg

    ending = path.suffix.lower()
    kind = ".svg" if ending == ".html" else ending
    drawn = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        sheet.figure.savefig(drawn, format=kind[1:], dpi=200, metadata=_NO_DATE[kind])
    content = drawn.getvalue()
    if ending == ".svg":
        content = svg.as_bytes(svg.linked(content, sheet, link))
    elif ending == ".html":
        content = page.page(svg.linked(content, sheet, LINK), sheet, link).encode()
    path.write_bytes(content)
