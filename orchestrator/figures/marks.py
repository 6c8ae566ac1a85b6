"""Marks, and the sheet that remembers what each of them stands for; how a sheet becomes a file is in `files.py`."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.figures.axes import plain_axes
from orchestrator.figures.style import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Facts = tuple[tuple[str, str], ...]
"""Names and values, as people read them."""


@dataclass(frozen=True)
class Mark:
    """A mark of a figure: where it is, and the runs that it stands for."""

    x: float
    y: float
    group: str
    """The entry of the legend that it belongs to."""
    label: str
    runs: tuple[str, ...]
    """Keys, at least one."""
    facts: Facts
    spread: float | None = None
    """Half the height of its deviation, in the unit of y; None draws none."""
    external: bool = False
    """Imported: its keys are those of results, not of runs."""


@dataclass(frozen=True)
class Ink:
    """What a mark is drawn with."""

    marker: str
    colour: str
    size: float = 6
    strength: float = 1
    has_edge: bool = True
    """A white edge, so that marks on each other stay apart."""
    is_open: bool = False


@dataclass
class Sheet:
    """A figure and what its parts stand for."""

    figure: "Figure"
    title: str
    marks: dict[str, Mark] = field(default_factory=dict)
    """By the id that each has in an SVG."""
    groups: dict[str, str] = field(default_factory=dict)
    """Entries of the legend, by the id of each part that belongs to one."""
    notes: list[str] = field(default_factory=list)
    """What a reader has to know and the axes do not say, a sentence each."""

    def belongs(self, artist: "Artist", group: str) -> None:
        """A part of the figure goes with an entry of the legend."""
        name = f"part-{len(self.groups)}"
        artist.set_gid(name)
        self.groups[name] = group


def new_sheet(
    title: str, *, columns: int = 1, width: float = 6.4, height: float = 4.4, is_shared: bool = False
) -> tuple[Sheet, list["Axes"]]:
    """An empty sheet with axes side by side. To be called, and filled, under `style.STYLE`.

    width, height: inches. is_shared: the vertical axes are one.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False, sharey=is_shared)[0]
    for axes in panels:
        plain_axes(axes)
    wrapped = "\n".join(textwrap.wrap(title, int(14 * width)))
    if columns == 1:
        panels[0].set_title(wrapped, fontsize=10, loc="left", parse_math=False)
    else:
        figure.suptitle(wrapped, fontsize=10, x=0.01, ha="left", parse_math=False)
    return Sheet(figure, title), list(panels)


def put(sheet: Sheet, axes: "Axes", mark: Mark, ink: Ink, prefix: str = "run") -> None:
    """Draw a mark, its deviation under it, and remember it by its id: the prefix, then 16 digits of each run's key."""
    name = "-".join([prefix, *(key[:16] for key in mark.runs)])
    if name in sheet.marks:
        name += f"-{len(sheet.marks)}"
    if mark.spread:
        # What reaches below a logarithmic axis ends at it: there is no place for zero.
        bottom = axes.get_ylim()[0]
        lines = axes.vlines(
            mark.x, max(mark.y - mark.spread, bottom), mark.y + mark.spread, color=ink.colour, linewidth=0.9, alpha=0.8
        )
        sheet.belongs(lines, mark.group)
    edge: dict[str, Any] = {"markeredgewidth": 0}
    if ink.is_open:
        edge = {"markerfacecolor": "white", "markeredgewidth": 1.2, "markeredgecolor": ink.colour}
    elif ink.has_edge:
        edge = {"markeredgewidth": 0.6, "markeredgecolor": "white"}
    (drawn,) = axes.plot(mark.x, mark.y, ink.marker, color=ink.colour, alpha=ink.strength, markersize=ink.size, **edge)
    drawn.set_gid(name)
    drawn.set_in_layout(False)  # marks are inside of the axes: to measure thousands takes seconds
    sheet.marks[name] = mark


def legend(sheet: Sheet, entries: Sequence[tuple[str, "Artist"]]) -> None:
    """The legend below the axes, never on the data; each entry belongs to the group of its name."""
    names = [name for name, _ in entries]
    drawn = sheet.figure.legend(
        [artist for _, artist in entries],
        names,
        loc="outside lower center",
        ncols=_columns(names, sheet.figure.get_figwidth()),
        frameon=False,
        handletextpad=0.5,
        columnspacing=1.6,
    )
    for name, handle, text in zip(names, drawn.legend_handles, drawn.get_texts(), strict=True):
        text.set_parse_math(False)
        if handle is not None:
            sheet.belongs(handle, name)
        sheet.belongs(text, name)


def _columns(names: Sequence[str], inches: float) -> int:
    """The most entries side by side that fit into this width; Matplotlib fills column after column."""
    room = int(15 * inches)
    for rows in range(1, len(names)):
        columns = [names[at : at + rows] for at in range(0, len(names), rows)]
        if sum(max(map(len, column)) + 7 for column in columns) <= room:
            return len(columns)
    return 1


def deviation() -> tuple[str, "Artist"]:
    """The legend's entry for the deviations of marks."""
    from matplotlib.lines import Line2D

    return "± 1 sd of seeds", Line2D([], [], color=INK, marker="|", linestyle="None", markersize=9, markeredgewidth=0.9)


def sample(ink: Ink, line: Any = "None", *, is_open: bool = False) -> "Artist":
    """A handle for the legend: a mark, on a line where one is given."""
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        marker=ink.marker,
        color=ink.colour,
        linestyle=line,
        linewidth=1.4,
        markersize=ink.size,
        markerfacecolor="white" if is_open else ink.colour,
        markeredgecolor=ink.colour,
    )


def line_sample(colour: str, line: Any = "-", width: float = 1.2) -> "Artist":
    """A handle for the legend: a line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=line, linewidth=width)


def remark(axes: "Axes", words: str) -> None:
    """A few small words above the right end of the axes, where no data can be."""
    axes.set_title(words, fontsize=7, loc="right", color=FAINT, pad=3, parse_math=False)
