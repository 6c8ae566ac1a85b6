"""A line a network over the images that it was pre-trained on: what Figures 3 and 4 share."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from db.frontiers import Series
from orchestrator.figures.axes import size as size_words
from orchestrator.figures.axes import sizes_axis, value_axis
from orchestrator.figures.facts import facts_of
from orchestrator.figures.marks import Ink, Mark, Sheet, deviation, legend, new_sheet, put, sample
from orchestrator.figures.material import Trained
from orchestrator.figures.style import DASHES, FAINT, STYLE, looks_of, shade

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_BAND = "#bdbdbd"


def lines_sheet(
    title: str, series: Series, rows: Sequence[Trained], notes: Sequence[str], label: str, band: str | None
) -> Sheet:
    """The metric against images in the data set: all configurations, and a line through each network's best per size.

    band: a family that is drawn as the range of its networks instead of a line for each. Raises ValueError when there
    is none of it.
    """
    import matplotlib

    families = dict.fromkeys(row.point.family for row in rows)
    if band is not None and band not in families:
        raise ValueError(f"there is no family '{band}' to draw as a band; valid: {', '.join(families)}")
    with matplotlib.rc_context(STYLE):
        sheet, (axes,) = new_sheet(title)
        sheet.notes += notes
        _axes(axes, series, rows, label)
        networks = _networks(rows)
        styles = _styles(networks, band)
        entries: list[tuple[str, Artist]] = []
        if band is not None:
            of_band = [own for own in networks.values() if _is(own, band)]
            entries.append((_range(band), _draw_band(sheet, axes, _range(band), of_band)))
        for name, own in networks.items():
            ink, dashes = styles[name]
            best = _best_by_size(own)
            group = _range(band) if band is not None and _is(own, band) else name
            if not _is(own, band):
                entries.append((name, sample(ink, dashes)))
                (line,) = axes.plot(
                    list(best), [row.point.value for row in best.values()], color=ink.colour, linestyle=dashes, lw=1.3
                )
                sheet.belongs(line, name)
            for row in own:
                is_best = best[_size(row)] is row
                shown = ink if is_best else Ink(ink.marker, ink.colour, 4.5, 0.35, has_edge=False)
                put(sheet, axes, _mark(row, series, group, is_best), shown)
        if any(row.point.sd for row in rows):
            entries.append(deviation())
        legend(sheet, entries)
        if any(len(own) > len(_best_by_size(own)) for own in networks.values()):
            sheet.notes.append("Lines go through the best configuration of each size; the others are faint.")
    return sheet


def _axes(axes: "Axes", series: Series, rows: Sequence[Trained], label: str) -> None:
    names: dict[float, list[str]] = defaultdict(list)
    for row in rows:
        if row.pretraining and row.pretraining.data.name not in names[_size(row)]:
            names[_size(row)].append(row.pretraining.data.name)
    sizes = sorted({_size(row) for row in rows})
    is_one_set = len({name for of_size in names.values() for name in of_size}) < 2
    ticks = [size_words(size) if is_one_set else "\n".join([*names[size], size_words(size)]) for size in sizes]
    sizes_axis(axes, sizes, ticks, label)
    lows = [row.point.value - (row.point.sd or 0) for row in rows]
    value_axis(axes, lows, [row.point.value + (row.point.sd or 0) for row in rows], series)


def _size(row: Trained) -> float:
    assert row.point.data_rows is not None
    return float(row.point.data_rows)


def _is(own: Sequence[Trained], family: str | None) -> bool:
    return own[0].point.family == family


def _networks(rows: Sequence[Trained]) -> dict[str, list[Trained]]:
    """Rows by network: families together, in each the smallest first."""
    groups: dict[str, list[Trained]] = defaultdict(list)
    families = list(looks_of(row.point.family for row in rows))

    def place(row: Trained) -> Any:
        return families.index(row.point.family), row.point.parameters or 0, row.point.model, _size(row)

    for row in sorted(rows, key=place):
        groups[row.point.model].append(row)
    return dict(groups)


def _styles(networks: Mapping[str, Sequence[Trained]], band: str | None) -> dict[str, tuple[Ink, Any]]:
    """Of each network its family's mark in a shade for its size, and a line of its own."""
    looks = looks_of(own[0].point.family for own in networks.values())
    styles: dict[str, tuple[Ink, Any]] = {}
    for family, look in looks.items():
        names = [name for name, own in networks.items() if _is(own, family)]
        for place, name in enumerate(names):
            if family == band:
                styles[name] = Ink(look.marker, FAINT, 3.5, 0.7, has_edge=False), "None"
            else:
                ink = Ink(look.marker, shade(look.colour, place, len(names)), 5 + 3 * place / max(1, len(names) - 1))
                styles[name] = ink, DASHES[place % len(DASHES)]
    return styles


def _best_by_size(own: Sequence[Trained]) -> dict[float, Trained]:
    best: dict[float, Trained] = {}
    for row in own:
        size = _size(row)
        if size not in best or row.point.quality > best[size].point.quality:
            best[size] = row
    return dict(sorted(best.items()))


def _range(family: str) -> str:
    return f"range of {family}"


def _draw_band(sheet: Sheet, axes: "Axes", group: str, networks: Sequence[Sequence[Trained]]) -> "Artist":
    """The range of a family's networks at each size, with what the legend shows of it."""
    from matplotlib.patches import Patch

    bests = [_best_by_size(own) for own in networks]
    sizes = sorted({size for best in bests for size in best})
    values = [[best[size].point.value for best in bests if size in best] for size in sizes]
    area = axes.fill_between(
        sizes, [min(of) for of in values], [max(of) for of in values], color=_BAND, alpha=0.45, linewidth=0
    )
    sheet.belongs(area, group)
    return Patch(color=_BAND, alpha=0.45)


def _mark(row: Trained, series: Series, group: str, is_best: bool) -> Mark:
    point = row.point
    facts = facts_of(point, series)
    if row.pretraining is not None:
        facts = (("pre-trained on", f"{row.pretraining.data.name} {row.pretraining.data.split}"), *facts)
    return Mark(
        x=_size(row),
        y=point.value,
        group=group,
        label=point.model,
        runs=point.runs,
        facts=facts,
        spread=point.sd if is_best else None,
        external=point.external,
    )
