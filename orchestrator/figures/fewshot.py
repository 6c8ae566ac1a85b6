"""Few-shot accuracy against the images that were trained on (Figure 4 of arXiv:2010.11929v2)."""

from collections.abc import Sequence

from db.frontiers import Series
from orchestrator.figures.lines import lines_sheet
from orchestrator.figures.marks import Sheet
from orchestrator.figures.material import Trained


def fewshot_sheet(
    title: str, series: Series, rows: Sequence[Trained], notes: Sequence[str] = (), *, band: str | None = None
) -> Sheet:
    """A line a network over subsets of one data set. rows, band: as in `transfer_sheet`."""
    names = list(dict.fromkeys(row.pretraining.data.name for row in rows if row.pretraining))
    label = f"images of {names[0]} that are trained on" if len(names) == 1 else "images that are trained on"
    return lines_sheet(title, series, rows, notes, label, band)
