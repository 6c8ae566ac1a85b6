"""From what a command was given to what it works on: settings, an open store, a study or a run by name."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db import answers
    from db.store import Store
    from orchestrator.settings import Settings


def settings_of(
    store: str | None, folder: Path | None, datasets: Path | None = None, *, any_numerics: bool = False
) -> "Settings":
    """The settings, with what options of the command line said."""
    from orchestrator.settings import settings

    return replace(settings(store, folder, datasets), any_numerics=any_numerics)


@contextmanager
def opened_store(settings: "Settings", *, create: bool) -> Iterator["Store"]:
    """The store, open for the length of a block. Raises what `Store.open` raises."""
    from db.store import Store

    store = Store.open(settings.store_url, create=create)
    try:
        yield store
    finally:
        store.dispose()


@contextmanager
def study_store(settings: "Settings", name: str) -> Iterator[tuple["Store", "answers.Study"]]:
    """The store and the study of this name in it, open for the length of a block: for commands that read.

    A reference study that is not in the store, whether there is one or none, is put into one that lives as long as the
    block, and a line on stderr says where it is from. Raises what `Store.open` and `study_named` raise.
    """
    from db.store import StoreMissing
    from orchestrator.reports import NotFound
    from studies import references

    with ExitStack() as stack:
        try:
            store = stack.enter_context(opened_store(settings, create=False))
            study = study_named(store, name, also=references.names())
        except (StoreMissing, NotFound):
            if name not in references.names():
                raise
            store = stack.enter_context(_reference_store(name))
            study = study_named(store, name)
        yield store, study


@contextmanager
def _reference_store(name: str) -> Iterator["Store"]:
    """A store of its own with one reference study, gone at the end of the block."""
    from tempfile import TemporaryDirectory

    from db.store import default_url
    from orchestrator import results_import, screen
    from orchestrator.settings import settings

    with TemporaryDirectory(prefix="vitscale-") as folder:
        temporary = settings(default_url(Path(folder)), Path(folder))
        with opened_store(temporary, create=True) as store:
            reference = results_import.prepare_reference(name, name)
            results_import.put(store, reference)
            screen.say(f"{name} comes with vitscale and is not in your store: {reference.source}")
            yield store


def study_named(store: "Store", name: str, also: Sequence[str] = ()) -> "answers.Study":
    """The study of this name. Raises NotFound, with the nearest name that there is.

    also: names that the user may have meant, although they are not in the store.
    """
    from db import answers
    from orchestrator.reports import NotFound
    from studies.architectures import nearest

    with store.read() as connection:
        found = answers.study_named(connection, name)
        if found is None:
            names = [*(study.name for study in answers.studies(connection)), *also]
            cure = nearest(name, names) if names else "; begin with: vitscale submit STUDY.yaml"
            raise NotFound(f"no study '{name}' in {store.url}{cure}")
    return found


def run_named(store: "Store", prefix: str) -> "answers.Run":
    """The run whose key begins so. Raises NotFound, and ValueError when several do."""
    from db import answers
    from orchestrator.reports import NotFound

    with store.read() as connection:
        found = answers.run_named(connection, prefix)
    if not found:
        raise NotFound(f"no run whose key begins with '{prefix}' in {store.url}")
    if len(found) > 1:
        listed = ", ".join(run.key[:16] for run in found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(f"more than one key begins with '{prefix}': {listed}; give more digits")
    return found[0]
