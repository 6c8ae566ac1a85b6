"""Which dimension of a transformer to scale: quality against compute (Figure 8 of arXiv:2010.11929v2)."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from db.frontiers import Series
from orchestrator.figures.axes import ratio_axis, value_axis
from orchestrator.figures.facts import facts_of
from orchestrator.figures.labels import name_marks
from orchestrator.figures.marks import Ink, Mark, Sheet, deviation, legend, new_sheet, put, sample
from orchestrator.figures.material import Trained
from orchestrator.figures.style import INK, STYLE
from orchestrator.reports import NotFound
from studies.models import ViT

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

DIMENSIONS = {"depth": "depth", "width": "width", "mlp": "width of the MLP", "patch": "patch size"}
"""Fields of a transformer that are scaled, and what they are called."""
_SEVERAL = "several at once"
_BASE = "where all lines meet"
_INKS = {
    "depth": (Ink("o", "#0072B2"), "-"),
    "width": (Ink("s", "#D55E00"), (0, (5, 2))),
    "mlp": (Ink("D", "#009E73"), (0, (1, 1.2))),
    "patch": (Ink("^", "#CC79A7", 7), (0, (6, 1.5, 1, 1.5))),
    _SEVERAL: (Ink("P", "#7F7F7F", 7), (0, (3, 1, 1, 1, 1, 1))),
}


def shape_sheet(title: str, series: Series, rows: Sequence[Trained], notes: Sequence[str] = ()) -> Sheet:
    """Lines that meet in one shape, each of which changes one dimension; compute is relative to that shape's.

    rows: plain transformers. Those of other data, epochs or image size than most are left out, which is noted. Raises
    NotFound when no dimension has two values.
    """
    import matplotlib

    kept = _alike(rows)
    base = _base_of(kept)
    lines = _lines(kept, base)
    with matplotlib.rc_context(STYLE):
        sheet, (axes,) = new_sheet(title)
        sheet.notes += [*notes, *_remarks(rows, kept)]
        ratio_axis(axes, [row.point.cost / base.point.cost for row in kept], f"compute relative to {base.point.model}")
        lows = [row.point.value - (row.point.sd or 0) for row in kept]
        value_axis(axes, lows, [row.point.value + (row.point.sd or 0) for row in kept], series)
        named: list[tuple[Mark, str]] = []
        entries: list[tuple[str, Artist]] = []
        for dimension, line in lines.items():
            named += _draw_line(sheet, axes, series, base, dimension, line)
            entries.append((DIMENSIONS.get(dimension, dimension), sample(*_INKS[dimension])))
        meeting = _mark(base, base, series, _BASE)
        put(sheet, axes, meeting, Ink("*", INK, 12))
        entries.append((_BASE, sample(Ink("*", INK, 11))))
        if any(row.point.sd for row in kept):
            entries.append(deviation())
        legend(sheet, entries)
        name_marks(sheet, axes, [(meeting, ""), *named])
    return sheet


def _vit(row: Trained) -> ViT:
    assert row.pretraining is not None
    assert isinstance(row.pretraining.model, ViT)
    return row.pretraining.model


def _alike(rows: Sequence[Trained]) -> list[Trained]:
    """The rows that differ in their shape alone: of the most common data, epochs and image size."""

    def setting(row: Trained) -> tuple[str, int, int, int]:
        assert row.pretraining is not None
        data = row.pretraining.data
        return data.name, data.rows, row.pretraining.examples, row.pretraining.image_size

    common = Counter(map(setting, rows)).most_common(1)[0][0]
    return [row for row in rows if setting(row) == common]


def _changed(model: ViT, base: ViT) -> list[str]:
    return [name for name in DIMENSIONS if getattr(model, name) != getattr(base, name)]


def _base_of(rows: Sequence[Trained]) -> Trained:
    """The shape that most others differ from in one dimension alone; of equal ones the cheapest."""

    def neighbours(row: Trained) -> int:
        return sum(len(_changed(_vit(other), _vit(row))) == 1 for other in rows)

    base = max(rows, key=lambda row: (neighbours(row), -row.point.cost, row.point.quality))
    if not neighbours(base):
        raise NotFound("no two transformers of equal data, length and image size differ in a single dimension")
    return base


def _lines(rows: Sequence[Trained], base: Trained) -> dict[str, list[Trained]]:
    """Rows by the dimension that they change, the base in each; by compute."""
    lines: dict[str, list[Trained]] = defaultdict(list)
    for row in rows:
        changed = _changed(_vit(row), _vit(base))
        if changed:
            lines[changed[0] if len(changed) == 1 else _SEVERAL].append(row)
    return {
        dimension: sorted([*lines[dimension], base], key=lambda row: (row.point.cost, -row.point.quality))
        for dimension in _INKS
        if dimension in lines
    }


def _draw_line(
    sheet: Sheet, axes: "Axes", series: Series, base: Trained, dimension: str, line: Sequence[Trained]
) -> list[tuple[Mark, str]]:
    """Draw a line through the best of each shape; its marks, each with the value of its dimension."""
    ink, dashes = _INKS[dimension]
    name = DIMENSIONS.get(dimension, dimension)
    best: dict[ViT, Trained] = {}
    for row in line:
        if _vit(row) not in best or row.point.quality > best[_vit(row)].point.quality:
            best[_vit(row)] = row
    (drawn,) = axes.plot(
        [row.point.cost / base.point.cost for row in best.values()],
        [row.point.value for row in best.values()],
        color=ink.colour,
        linestyle=dashes,
        linewidth=1.3,
    )
    sheet.belongs(drawn, name)
    marks = []
    for row in line:
        if row is base:
            continue
        is_best = best[_vit(row)] is row
        mark = _mark(row, base, series, name)
        put(sheet, axes, mark, ink if is_best else Ink(ink.marker, ink.colour, 4.5, 0.35, has_edge=False))
        marks.append((mark, str(getattr(_vit(row), dimension)) if dimension in DIMENSIONS and is_best else ""))
    return marks


def _mark(row: Trained, base: Trained, series: Series, group: str) -> Mark:
    model = _vit(row)
    shape = f"depth {model.depth}, width {model.width}, MLP {model.mlp}, patch {model.patch}, heads {model.heads}"
    return Mark(
        x=row.point.cost / base.point.cost,
        y=row.point.value,
        group=group,
        label=row.point.model,
        runs=row.point.runs,
        facts=(("shape", shape), *facts_of(row.point, series)),
        spread=row.point.sd,
        external=row.point.external,
    )


def _remarks(rows: Sequence[Trained], kept: Sequence[Trained]) -> list[str]:
    left = len(rows) - len(kept)
    if not left:
        return []
    return [f"Left out, since they differ in data, length or image size too: {left}."]
