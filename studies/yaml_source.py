"""Reads a YAML file into plain data that remembers where each value stands, and refuses files that are no study.

YAML 1.2, so `3e-4` is a number and `no` is text. Nothing is constructed but mappings, lists, text and numbers.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_BYTES = 256 * 1024
MOST_NODES = 100_000
MOST_DEPTH = 30

_PLAIN_TAGS = {"map", "seq", "str", "int", "float", "bool", "null"}

Place = tuple[str | int, ...]
"""The keys and indices that lead to a value: ('grids', 0, 'patch')."""


class StudyError(ValueError):
    """A study file that cannot be used. Its text is `file:line:column: what is wrong`."""


@dataclass
class Source:
    """The content of a file as plain data, and the line and column of each value and key in it."""

    file: str
    data: Any = None
    marks: dict[Place, tuple[int, int]] = field(default_factory=dict)
    key_marks: dict[Place, tuple[int, int]] = field(default_factory=dict)

    def error(self, place: Place, message: str, *, at_key: bool = False) -> StudyError:
        """The error to raise for the value (or the key) at this place, or at the nearest enclosing one that exists."""
        known = place
        while known and known not in self.marks:
            known = known[:-1]
        marks = self.key_marks if at_key and known in self.key_marks else self.marks
        line, column = marks.get(known, (0, 0))
        return StudyError(f"{self.file}:{line + 1}:{column + 1}: {message}")

    def line(self, place: Place) -> int:
        """The line of a value, counted from 1."""
        return self.marks[place][0] + 1


def read(path: Path, shown: str | None = None) -> Source:
    """Read a file.

    shown: how messages name the file.
    Raises StudyError for text that is not UTF-8 or not YAML, for tags, cycles, and for files beyond the limits above.
    """
    source = Source(file=shown or str(path))
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MOST_BYTES:
            raise source.error(
                (), f"the file has {size_bytes:,} bytes; a study has at most {MOST_BYTES:,} (is this a study file?)"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise StudyError(f"{source.file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise source.error((), f"byte {error.start} is not UTF-8 text") from None
    source.marks[()] = (0, 0)
    source.data = _Reader(source).plain(_parse(source, text), (), ())
    return source


def _parse(source: Source, text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
        problem = (error.problem or error.context or "not YAML").splitlines()[0].split(" with value ")[0]
        raise StudyError(f"{source.file}:{where}: {problem}") from None
    except YAMLError as error:
        raise source.error((), f"not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise source.error((), f"nested too deeply; a study nests at most {MOST_DEPTH} levels") from None
    except TypeError:  # ruamel puts it into a dictionary
        raise source.error(
            (), "a list or a mapping stands where a key is expected: is there a colon too many?"
        ) from None
    except ValueError as error:  # ruamel lets int() and date errors through
        raise source.error((), f"not YAML: {error}") from None


class _Reader:
    """Copies ruamel's nodes into plain data, noting positions."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.nodes = 0

    def plain(self, node: Any, place: Place, above: tuple[int, ...]) -> Any:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise self.source.error(place, f"aliases expand to more than {MOST_NODES:,} values")
        if len(above) >= MOST_DEPTH:
            raise self.source.error(place, f"nested too deeply; a study nests at most {MOST_DEPTH} levels")
        if id(node) in above:
            raise self.source.error(place, "this alias contains itself")
        tag = getattr(getattr(node, "tag", None), "value", None)
        if tag is not None and str(tag).removeprefix("tag:yaml.org,2002:") not in _PLAIN_TAGS:
            raise self.source.error(place, f"the tag '{tag}' is not allowed; write plain values")
        if isinstance(node, dict):
            return self._mapping(node, place, (*above, id(node)))
        if isinstance(node, list):
            return self._list(node, place, (*above, id(node)))
        return self._scalar(node, place)

    def _mapping(self, node: Any, place: Place, above: tuple[int, ...]) -> dict[str, Any]:
        plain = {}
        for key, value in node.items():
            inner = (*place, str(key))
            if key in node.lc.data:
                self.source.marks[inner] = node.lc.value(key)
                self.source.key_marks[inner] = node.lc.key(key)
            else:  # came through a merge key
                self.source.marks[inner] = self.source.marks[place]
            if not isinstance(key, str):
                raise self.source.error(inner, f"the key {key!r} is not text; put it in quotes", at_key=True)
            plain[str(key)] = self.plain(value, inner, above)
        return plain

    def _list(self, node: Any, place: Place, above: tuple[int, ...]) -> list[Any]:
        plain = []
        for index, value in enumerate(node):
            inner = (*place, index)
            self.source.marks[inner] = node.lc.item(index)
            plain.append(self.plain(value, inner, above))
        return plain

    def _scalar(self, node: Any, place: Place) -> Any:
        if node is None or isinstance(node, bool):
            return node
        for kind in (str, int, float):
            if isinstance(node, kind):
                return kind(node)
        if type(node).__name__ == "ScalarBoolean":
            return bool(node)
        raise self.source.error(place, f"a {type(node).__name__} is not allowed here; put it in quotes to make it text")
