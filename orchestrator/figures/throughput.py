"""Throughput as measured, and the largest batch by formula (Figure 12 of arXiv:2010.11929v2)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.figures.axes import COST_LABELS, cost_axis, count, log_limits, log_ticks, sizes_axis
from orchestrator.figures.labels import name_marks
from orchestrator.figures.marks import Ink, Mark, Sheet, legend, new_sheet, put, remark, sample
from orchestrator.figures.speeds import TRAINING, Room, Speed, Speeds
from orchestrator.figures.style import INK, STYLE, Look, looks_of
from orchestrator.wording import flops, memory, seconds, three_digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = {"training": "-", "classification": (0, (1, 1.2))}


def throughput_sheet(found: Speeds) -> Sheet:
    """Images a second, and images that fit in a training step, both over the size of an image or of the network.

    Over the size of images where a network ran at several, else over the FLOPs of a forward pass. Training is filled,
    classification open. Numbers of the left panel are measured, those of the right follow from shapes.
    """
    import matplotlib

    across_sizes = _has_several_sizes(found)
    rooms = [room for room in found.rooms if room.batch]
    looks = looks_of([*(each.family for each in found.speeds), *(each.family for each in rooms)])
    with matplotlib.rc_context(STYLE):
        sheet, panels = new_sheet(f"Throughput and memory: {found.title}", columns=2, width=9, height=4.2)
        sheet.notes += found.notes
        _axes(panels[0], found.speeds, [each.images_per_second for each in found.speeds], across_sizes)
        panels[0].set_ylabel("images a second of one worker")
        named = _draw_speeds(sheet, panels[0], found.speeds, looks, across_sizes)
        if rooms:
            _axes(panels[1], rooms, [room.batch for room in rooms], across_sizes)
            others = _draw_rooms(sheet, panels[1], rooms, looks, across_sizes)
        else:
            others = []
            sheet.notes.append(f"Not one image of any of these networks fits in a {found.device.unit} in training.")
        panels[1].set_ylabel("largest batch in training (images)")
        held = memory(found.device.memory_bytes or 0).replace(".0 ", " ")
        remark(panels[1], f"by formula, in {held}: {found.device.name} {found.device.unit}")
        entries = [(family, sample(Ink(look.marker, look.colour))) for family, look in looks.items()]
        whats = dict.fromkeys(speed.what for speed in found.speeds)
        entries += [
            (what, sample(Ink("o", INK), _LINES[what] if across_sizes else "None", is_open=what != TRAINING))
            for what in whats
        ]
        legend(sheet, entries)
        name_marks(sheet, panels[0], named)
        name_marks(sheet, panels[1], others)
    return sheet


def _has_several_sizes(found: Speeds) -> bool:
    sizes: dict[str, set[int]] = defaultdict(set)
    for speed in found.speeds:
        sizes[speed.model].add(speed.image_size)
    return any(len(of_model) > 1 for of_model in sizes.values())


def _x(each: Speed | Room, across_sizes: bool) -> float:
    return float(each.image_size) if across_sizes else each.forward_flops


def _axes(axes: "Axes", rows: Sequence[Speed | Room], heights: Sequence[float], across_sizes: bool) -> None:
    places = [_x(each, across_sizes) for each in rows]
    if across_sizes:
        sizes = sorted(set(places))
        sizes_axis(axes, sizes, [f"{size:g}" for size in sizes], "side of an image (pixels)")
    else:
        cost_axis(axes, places, "forward-flops")
        axes.set_xlabel(COST_LABELS["forward-flops"])
    axes.set_yscale("log")
    axes.set_ylim(*log_limits(heights))
    log_ticks(axes.yaxis, min(heights), max(heights), count)


def _draw_speeds(
    sheet: Sheet, axes: "Axes", speeds: Sequence[Speed], looks: dict[str, Look], across_sizes: bool
) -> list[tuple[Mark, str]]:
    named = []
    lines: dict[tuple[str, str, str], list[Mark]] = defaultdict(list)
    for speed in speeds:
        look = looks[speed.family]
        facts = (
            ("what", speed.what),
            ("images a second", three_digits(speed.images_per_second)),
            ("images", count(speed.images)),
            ("worker time", seconds(speed.seconds)),
            ("measured on", speed.place),
            *_size_facts(speed),
        )
        mark = Mark(_x(speed, across_sizes), speed.images_per_second, speed.family, speed.model, speed.runs, facts)
        ink = replace(Ink(look.marker, look.colour), is_open=speed.what != TRAINING)
        put(sheet, axes, mark, ink, speed.what)
        lines[speed.model, speed.what, speed.place].append(mark)
        named.append((mark, speed.model if speed.what == TRAINING else ""))
    if across_sizes:
        for (_, what, _), marks in lines.items():
            _connect(sheet, axes, marks, looks, _LINES[what])
    return named


def _draw_rooms(
    sheet: Sheet, axes: "Axes", rooms: Sequence[Room], looks: dict[str, Look], across_sizes: bool
) -> list[tuple[Mark, str]]:
    named = []
    lines: dict[str, list[Mark]] = defaultdict(list)
    for room in rooms:
        look = looks[room.family]
        facts = (
            ("largest batch", f"{room.batch:,} images, by formula"),
            ("whatever the batch", memory(room.fixed_bytes)),
            ("for each image", memory(room.image_bytes)),
            *_size_facts(room),
        )
        mark = Mark(_x(room, across_sizes), room.batch, room.family, room.model, room.runs, facts)
        put(sheet, axes, mark, Ink(look.marker, look.colour), "memory")
        lines[room.model].append(mark)
        named.append((mark, room.model))
    if across_sizes:
        for marks in lines.values():
            _connect(sheet, axes, marks, looks, "-")
    return named


def _size_facts(each: Speed | Room) -> tuple[tuple[str, str], ...]:
    return (("side of an image", f"{each.image_size} pixels"), ("forward pass of one image", flops(each.forward_flops)))


def _connect(sheet: Sheet, axes: "Axes", marks: Sequence[Mark], looks: dict[str, Look], dashes: Any) -> None:
    ordered = sorted(marks, key=lambda mark: (mark.x, mark.y))
    (line,) = axes.plot(
        [mark.x for mark in ordered],
        [mark.y for mark in ordered],
        color=looks[ordered[0].group].colour,
        linestyle=dashes,
        linewidth=1.0,
        alpha=0.7,
        zorder=1.5,
    )
    sheet.belongs(line, ordered[0].group)
