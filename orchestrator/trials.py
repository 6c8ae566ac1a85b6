"""A search as Optuna's tables show it: a study, and trials which are entered and told what the ledger says.

What is tried and chosen is not decided here but in `orchestrator/searching.py`.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import tenacity

from db.searches import HeldSearch
from db.store import Store, StoreError
from orchestrator.proposals import Fate, Tried, distributions, encoded
from studies.searches import Params, Search

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

POSITION = "position"
"""Of a point in its search: the user attribute of a trial by which it is found again."""
_TABLE_ATTEMPTS = 8
_BUSY_SECONDS = 30
_STARTUP_TRIALS = 3
"""So many trials must have ended before the median of their accuracies prunes another."""
_HALVING = 2
"""At each rung of successive halving one of so many goes on."""


def optuna_storage(url: str) -> "RDBStorage":
    """Optuna's tables in the store, made beside ours where they are missing.

    Of two drivers that make them at once one may fail half-way, and finds those of the other at its next attempt.
    Raises StoreError when another version of Optuna made them.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    scheme, _, place = url.partition("://")
    lite = scheme.startswith("sqlite")
    # Optuna fills in its version where it finds braces.
    address = f"{'sqlite' if lite else 'postgresql+psycopg'}://{place}".replace("{", "{{").replace("}", "}}")
    connecting: dict[str, Any] = {"connect_timeout": 10, "tcp_user_timeout": 10_000}
    if lite:
        connecting = {"timeout": _BUSY_SECONDS}
    made = tenacity.Retrying(
        retry=tenacity.retry_if_not_exception_type(RuntimeError),
        wait=tenacity.wait_random(0.05, 0.5),
        stop=tenacity.stop_after_attempt(_TABLE_ATTEMPTS),
        reraise=True,
    )
    try:
        return made(
            optuna.storages.RDBStorage, address, {"connect_args": connecting, "pool_pre_ping": True, "pool_size": 1}
        )
    except RuntimeError as error:
        raise StoreError(f"Optuna's tables in the store are of another version than this one's: {error}") from error


@contextmanager
def optuna_answers(store: Store) -> Iterator[None]:
    """What the database says to Optuna is what it says to us. Raises StoreUnreachable as `store.begin` does."""
    from optuna.exceptions import StorageInternalError

    with store.answering():
        try:
            yield
        except StorageInternalError as error:
            raise error.__cause__ or error from error


def optuna_study(storage: "RDBStorage", held: HeldSearch) -> "Study":
    """The Optuna study of a search, made where it is missing, with what its dashboard shows of it."""
    import optuna

    name, pruner = held.optuna_study, _pruner(held.planned.search)
    sampler = optuna.samplers.RandomSampler(seed=0)  # nobody asks it
    try:
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    except KeyError:
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", sampler=sampler, pruner=pruner, load_if_exists=True
        )
    data = sorted({task.whole.name for task in held.planned.search.tasks})
    shown = {"study": held.study, "transfer": held.transfer, "model": held.planned.pretraining.model, "data": data}
    known = study.user_attrs
    for attribute, value in {**shown, "search": held.key}.items():
        if known.get(attribute) != value:
            study.set_user_attr(attribute, value)
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(["development accuracy"])
    return study


def by_position(study: "Study") -> dict[int, list["FrozenTrial"]]:
    """The trials of each point, from the first point to the first one that is missing. Foreign trials are none."""
    found: dict[int, list[FrozenTrial]] = defaultdict(list)
    for trial in study.get_trials(deepcopy=False):
        if POSITION in trial.user_attrs:
            found[trial.user_attrs[POSITION]].append(trial)
    first_missing = next(position for position in range(len(found) + 1) if position not in found)
    return {position: found[position] for position in range(first_missing)}


def enter(study: "Study", held: HeldSearch, position: int, params: Params) -> None:
    """A trial appears whole, in one transaction, and never half: that is why Optuna is not asked for it."""
    from optuna.trial import TrialState, create_trial

    search = held.planned.search
    runs = [run.key[:12] for run in held.planned.trial_runs(params)]
    study.add_trial(
        create_trial(
            state=TrialState.RUNNING,
            params=encoded(search, params),
            distributions=distributions(search, params),
            user_attrs={POSITION: position, "runs": runs},
        )
    )


def mirror(study: "Study", trials: Sequence["FrozenTrial"], tried: Tried) -> bool:
    """Tell the trials of one point what became of it: entered twice, both hear the same.

    Answers whether the pruner would give the point up, which is at work.
    """
    from optuna.trial import TrialState

    hopeless = False
    for trial in trials:
        if trial.state is TrialState.RUNNING:
            hopeless |= _report(study, trial, tried)
            if tried.fate is not Fate.OPEN:
                _tell(study, trial, tried)
    return hopeless


def is_retried(trials: Sequence["FrozenTrial"], tried: Tried) -> bool:
    """All that Optuna heard of a point is that it failed, and it is wanted again."""
    from optuna.trial import TrialState

    return tried.fate is not Fate.FAILED and all(trial.state is TrialState.FAIL for trial in trials)


def _report(study: "Study", trial: "FrozenTrial", tried: Tried) -> bool:
    """Tell what was measured on the way since. Answers whether the pruner would give the trial up."""
    from optuna.trial import Trial

    live = Trial(study, trial._trial_id)
    for step in sorted(tried.looks.keys() - trial.intermediate_values.keys()):
        live.report(tried.looks[step], step)
        if tried.fate is Fate.OPEN and live.should_prune():
            return True
    return False


def _tell(study: "Study", trial: "FrozenTrial", tried: Tried) -> None:
    from optuna.trial import Trial, TrialState

    if tried.cause is not None:
        Trial(study, trial._trial_id).set_user_attr("cause", tried.cause)
    states = {Fate.MEASURED: TrialState.COMPLETE, Fate.PRUNED: TrialState.PRUNED, Fate.FAILED: TrialState.FAIL}
    study.tell(trial.number, tried.value, state=states[tried.fate], skip_if_finished=True)


def _pruner(search: Search) -> Any:
    from optuna import pruners

    if search.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS)
    if search.pruner == "halving":
        assert search.every is not None
        return pruners.SuccessiveHalvingPruner(min_resource=search.every, reduction_factor=_HALVING)
    return pruners.NopPruner()
