"""Reads the file that says which class of a data set each class of a network is; what it is for: `Classification`."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

NONE = -1
"""Stands for no class."""


def read_mapping(path: Path, classes: int) -> tuple[int, ...]:
    """The data's class for each of the network's `classes`, -1 for those that the file leaves out.

    A CSV has a line `network class,data class` for each, and may begin with a line of names; JSON is one object,
    `{"network class": data class}`. Classes are numbers from 0.
    Raises ValueError, with file and line where there is one, for a file that cannot be read or is none of these, and a
    class that is no number, not one of the network's, or there twice.
    """
    readers = {".csv": _of_csv, ".json": _of_json}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} is neither .csv nor .json: write the mapping of classes as one of them")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ValueError(f"{path} cannot be read ({reason}): give a file that maps classes") from error
    return _mapped(readers[path.suffix.lower()](text, path), classes)


def _mapped(pairs: Iterable[tuple[str, str, str]], classes: int) -> tuple[int, ...]:
    mapping: dict[int, int] = {}
    for where, network, data in pairs:
        network_class, data_class = _class(network, where), _class(data, where)
        if not 0 <= network_class < classes:
            raise ValueError(
                f"{where}: {network_class} is no class of a network of {classes}: take one from 0 to {classes - 1}"
            )
        if network_class in mapping:
            raise ValueError(f"{where}: the class {network_class} of the network is there twice: leave one out")
        if data_class < NONE:
            raise ValueError(f"{where}: {data_class} is no class: take one from 0, or -1 for none")
        mapping[network_class] = data_class
    return tuple(mapping.get(number, NONE) for number in range(classes))


def _class(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{where}: '{text}' is no class: write its number, from 0") from None


def _of_csv(text: str, path: Path) -> Iterable[tuple[str, str, str]]:
    """Place in the file, network's class and data's class, line by line."""
    reader = csv.reader(text.splitlines())
    for fields in reader:
        if not any(field.strip() for field in fields):
            continue
        where = f"{path}:{reader.line_num}"
        if len(fields) != 2:
            raise ValueError(f"{where}: {len(fields)} fields: write a class of the network and one of the data")
        is_of_names = reader.line_num == 1 and not any(field.strip().lstrip("-").isdecimal() for field in fields)
        if not is_of_names:
            yield where, fields[0], fields[1]


def _of_json(text: str, path: Path) -> Iterable[tuple[str, str, str]]:
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: this is no JSON ({error.msg}): correct it") from None
    if not isinstance(pairs, _Pairs):
        raise ValueError(f'{path} is no object: write {{"network class": data class, ...}}')
    for network, data in pairs:
        # Whole numbers alone: `true` and 1.5 are none.
        yield f"{path}, '{network}'", network, json.dumps(data) if type(data) is not str else data


class _Pairs(list[tuple[str, object]]):
    """An object of JSON whose keys may be there twice."""
