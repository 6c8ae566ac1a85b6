"""Finds images in a tree of one folder a class, with or without folders train/, val/ and test/ above, and reads them.

Classes and images have the order that torchvision's ImageFolder gives them: class names sorted; in a class folders
sorted, then files.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from workers.data.importing.plans import (
    HIDDEN,
    SPLIT_OF_WORD,
    SUFFIXES,
    UNSPLIT,
    Found,
    Naming,
    Row,
    Rows,
    is_hidden,
    named_labels,
)
from workers.supervision import DataError


def recognized(source: Path) -> bool:
    """Whether it is a folder of folders."""
    return source.is_dir() and bool(_folders(source))


def find(source: Path, naming: Naming) -> Found:
    """All images of a tree, in order.

    Raises DataError for a tree without images, a class without images, and a link that leads out of the tree.
    """
    if naming != Naming():
        raise ValueError("a tree of folders has no columns: leave --image and --label out")
    ignored: Counter[str] = Counter()
    folders = _splits(source)
    label_of = named_labels(name for folder in folders.values() for name in _folders(folder))
    splits, seen = {}, set()
    root = source.resolve()
    for split, folder in folders.items():
        rows = Rows()
        for name in _loose(folder):
            ignored[f"{_kind(name)} outside of class folders"] += 1
        for name in _folders(folder):
            _check_link(folder / name, root)
            for file, size_bytes in _files(folder / name, root, ignored):
                rows.add(file.relative_to(source).as_posix(), 0, size_bytes, label_of[name], file.name)
                seen.add(name)
        if len(table := rows.table()):
            splits[split] = table
    if not splits:
        raise DataError(f"{source} holds no image in class folders: give the folder above one folder for each class")
    if empty := sorted(set(label_of) - seen):
        raise DataError(f"{source}: the class folder '{empty[0]}' holds no image: fill it, or remove it")
    return Found(splits, tuple(label_of), ignored=ignored)


def root_of(source: Path) -> Path:
    """What rows name files in."""
    return source


def images(root: Path, rows: Iterable[Row], naming: Naming) -> Iterator[bytes]:
    """The bytes of each file. Raises DataError for one that is gone or has another size by now."""
    for row in rows:
        file = root / row.file
        try:
            with file.open("rb", buffering=0) as stream:
                encoded = stream.readall()
        except OSError as error:
            raise DataError(f"{file} cannot be read ({error.strerror}): put it back as it was") from error
        if len(encoded) != row.size_bytes:
            raise DataError(
                f"{file} has {len(encoded):,} bytes and had {row.size_bytes:,} when the import began: put it back as it"
                " was, or remove what was imported and begin again"
            )
        yield encoded


def _splits(source: Path) -> dict[str, Path]:
    """The folder of each split; the source itself when it has none."""
    names = _folders(source)
    if not names or not all(name.lower() in SPLIT_OF_WORD for name in names):
        return {UNSPLIT: source}
    if not any(_folders(source / name) for name in names):
        return {UNSPLIT: source}  # classes that are called as splits are
    splits: dict[str, Path] = {}
    for name in names:
        split = SPLIT_OF_WORD[name.lower()]
        if split in splits:
            raise DataError(f"{source} has two folders for the split {split}: {splits[split].name} and {name}")
        splits[split] = source / name
    return splits


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir())


def _loose(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.is_dir()]


def _files(folder: Path, root: Path, ignored: Counter[str]) -> Iterator[tuple[Path, int]]:
    """Images below a folder with their sizes in bytes; others are counted."""
    below = []
    for place, folders, _ in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in folders:
            _check_link(Path(place, name), root)
        below.append(place)
    for place in sorted(below):
        with os.scandir(place) as entries:
            found = sorted((entry for entry in entries if not entry.is_dir()), key=lambda entry: entry.name)
        for entry in found:
            if is_hidden(entry.name) or os.path.splitext(entry.name)[1].lower() not in SUFFIXES:  # noqa: PTH122 (speed)
                ignored[_kind(entry.name)] += 1
                continue
            if entry.is_symlink():
                _check_link(Path(entry.path), root)
            yield Path(entry.path), entry.stat().st_size


def _check_link(path: Path, root: Path) -> None:
    """Raise DataError for a link that leads out of the tree, to nothing, or back to a folder above itself."""
    if not path.is_symlink():
        return
    target = path.resolve()
    if not target.is_relative_to(root):
        raise DataError(f"{path} is a link out of the tree, to {target}: copy the file, or list it in a CSV")
    if not target.exists() or path.absolute().parent.resolve().is_relative_to(target):
        raise DataError(f"{path} is a link to {target}, which is not there or holds the link: remove it")


def _kind(name: str) -> str:
    return HIDDEN if is_hidden(name) else Path(name).suffix.lower() or "no suffix"
