"""Writes a user's registry of data sets: entries change, comments stay, and a kill leaves the old file or the new one.

`studies/registry.py` says what the file holds, and reads it.
"""

import fcntl
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

from studies.architectures import nearest
from studies.registry import check_name, load_registry
from studies.yaml_source import StudyError, read
from workers import durable

LOCK_SECONDS = 30.0
"""How long to wait for another command that writes the same file: it needs milliseconds."""
_HEADER = "# Data sets by name: docs/data-sets.md explains the fields. `vitscale data` keeps your comments.\n"


Change = Callable[[dict[str, Any]], None]


def add_data_set(registry_path: Path, name: str, entry: dict[str, Any], *, replace: bool = False) -> None:
    """Add a data set at the end of a registry, which is made where there is none.

    entry: fields of `studies.registry.FilesEntry` or `GeneratedEntry`; those that are None are left out.
    replace: take the place of a data set of this name.
    Raises ValueError for a name that is taken or impossible and for a field that is wrong, and StudyError for a file
    that is no registry; then nothing is written.
    """
    check_name(name)
    entry = _without_none(entry)

    def add(written: dict[str, Any]) -> None:
        sets = written["datasets"]
        if name in sets and not replace:
            raise ValueError(f"'{name}' is a data set of {registry_path} already: choose another name")
        sets[name] = entry if type(written) is dict else _styled(entry)

    _change(registry_path, add)


def add_split(registry_path: Path, name: str, split: str, entry: dict[str, Any], *, replace: bool = False) -> None:
    """Add a split to a data set of a registry.

    entry: fields of one of the splits of `studies.datasets`.
    Raises ValueError for a data set that is not there or a split that is, and what `add_data_set` raises.
    """

    def add(written: dict[str, Any]) -> None:
        splits = _splits_of(written, registry_path, name)
        if split in splits and not replace:
            raise ValueError(f"{name} has a split '{split}' in {registry_path} already: choose another name")
        splits[split] = entry if type(written) is dict else _in_a_line(entry)

    _change(registry_path, add)


def set_bad(registry_path: Path, name: str, split: str, drop: dict[str, Any], *, skip: bool = False) -> None:
    """Say which rows of a stored split cannot be decoded.

    drop: fields of `studies.datasets.DropList`.
    skip: trainings leave such rows out from now on.
    Raises ValueError for a data set or split that is not there, and what `add_data_set` raises.
    """

    def note(written: dict[str, Any]) -> None:
        splits = _splits_of(written, registry_path, name)
        if split not in splits:
            raise ValueError(f"'{split}' is no split of {name} in {registry_path}{nearest(split, list(splits))}")
        splits[split]["bad"] = drop if type(written) is dict else _in_a_line(drop)
        if skip:
            written["datasets"][name]["bad_rows"] = "skip"

    _change(registry_path, note)


def drops_folder(registry_path: Path) -> Path:
    """Where lists of left out rows are: beside the registry, so that a relative name reaches them."""
    return registry_path.absolute().parent / "drops"


# ---------------------------------------------------------------------------------------------------------- changing


def _splits_of(written: dict[str, Any], registry_path: Path, name: str) -> dict[str, Any]:
    sets = written["datasets"]
    if name not in sets:
        raise ValueError(f"'{name}' is no data set of {registry_path}{nearest(name, list(sets))}")
    if "splits" not in sets[name]:
        raise ValueError(f"'{name}' is generated: its splits are always the same")
    splits: dict[str, Any] = sets[name]["splits"]
    return splits


def _change(registry_path: Path, change: Change) -> None:
    """Apply a change to the file, as one step that no reader sees half of."""
    file = registry_path.resolve()  # a link stays a link
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file):
        load_registry(registry_path)  # a file with a fault is for its owner to mend
        text = file.read_bytes().decode("utf-8-sig") if file.exists() else _HEADER
        due = deepcopy(read(file).data) if file.exists() else None
        due = {"datasets": {}} if due is None else due
        due.setdefault("datasets", {})
        change(due)
        new = file.with_name(f".{file.name}.new")
        try:
            durable.write(new, _changed(text, change).encode())
            if file.exists():
                shutil.copymode(file, new)
            _check(new, registry_path, due)
            new.replace(file)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        durable.sync_names(file.parent)


def _changed(text: str, change: Change) -> str:
    """The text of a registry with a change, comments and order kept."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.util import load_yaml_guess_indent

    if "\r\n" in text:
        return _changed(text.replace("\r\n", "\n"), change).replace("\n", "\r\n")
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 1 << 20  # lines stay as long as they are
    _, sequence, offset = load_yaml_guess_indent(text)
    mapping = re.search(r"^datasets:.*\n(?: *(?:#.*)?\n)*( +)[^ #]", text, re.MULTILINE)
    yaml.indent(mapping=len(mapping[1]) if mapping else 2, sequence=sequence or 2, offset=offset or 0)
    written = yaml.load(text)
    before = ""
    if written is None:  # nothing but comments, which belong to no value
        before, written = text if not text or text.endswith("\n") else f"{text}\n", CommentedMap()
    if not written.get("datasets"):
        written["datasets"] = CommentedMap()  # an empty `{}` would keep all that comes on its line
    change(written)
    stream = StringIO()
    yaml.dump(written, stream)
    return before + stream.getvalue()


def _check(new: Path, registry_path: Path, due: dict[str, Any]) -> None:
    """Raise ValueError unless the file that is to come is a registry and differs by what was meant alone."""
    try:
        load_registry(new)
    except StudyError as error:
        fault = str(error).removeprefix(f"{new}:").partition(": ")[2]
        raise ValueError(f"{registry_path} was not changed, because the new entry would be wrong: {fault}") from None
    if read(new).data != due:
        raise ValueError(
            f"{registry_path}: the entry shares fields with another by an anchor, and both would change: write it out"
        )


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of a registry. It lies in a file of its own, because the registry is replaced; a kill frees it."""
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{file}: another command has been writing it for {LOCK_SECONDS:.0f} s: look for one that hangs"
                    ) from None
                time.sleep(0.02)
        yield


# ------------------------------------------------------------------------------------------------------------- style


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _styled(entry: dict[str, Any]) -> Any:
    """An entry as YAML writes it: one line a field, and one line a split."""
    from ruamel.yaml.comments import CommentedMap

    styled = CommentedMap()
    for key, value in entry.items():
        if key == "splits":
            styled[key] = CommentedMap((split, _in_a_line(fields)) for split, fields in value.items())
        else:
            styled[key] = _in_a_line(value)
    return styled


def _in_a_line(value: Any) -> Any:
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, dict):
        mapping = CommentedMap((key, _in_a_line(inner)) for key, inner in value.items())
        mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list | tuple):
        sequence = CommentedSeq(_in_a_line(inner) for inner in value)
        sequence.fa.set_flow_style()
        return sequence
    return value
