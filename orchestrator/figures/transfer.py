"""Accuracy after a transfer against the size of the data set of the pre-training (Figure 3 of arXiv:2010.11929v2)."""

from collections.abc import Sequence

from db.frontiers import Series
from orchestrator.figures.lines import lines_sheet
from orchestrator.figures.marks import Sheet
from orchestrator.figures.material import Trained


def transfer_sheet(
    title: str, series: Series, rows: Sequence[Trained], notes: Sequence[str] = (), *, band: str | None = None
) -> Sheet:
    """A line a network: what it reaches after pre-training on each data set, deviations over seeds.

    rows: at least one, each with its number of images. band: a family that is drawn as a range (BiT in the paper).
    """
    return lines_sheet(title, series, rows, notes, "images in the data set of the pre-training", band)
