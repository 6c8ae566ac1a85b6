"""Whether the rows of a capsule can be true: keys are those of their definitions, and all that is named is there.

Digests say that a capsule is as it was written; this says that its results belong to the runs that they claim. Who
made it is not known: a value itself can only be believed, or computed again.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from db.exported import ExternalRecord, MeasurementRecord, ResultRecord, RunRecord, StudyTables
from db.tables import TRAININGS, SearchState, State
from orchestrator.capsule_files import CapsuleError
from studies.definitions import REVISION, canonical_json

_KINDS = (*TRAININGS, "evaluate", "fewshot")
_BELOW = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
"""A path that stays below where it begins."""
_NAMED = ("attempts", "measurements", "results", "links")
"""Tables whose rows belong to a run."""


def check(tables: StudyTables) -> None:
    """Raise CapsuleError, with the first thing that cannot be."""
    if len(tables.study) != 1:
        raise CapsuleError(f"it holds {len(tables.study)} studies, and a capsule is of one")
    _once("run", (run.key for run in tables.runs))
    runs = {run.key: run for run in tables.runs}
    configurations: dict[str, str] = {}
    for run in tables.runs:
        configurations[run.key] = _checked_run(run, configurations)
    for table in _NAMED:
        for row in getattr(tables, table):
            if row.key not in runs:
                raise CapsuleError(f"its {table} name a run {row.key[:12]} that it does not hold")
    _once("link", (link.key for link in tables.links))
    _once("result", ((each.key, each.metric, each.dataset, each.split) for each in tables.results))
    _once("attempt", ((each.key, each.fence) for each in tables.attempts))
    _check_searches(tables, runs)
    _once("imported result", (each.key for each in tables.external))
    for imported in tables.external:
        if imported.said.key != imported.key:
            raise _forged("imported result", imported.key)
    _once("law", (law.key for law in tables.laws))
    values: tuple[ResultRecord | MeasurementRecord | ExternalRecord, ...] = tables.results
    for each in (*values, *tables.measurements, *tables.external):
        if each.value is not None and not math.isfinite(each.value):
            raise CapsuleError(f"the {each.metric} of {each.key[:12]} is no finite number, which is written as missing")


def _once(what: str, keys: Iterable[Any]) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise CapsuleError(f"it holds a {what} twice: {key}")
        seen.add(key)


def _checked_run(run: RunRecord, configurations: Mapping[str, str]) -> str:
    """The configuration of a run, computed anew. configurations: of those that come before it."""
    definition = _read("run", run.key, run.definition)
    revision = next((each for each in range(1, REVISION + 1) if _key(definition, each) == run.key), None)
    if revision is None:
        raise _forged("run", run.key)
    says = {
        "kind": definition.get("kind"),
        "dataset": _of(definition, "data", "name"),
        "split": _of(definition, "data", "split"),
        "image_size": definition.get("image_size"),
        **({"seed": definition.get("seed")} if run.kind in TRAININGS else {}),
        **({"upstream": definition.get("upstream")} if run.kind != "train" else {}),
    }
    for field, value in says.items():
        if getattr(run, field) != value:
            here = getattr(run, field)
            raise CapsuleError(f"the run {run.key[:12]} has the {field} {here!r}, and its definition {value!r}")
    if run.kind not in _KINDS or run.state not in set(State):
        raise CapsuleError(f"the run {run.key[:12]} is of a kind or in a state that this vitscale does not know")
    if (run.upstream is not None or run.kind != "train") and run.upstream not in configurations:
        raise CapsuleError(f"the run {run.key[:12]} stands on {run.upstream}, which does not come before it")
    if run.checkpoint is not None and not _BELOW.fullmatch(run.checkpoint):
        raise CapsuleError(
            f"the run {run.key[:12]} has its weights at {run.checkpoint[:200]!r}, which is no place below"
        )
    configuration = _configuration(definition, revision, configurations)
    if configuration != run.configuration:
        raise CapsuleError(f"the configuration of the run {run.key[:12]} is not that of its definition")
    return configuration


def _configuration(definition: dict[str, Any], revision: int, configurations: Mapping[str, str]) -> str:
    """As `studies.definitions.configuration_of`, of a definition that may be older than this program."""
    fields = dict(definition)
    if fields["kind"] in TRAININGS:
        del fields["seed"]
    if fields["kind"] != "train":
        fields["upstream"] = configurations[fields["upstream"]]
    return _digest({"revision": revision, "configuration": fields})


def _check_searches(tables: StudyTables, runs: Mapping[str, RunRecord]) -> None:
    _once("search", (search.key for search in tables.searches))
    for search in tables.searches:
        definition = _read("search", search.key, search.definition)
        if _digest(definition) != search.key:
            raise _forged("search", search.key)
        if search.upstream not in runs or search.upstream != definition.get("upstream"):
            raise CapsuleError(f"the search {search.key[:12]} stands on a run that is not in it")
        if search.state not in set(SearchState):
            raise CapsuleError(f"the search {search.key[:12]} is in a state that this vitscale does not know")


def _read(what: str, key: str, definition: str) -> dict[str, Any]:
    """Not by the classes of today: a definition may be older than a field of theirs, and its key is of what it says."""
    try:
        read = json.loads(definition)
        if not isinstance(read, dict) or canonical_json(read) != definition:
            raise ValueError
    except (ValueError, RecursionError) as error:
        raise _forged(what, key) from error
    return read


def _of(definition: Mapping[str, Any], part: str, field: str) -> Any:
    found = definition.get(part)
    return found.get(field) if isinstance(found, dict) else None


def _forged(what: str, key: str) -> CapsuleError:
    return CapsuleError(f"the {what} {key[:12]} is not what its key says: the capsule is damaged or forged")


def _key(definition: Any, revision: int) -> str:
    return _digest({"revision": revision, "run": definition})


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
