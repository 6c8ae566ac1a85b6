"""The cells of a study's grids: which values go together, and which are left out. Not the runs that they make."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from studies.architectures import describe, describe_alterations, nearest
from studies.definitions import Recipe
from studies.language import Axes, Block, SplitEvaluation, StudyFile, validated
from studies.yaml_source import Place, Source

MOST_CELLS = 100_000
PARTS = ("architecture", "size", "patch")
"""Axes that make a model's name together."""
_LENGTHS = ("epochs", "steps")
_SHOWN = ("data", "split", "subset", "per_class", "image_size", "epochs", "steps", "seed")


@dataclass(frozen=True)
class Dropped:
    """A cell that makes no run, and why."""

    cell: str
    why: str


@dataclass(frozen=True)
class _Axis:
    """The values of one axis and where each stands in the file."""

    values: tuple[Any, ...]
    places: tuple[Place, ...]


@dataclass
class Cell:
    """One combination of values, with the place of each for error messages."""

    block: Place
    values: dict[str, Any]
    places: dict[str, Place]
    searched: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        written = self.values.get("model")
        if written is None:
            name = "{architecture}-{size}/{patch}" if self.values.get("patch") else "{architecture}{size}"
            written = name.format_map({"size": "", **self.values})
        elif isinstance(written, dict):
            written = label_of_altered(written)
        elif not isinstance(written, str):
            written = describe(written)
        shown = {name: self.values[name] for name in _SHOWN if name in self.values} | self.searched
        return " ".join([written, *(f"{name}={value}" for name, value in shown.items())])


def label_of_altered(written: Mapping[str, Any]) -> str:
    """The name of a model that is written as a `base` with fields replaced."""
    fields = {name: value for name, value in written.items() if name != "base"}
    return f"{written['base']}{describe_alterations(fields)}"


def cells(file: StudyFile, source: Source, number: int, dropped: list[Dropped]) -> Iterator[Cell]:
    """The cells of a block that are not excluded; those that are go to `dropped`.

    number: of the block.
    Raises StudyError for axes that do not go together, and for an exclusion that removes nothing.
    """
    block, place = file.grids[number], ("grids", number)
    axes = _axes_of(file, block, source, place)
    zipped = _zipped_axes(block, source, place)
    for axis in zipped:
        axes.pop(axis, None)
    _check_axes({**axes, **zipped}, source, place)
    searched = _searched_fields(file, block, source, place)
    count = len(next(iter(zipped.values())).values) if zipped else 1
    total = count
    for options in [*(axis.values for axis in axes.values()), *searched.values()]:
        total *= len(options)
    if total > MOST_CELLS:
        raise source.error(place, f"this grid has {total:,} cells; at most {MOST_CELLS:,} are allowed")
    hits = [0] * len(block.exclude)
    for row in range(count):
        for picks in itertools.product(*(range(len(axis.values)) for axis in axes.values())):
            chosen = {name: (axis, pick) for (name, axis), pick in zip(axes.items(), picks, strict=True)}
            chosen |= {name: (axis, row) for name, axis in zipped.items()}
            values = {name: axis.values[pick] for name, (axis, pick) in chosen.items()}
            places = {name: axis.places[pick] for name, (axis, pick) in chosen.items()}
            for combination in itertools.product(*searched.values()):
                cell = Cell(place, values, places, dict(zip(searched, combination, strict=True)))
                if (excluded := _excluded_by(block, values)) is None:
                    yield cell
                else:
                    hits[excluded] += 1
                    line = source.line((*place, "exclude", excluded))
                    dropped.append(Dropped(str(cell), f"excluded by line {line}"))
    for index, hit in enumerate(hits):
        if not hit:
            raise source.error((*place, "exclude", index), "this exclusion removes nothing")


def _axes_of(file: StudyFile, block: Block, source: Source, place: Place) -> dict[str, _Axis]:
    """The block's own axes over the study's defaults. Whole models and parts of names replace each other, and so do
    the two ways to say how long a training is.
    """
    own = _given(block, source, place)
    default = _given(file.defaults, source, ("defaults",))
    names = set(own) | set(block.zip or ())
    if "model" in names:
        default = {name: axis for name, axis in default.items() if name not in PARTS}
    elif names & set(PARTS):
        default.pop("model", None)
    if names & set(_LENGTHS):
        default = {name: axis for name, axis in default.items() if name not in _LENGTHS}
    return default | own


def _given(axes: Axes, source: Source, place: Place) -> dict[str, _Axis]:
    found = {}
    for name in Axes.model_fields:
        values = getattr(axes, name)
        if values is not None:
            found[name] = _axis(values, source, (*place, name))
    return found


def _axis(values: tuple[Any, ...], source: Source, place: Place) -> _Axis:
    listed = (*place, 0) in source.marks
    return _Axis(values, tuple((*place, index) if listed else place for index in range(len(values))))


def _zipped_axes(block: Block, source: Source, place: Place) -> dict[str, _Axis]:
    if block.zip is None:
        return {}
    here = (*place, "zip")
    checked = validated(Axes, {name: list(values) for name, values in block.zip.items()}, source, here)
    zipped = _given(checked, source, here)
    for name in zipped:
        if getattr(block, name) is not None:
            raise source.error((*here, name), f"'{name}' is zipped and multiplied; keep one", at_key=True)
    lengths = {len(axis.values) for axis in zipped.values()}
    if len(zipped) < 2 or len(lengths) > 1:
        shown = ", ".join(f"{name} has {len(axis.values)}" for name, axis in zipped.items())
        raise source.error(here, f"zip pairs two or more lists of one length; {shown or 'it is empty'}")
    return zipped


def _check_axes(axes: Mapping[str, _Axis], source: Source, place: Place) -> None:
    parts = [name for name in PARTS if name in axes]
    if "model" in axes and parts:
        raise source.error(axes[parts[0]].places[0], f"'{parts[0]}' has no effect beside 'model'")
    if "model" not in axes and "architecture" not in axes:
        raise source.error(place, "the grid names no architecture: give 'model', or 'architecture' and 'size'")
    if all(name in axes for name in _LENGTHS):
        raise source.error(axes["steps"].places[0], "'epochs' and 'steps' both say how long to train: keep one")
    if not any(name in axes for name in _LENGTHS):
        raise source.error(place, "the grid has no 'epochs' or 'steps': give one here or under 'defaults'")
    for name in ("data", "recipe"):
        if name not in axes:
            raise source.error(place, f"the grid has no '{name}': give it here or under 'defaults'")


def _searched_fields(file: StudyFile, block: Block, source: Source, place: Place) -> dict[str, list[Any]]:
    for name, values in (block.sweep or {}).items():
        here = (*place, "sweep", name)
        if name not in Recipe.model_fields:
            wrong = f"'{name}' is no field of a recipe{nearest(name, list(Recipe.model_fields))}"
            raise source.error(here, wrong, at_key=True)
        if len(values) < 2:
            raise source.error(here, "a sweep needs two values or more")
    if block.sweep and not any(
        isinstance(each, SplitEvaluation) and each.split == "validation" for each in file.evaluations
    ):
        wrong = "a sweep is decided on the validation split: add {kind: split, split: validation} to evaluations"
        raise source.error((*place, "sweep"), wrong, at_key=True)
    return dict(block.sweep or {})


def _excluded_by(block: Block, values: Mapping[str, Any]) -> int | None:
    for index, exclusion in enumerate(block.exclude):
        wanted = {name: getattr(exclusion, name) for name in Axes.model_fields}
        if all(values.get(name) in options for name, options in wanted.items() if options is not None):
            return index
    return None
