"""A user's own data sets: reads `datasets.yaml`, checks all of it, and puts the built-in sets beside them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationError

from studies.architectures import nearest
from studies.datasets import BUILT_IN, DataSet, Files, Part, SplitUse, generated
from studies.frozen import Frozen
from studies.known_sizes import KNOWN_SIZES
from studies.language import NAME, validated
from studies.procedural import Shapes
from studies.yaml_source import Place, Source, read


def check_name(name: str) -> None:
    """Raise ValueError for a name that no data set or split of a user can have."""
    if name in BUILT_IN:
        raise ValueError(f"'{name}' is built in: choose another name")
    if not re.fullmatch(NAME, name):
        wrong = "is no name of a data set or split: begin with a small letter or digit; then -, _ and . may follow"
        raise ValueError(f"'{name}' {wrong}")


class FilesEntry(Frozen):
    """A data set in Parquet shards, as the registry has it."""

    location: str
    """Folder, relative to the registry's, or a URI that `pyarrow.fs` opens."""
    index: str | None = None
    """Where the index is; beside the shards without it."""
    classes: Annotated[int, Field(ge=2)]
    channels: PositiveInt = 3
    image_size: PositiveInt | None = None
    multi_label: bool = False
    bad_rows: Literal["fail", "skip"] = "fail"
    source: str = ""
    development: str | None = None
    """A share of `train`, as `2%`, that hyper-parameters are chosen on: it makes the splits `development` and
    `remaining`."""
    splits: Annotated[dict[str, SplitUse], Field(min_length=1)]


class GeneratedEntry(Frozen):
    """A generated data set, as the registry has it."""

    procedural: Shapes


class RegistryFile(Frozen):
    """The registry as it is written."""

    datasets: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Registry:
    """The data sets that a command or a worker knows."""

    sets: Mapping[str, DataSet]
    file: Path | None
    """Where the user's own are; None when there is no such file."""

    def get(self, name: str) -> DataSet:
        """The data set of this name. Raises ValueError with the nearest valid name, and where names come from."""
        if name not in self.sets:
            where = "" if self.file else "; no datasets.yaml was found"
            raise ValueError(f"'{name}' is no data set{nearest(name, list(self.sets))}{where}")
        return self.sets[name]

    def own(self, name: str) -> DataSet | None:
        """The set of this name with images, if there is one: one known by its sizes may still be added."""
        found = self.sets.get(name)
        return None if found is None or found.origin is None else found


BUILT_IN_ONLY = Registry(KNOWN_SIZES | BUILT_IN, None)


def load_registry(path: Path | None) -> Registry:
    """The built-in data sets and those of a registry file; a file that does not exist has none.

    Raises StudyError at the first fault, as `file:line:column: what is wrong`.
    """
    if path is None or not path.exists():
        return BUILT_IN_ONLY
    source = read(path)
    if source.data is None:
        return Registry(KNOWN_SIZES | BUILT_IN, path)
    written = validated(RegistryFile, source.data, source, ())
    own = {}
    for name, fields in written.datasets.items():
        _check_name(name, source, ("datasets", name))
        own[name] = _data_set(name, fields, path.absolute().parent, source)
    sizes = {name: each for name, each in KNOWN_SIZES.items() if name not in own}
    return Registry(sizes | BUILT_IN | own, path)


def _check_name(name: str, source: Source, place: Place) -> None:
    try:
        check_name(name)
    except ValueError as error:
        raise source.error(place, str(error), at_key=True) from None


def _data_set(name: str, fields: dict[str, Any], folder: Path, source: Source) -> DataSet:
    place = ("datasets", name)
    if "procedural" in fields:
        return generated(name, validated(GeneratedEntry, fields, source, place).procedural)
    entry = validated(FilesEntry, fields, source, place)
    for split in entry.splits:
        _check_name(split, source, (*place, "splits", split))
    splits = dict(entry.splits)
    if entry.development is not None:
        if "train" not in splits or {"development", "remaining"} & set(splits):
            wrong = "development makes the splits 'development' and 'remaining' of 'train': name these otherwise"
            raise source.error((*place, "development"), wrong)
        splits["development"] = Part(of="train", stop=entry.development)
        splits["remaining"] = Part(of="train", start=entry.development)
    try:
        return DataSet(
            name=name,
            origin=Files(
                location=_absolute(entry.location, folder),
                index=None if entry.index is None else _absolute(entry.index, folder),
            ),
            splits=splits,
            classes=entry.classes,
            channels=entry.channels,
            image_size=entry.image_size,
            multi_label=entry.multi_label,
            bad_rows=entry.bad_rows,
            source=entry.source,
        )
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        cause = detail.get("ctx", {}).get("error")
        raise source.error((*place, "splits"), str(cause) if cause else detail["msg"]) from None


def _absolute(location: str, folder: Path) -> str:
    return location if "://" in location else str(folder / location)
