"""Where the names of marks stand: beside their marks, and only where there is room for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.figures.marks import Mark, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PLACES = ((5, 4, "left", "bottom"), (-5, -4, "right", "top"), (5, -4, "left", "top"), (-5, 4, "right", "bottom"))
"""Where a label may stand beside its mark, in points, the preferred place first."""
_REACH, _REACH_UNNAMED = 9, 4
"""Pixels that a mark keeps free on each side."""


def name_marks(sheet: Sheet, axes: "Axes", named: Sequence[tuple[Mark, str]], size: float = 7.5) -> None:
    """Name marks, each where the name changes, and only where there is room for it. To be called last.

    named: marks with their names, an empty one for a mark that others keep clear of and that has none.
    """
    from matplotlib.transforms import Bbox

    sheet.figure.draw_without_rendering()  # labels keep clear of each other where the layout has put things
    taken = []
    for mark, name in named:
        x, y = axes.transData.transform((mark.x, mark.y))
        reach = _REACH if name else _REACH_UNNAMED
        taken.append(Bbox.from_extents(x - reach, y - reach, x + reach, y + reach))
    inside = axes.get_window_extent()
    before = None
    for number, (mark, name) in enumerate(named):
        if not name or name == before:
            continue
        for right, up, horizontal, vertical in _PLACES:
            text = axes.annotate(
                name,
                (mark.x, mark.y),
                xytext=(right, up),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=size,
                parse_math=False,
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.4},
            )
            box = text.get_window_extent()
            clear = not any(box.overlaps(other) for index, other in enumerate(taken) if index != number)
            if clear and inside.x0 <= box.x0 and box.y0 >= inside.y0 and box.y1 <= inside.y1:
                taken.append(box)
                before = name
                sheet.belongs(text, mark.group)
                break
            text.remove()
