"""Finds images that a CSV lists with their labels. Relative paths are relative to the CSV."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from workers.data.importing.folders import images as images
from workers.data.importing.plans import SPLIT_OF_WORD, UNSPLIT, Found, Naming, Rows, named_labels
from workers.supervision import DataError

IMAGE_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "class_name", "target", "category")
SPLIT_COLUMN = "split"


def recognized(source: Path) -> bool:
    """Whether it is a file with the suffix .csv or .tsv."""
    return source.is_file() and source.suffix.lower() in (".csv", ".tsv")


def find(source: Path, naming: Naming) -> Found:
    """The images of a list, in its order. A column `split` puts them into splits.

    Labels are class names unless all are whole numbers.
    Raises DataError, with the line, for a missing file, a label that is no label, and a line with too few fields.
    """
    listed = list(_lines(source, naming))
    if not listed:
        raise DataError(f"{source} lists no image: write a line `path,label` for each")
    texts = [label for _, _, label, _ in listed]
    are_numbers = all(text.isascii() and text.isdecimal() and str(int(text)) == text for text in texts)
    label_of = None if are_numbers else named_labels(texts)
    splits: dict[str, Rows] = {}
    for line, path, text, split in listed:
        if not text:
            raise DataError(f"{source}:{line}: the image has no label: write one, or leave the line out")
        try:
            size_bytes = (source.parent / path).stat().st_size
        except OSError as error:
            raise DataError(f"{source}:{line}: {path} cannot be read ({error.strerror}): correct the path") from None
        label = int(text) if label_of is None else label_of[text]
        splits.setdefault(split, Rows()).add(path, 0, size_bytes, label, Path(path).name)
    return Found({split: rows.table() for split, rows in splits.items()}, tuple(label_of or ()))


def root_of(source: Path) -> Path:
    """What rows name files in."""
    return source.parent


def _lines(source: Path, naming: Naming) -> Iterator[tuple[int, str, str, str]]:
    """Line number, path, label and split of each image."""
    with source.open(encoding="utf-8-sig", newline="") as stream:
        first = stream.readline()
        stream.seek(0)
        reader = csv.reader(stream, delimiter="\t" if "\t" in first else "," if "," in first else ";")
        places: tuple[int, int, int | None] | None = None
        try:
            for fields in reader:
                if not any(fields):
                    continue
                if places is None:
                    places, is_header = _places(fields, naming, source)
                    if is_header:
                        continue
                image, label, split = places
                if len(fields) <= max(image, label, split or 0):
                    raise DataError(f"{source}:{reader.line_num}: expected a path and a label, found {fields}")
                yield reader.line_num, fields[image], fields[label].strip(), _split(fields, split)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{source}:{reader.line_num + 1}: not a CSV in UTF-8 ({error}): save it as one") from error


def _places(fields: Sequence[str], naming: Naming, source: Path) -> tuple[tuple[int, int, int | None], bool]:
    """Where path, label and split are in a line, and whether the first line names them."""
    lower = [field.strip().lower() for field in fields]

    def place(given: str | None, usual: Sequence[str]) -> int | None:
        if given is not None:
            if given.lower() not in lower:
                raise DataError(f"{source} has no column '{given}' among {', '.join(fields)}: correct the name")
            return lower.index(given.lower())
        return next((lower.index(name) for name in usual if name in lower), None)

    image, label = place(naming.image, IMAGE_COLUMNS), place(naming.label, LABEL_COLUMNS)
    if image is not None and label is not None:
        return (image, label, lower.index(SPLIT_COLUMN) if SPLIT_COLUMN in lower else None), True
    if image is not None or label is not None:
        raise DataError(
            f"{source}: columns of paths and labels are not both known by their names {', '.join(fields)}: name them"
            " with --image and --label"
        )
    return (0, 1, None), False


def _split(fields: Sequence[str], place: int | None) -> str:
    name = UNSPLIT if place is None else fields[place].strip().lower()
    return SPLIT_OF_WORD.get(name, name)
