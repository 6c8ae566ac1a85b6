"""Figures, one file each: from rows to a sheet, which `files.write` puts on a page. What other folders use is here."""

from orchestrator.figures.files import LINK, check_format, check_link, write
from orchestrator.figures.frontier import draw_frontier
from orchestrator.figures.style import COLOURS, MARKERS

__all__ = ["COLOURS", "LINK", "MARKERS", "check_format", "check_link", "draw_frontier", "write"]
