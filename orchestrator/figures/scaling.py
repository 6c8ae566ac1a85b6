"""Error against compute, model and data in three panels (Figure 2 of arXiv:2106.04560v2)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from db.frontiers import Point, Series
from orchestrator.figures.axes import COST_LABELS, cost_axis, error_axis, size
from orchestrator.figures.facts import facts_of
from orchestrator.figures.law_lines import DASHED, bands_of, draw_law
from orchestrator.figures.marks import Ink, Mark, Sheet, legend, line_sample, new_sheet, put, remark, sample
from orchestrator.figures.material import Trained
from orchestrator.figures.style import INK, STYLE, looks_of
from studies.frontiers import frontier

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from studies.laws.fits import Fit
    from studies.laws.points import Floats

PANELS = {"flops": COST_LABELS["flops"], "parameters": "parameters", "data_rows": "images in the data set"}
"""What stands at the horizontal axis of each panel, by the name of what it shows."""
_LIGHTEST = 0.88
"""Of viridis, whose colours stay in order without colour too: beyond it they are lost on white."""
_LOWER, _LAW = "best of a budget", "saturating law, 95 % band"


def inputs_of(rows: Sequence[Trained], panel: str) -> "Floats":
    """What a panel shows each row against, shape (R,)."""
    values = [getattr(row.point, "cost" if panel == "flops" else panel) for row in rows]
    return np.array(values, dtype=np.float64)


def errors_of(rows: Sequence[Trained], series: Series) -> "Floats":
    """What is drawn and what laws are of: 1 - accuracy, or the metric itself where less is better. Shape (R,)."""
    return np.array([_height(row.point, series) for row in rows])


def scaling_sheet(
    title: str,
    series: Series,
    rows: Sequence[Trained],
    notes: Sequence[str] = (),
    *,
    laws: "Mapping[str, Fit] | None" = None,
) -> Sheet:
    """All configurations in three panels, in each the lower bound as a staircase and the law that was fitted to it.

    rows: each with parameters and images. laws: by the name of a panel; a panel without one says so.
    """
    import matplotlib

    known = laws or {}
    with matplotlib.rc_context(STYLE):
        sheet, panels = new_sheet(title, columns=3, width=10.4, height=4.2, is_shared=True)
        sheet.notes += notes
        heights = errors_of(rows, series)
        inks = _inks(rows)
        for (panel, label), axes in zip(PANELS.items(), panels, strict=True):
            cost_axis(axes, inputs_of(rows, panel).tolist(), "flops" if panel == "flops" else "images", is_narrow=True)
            axes.set_xlabel(label)
            error_axis(axes, heights.tolist(), series)
            if axes is not panels[0]:
                axes.set_ylabel("")
            _draw_panel(sheet, axes, series, rows, panel, inks)
            if panel in known:
                sheet.notes += [f"Law over {label}: {said}" for said in draw_law(sheet, axes, known[panel], INK, _LAW)]
                if known[panel].warnings:
                    remark(axes, "a doubtful law: see the notes")
            else:
                remark(axes, "no law: see the notes")
        sheet.notes += bands_of(known.values())
        legend(sheet, _entries(rows, inks, bool(known)))
    return sheet


def _height(point: Point, series: Series) -> float:
    return 1 - point.value if series.direction > 0 else point.value


def _data(row: Trained) -> str:
    return f"{size(row.point.data_rows or 0)} images"


def _inks(rows: Sequence[Trained]) -> dict[str, str]:
    """A colour for each size of data set, the smallest first."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    sizes = sorted({row.point.data_rows or 0 for row in rows})
    places = np.linspace(0, _LIGHTEST, len(sizes))
    return {
        f"{size(rows)} images": to_hex(colormaps["viridis"](place)) for rows, place in zip(sizes, places, strict=True)
    }


def _draw_panel(
    sheet: Sheet, axes: "Axes", series: Series, rows: Sequence[Trained], panel: str, inks: Mapping[str, str]
) -> None:
    looks = looks_of(row.point.family for row in rows)
    across, heights = inputs_of(rows, panel), errors_of(rows, series)
    best = frontier(across, -heights)
    if len(best):
        (line,) = axes.step(across[best], heights[best], where="post", color=INK, linewidth=1.0)
        sheet.belongs(line, _LOWER)
    sizes = _mark_sizes(rows)
    for number, row in enumerate(rows):
        mark = Mark(
            x=float(across[number]),
            y=float(heights[number]),
            group=_data(row),
            label=row.point.model,
            runs=row.point.runs,
            facts=facts_of(row.point, series),
            external=row.point.external,
        )
        is_best = number in best
        ink = Ink(looks[row.point.family].marker, inks[_data(row)], sizes[number], 1 if is_best else 0.55)
        put(sheet, axes, mark, ink, {"flops": "compute", "parameters": "model", "data_rows": "data"}[panel])


def _mark_sizes(rows: Sequence[Trained]) -> list[float]:
    """Larger marks for larger networks."""
    logs = np.log(inputs_of(rows, "parameters"))
    spread = float(np.ptp(logs)) or 1.0
    return [float(4.5 + 4 * (log - logs.min()) / spread) for log in logs]


def _entries(rows: Sequence[Trained], inks: Mapping[str, str], has_law: bool) -> list[tuple[str, "Artist"]]:
    looks = looks_of(row.point.family for row in rows)
    marker = next(iter(looks.values())).marker
    entries = [(name, sample(Ink(marker, colour))) for name, colour in inks.items()]
    if len(looks) > 1:
        entries += [(family, sample(Ink(look.marker, INK), is_open=True)) for family, look in looks.items()]
    entries.append((_LOWER, line_sample(INK, width=1.0)))
    if has_law:
        entries.append((_LAW, line_sample(INK, DASHED)))
    return entries
