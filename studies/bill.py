"""The bill of a study: what each run costs, what the store has already, what is left to pay, and what will not fit."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from studies.definitions import AnyTraining, FewShot, FineTune, Train
from studies.devices import DeviceFacts
from studies.grid import Study
from studies.memory import Memory, micro_batch_of
from studies.planned import PlannedRun
from studies.searches import Params, PlannedSearch, Range, Trial, beyond, grid_points

_OVER = ("done", "pruned")
"""States that nothing more is paid for."""


@dataclass(frozen=True)
class PricedSearch:
    """A search with its price, which is known of a grid, and the most that another sampler's trials can take."""

    planned: PlannedSearch
    runs: int
    """Trainings and evaluations, without those of a point beyond the edge."""
    done: int
    """Of the runs of a grid."""
    flops: float
    flops_left: float
    images_left: int
    dearest: PlannedRun
    """The training whose step needs the most memory."""


@dataclass(frozen=True)
class Bill:
    """A study's price. FLOPs are exact; seconds and bytes are estimates."""

    runs: Sequence[tuple[PlannedRun, str | None]]
    """Each run and its state in the store; None where the store does not know it."""
    searches: Sequence[PricedSearch]
    flops: float
    """Of all runs and searches."""
    flops_saved: float
    """By trunks: what all runs would take more if each training were alone."""
    flops_watched: float
    """Of evaluations during the trainings, which is part of `flops`."""
    flops_left: float
    """Of the runs that are not done, and of searches what is not."""
    images_left: int
    device: str
    units: int
    flops_per_second: float
    """Of all units together."""
    basis: str
    memories: Mapping[str, Memory]
    """What a step of each training needs, by the training's key, the dearest of each search among them. A step holds
    its micro-batch on one unit."""
    unit_bytes: int | None
    """Memory of one unit; None where it is not known."""
    micro_batch: int | None
    """The study's bound on the images that a step has on a unit at a time."""

    def images_at_once(self, training: AnyTraining) -> int:
        """Images of a step that are on a unit at a time."""
        return micro_batch_of(training.recipe.batch, self.micro_batch)

    def memory_bytes(self, planned: PlannedRun) -> int:
        """What a step of a training needs on a unit."""
        return self.memories[planned.key].at(self.images_at_once(planned.training))

    def fits(self, planned: PlannedRun) -> bool | None:
        """Whether a training's steps fit into one unit; None where that is not known, and of an evaluation."""
        if self.unit_bytes is None or not isinstance(planned.run, Train | FineTune):
            return None
        return self.memory_bytes(planned) <= self.unit_bytes

    @property
    def misfits(self) -> Mapping[tuple[str, int], tuple[Memory, int]]:
        """Trainings that are not done and will not fit, by model and batch: what a step needs, and their number."""
        found: dict[tuple[str, int], tuple[Memory, int]] = {}
        searched = [(each.dearest, None) for each in self.searches if each.flops_left]
        for planned, state in [*self.runs, *searched]:
            if state != "done" and self.fits(planned) is False:
                name = planned.model, self.images_at_once(planned.training)
                memory, count = found.get(name, (self.memories[planned.key], 0))
                found[name] = memory, count + 1
        return found

    @property
    def seconds_left(self) -> float:
        """Estimated time for what is left."""
        return self.flops_left / self.flops_per_second

    @property
    def trainings(self) -> int:
        """Number of pre-trainings that the study asks for."""
        return sum(isinstance(planned.run, Train) for planned, _ in self.runs) - self.trunks

    @property
    def trunks(self) -> int:
        """Number of trainings that others start from and nobody asks for."""
        return sum(planned.role == "trunk" for planned, _ in self.runs)

    @property
    def finetunings(self) -> int:
        """Number of fine-tunings, but for those of searches."""
        return sum(isinstance(planned.run, FineTune) for planned, _ in self.runs)

    @property
    def evaluations(self) -> int:
        """Number of evaluations, but for those of searches."""
        return len(self.runs) - self.trainings - self.trunks - self.finetunings

    @property
    def done(self) -> int:
        """Runs whose results the store has, those of searches among them."""
        return sum(state == "done" for _, state in self.runs) + sum(each.done for each in self.searches)


def bill(
    study: Study,
    known: Mapping[str, str],
    device: DeviceFacts,
    units: int,
    measured: float | None,
    unit_bytes: int | None,
) -> Bill:
    """Price a study.

    known: state by key of the runs that the store has.
    units: how many of the device work at once.
    measured: FLOPs per second of one unit as the store saw it, preferred to the device's assumed rate.
    unit_bytes: memory of one unit, where it is known.
    """
    left = left_of(study.runs, known)
    searches = [_priced(search, known, device) for search in study.searches]
    trainings = [planned for planned in study.runs if isinstance(planned.run, Train | FineTune)]
    per_unit = measured or device.flops_per_second
    return Bill(
        runs=[(planned, known.get(planned.key)) for planned in study.runs],
        searches=searches,
        flops=sum(planned.flops for planned in study.runs) + sum(search.flops for search in searches),
        flops_saved=flops_saved(trainings),
        flops_watched=sum(planned.flops - _unwatched(planned).flops for planned in trainings),
        flops_left=sum(planned.flops for planned in left) + sum(search.flops_left for search in searches),
        images_left=sum(planned.images for planned in left) + sum(search.images_left for search in searches),
        device=device.name,
        units=units,
        flops_per_second=per_unit * units,
        basis="measured in this store" if measured else f"assumed: {device.basis}",
        memories={
            planned.key: planned.step_memory(device)
            for planned in [*trainings, *(search.dearest for search in searches)]
        },
        unit_bytes=unit_bytes,
        micro_batch=study.file.resources.micro_batch,
    )


def keys_of(study: Study) -> list[str]:
    """The runs whose states a bill wants to know: those of the study, and all that its grid searches may come to."""
    keys = [planned.key for planned in study.runs]
    for search in study.searches:
        if search.search.sampler == "grid":
            keys += [run.key for point in grid_points(search.search) for run in search.trial_runs(point)]
            keys += [run.key for point in _choosable(search) for run in search.final_runs(point)]
    return keys


def left_of(runs: Sequence[PlannedRun], known: Mapping[str, str]) -> list[PlannedRun]:
    """The runs that are still to be done: of the trunks those that a run which is to be done starts from.

    runs: each after those that it stands on.
    """
    left: list[PlannedRun] = []
    needed: set[str | None] = set()
    for planned in reversed(runs):
        if known.get(planned.key) not in _OVER and (planned.role != "trunk" or planned.key in needed):
            left.append(planned)
            needed.add(planned.upstream)
    return left[::-1]


def flops_saved(trainings: Iterable[PlannedRun]) -> float:
    """What these trainings would take more without trunks, which then nobody would need."""
    saved = 0.0
    for planned in trainings:
        if planned.role == "trunk":
            saved -= planned.flops
        elif planned.trunk is not None:
            saved += replace(planned, trunk=None).flops - planned.flops
    return saved


def _unwatched(planned: PlannedRun) -> PlannedRun:
    run = planned.training.model_copy(update={"watches": ()})
    return replace(planned, run=run, training=run)


def _choosable(search: PlannedSearch) -> list[Params]:
    """The points that a grid search may choose: its own, and those beyond its edges."""
    points = grid_points(search.search)
    trials = [Trial(point, 0.0) for point in points]
    further = [beyond(search.search, trials, trial) for trial in trials]
    return points + [point for point in further if point is not None]


def _priced(search: PlannedSearch, known: Mapping[str, str], device: DeviceFacts) -> PricedSearch:
    if search.search.sampler != "grid":
        # Nobody knows which points will be tried, so nobody can say which are done.
        space = search.search.space
        some = {name: values.low if isinstance(values, Range) else values[0] for name, values in space.items()}
        flops, images = search.flops, search.images
        return PricedSearch(search, search.runs, 0, flops, flops, images, _dearest(search.trial_runs(some), device))
    points = grid_points(search.search)
    trials = [run for point in points for run in search.trial_runs(point)]
    finals = max((search.final_runs(point) for point in points), key=_flops)
    measuring = finals
    if any(run.key in known for run in trials):  # then a choice may have been made
        begun = (search.final_runs(point) for point in _choosable(search))
        measuring = next((runs for runs in begun if any(run.key in known for run in runs)), finals)
    left = [run for run in [*trials, *measuring] if known.get(run.key) not in _OVER]
    return PricedSearch(
        planned=search,
        runs=len(trials) + len(finals),
        done=len(trials) + len(measuring) - len(left),
        flops=_flops([*trials, *finals]),
        flops_left=_flops(left),
        images_left=sum(run.images for run in left),
        dearest=_dearest(trials, device),
    )


def _flops(runs: Iterable[PlannedRun]) -> float:
    return sum(run.flops for run in runs)


def _dearest(runs: Sequence[PlannedRun], device: DeviceFacts) -> PlannedRun:
    trainings = [run for run in runs if isinstance(run.run, FineTune)]
    return max(trainings, key=lambda run: run.step_memory(device).at(run.training.recipe.batch))


def as_json(study: Study, priced: Bill) -> dict[str, Any]:
    """The bill for programs. Field names are stable; numbers are whole or have all their digits."""
    return {
        "study": study.file.name,
        "runs": [_run_as_json(planned, state, priced) for planned, state in priced.runs],
        "searches": [_search_as_json(each, priced) for each in priced.searches],
        "dropped": [{"cell": dropped.cell, "why": dropped.why} for dropped in study.dropped],
        "total": {
            "runs": len(priced.runs),
            "trainings": priced.trainings,
            "trunks": priced.trunks,
            "finetunings": priced.finetunings,
            "evaluations": priced.evaluations,
            "searches": len(priced.searches),
            "search_runs": sum(each.runs for each in priced.searches),
            "done": priced.done,
            "flops": priced.flops,
            "flops_saved": priced.flops_saved,
            "flops_watched": priced.flops_watched,
            "flops_left": priced.flops_left,
            "images_left": priced.images_left,
            "misfits": sum(count for _, count in priced.misfits.values()),
        },
        "estimate": {
            "device": priced.device,
            "units": priced.units,
            "flops_per_second": priced.flops_per_second,
            "basis": priced.basis,
            "seconds_left": priced.seconds_left,
            "unit_memory_bytes": priced.unit_bytes,
        },
    }


def _run_as_json(planned: PlannedRun, state: str | None, priced: Bill) -> dict[str, Any]:
    run, training = planned.run, planned.training
    row = {
        "key": planned.key,
        "kind": run.kind,
        "model": planned.model,
        "family": planned.family,
        "dataset": run.data.name,
        "split": run.data.split,
        "data_rows": training.data.rows,
        "epochs": planned.epochs,
        "seed": training.seed,
        "parameters": planned.parameters,
        "train_flops": planned.train_flops,
        "flops": planned.flops,
        "images": planned.images,
        "steps": planned.steps,
        "state": state or "new",
        "memory_bytes": priced.memory_bytes(planned) if isinstance(run, Train | FineTune) else None,
        "fits": priced.fits(planned),
        "role": planned.role,
        "transfer": planned.transfer,
    }
    if planned.searched:
        row["searched"] = planned.searched
    if planned.upstream is not None:
        row["upstream"] = planned.upstream
    if isinstance(run, FewShot):
        row["shots"] = list(run.shots)
    return row


def _search_as_json(each: PricedSearch, priced: Bill) -> dict[str, Any]:
    search = each.planned
    return {
        "key": search.key,
        "transfer": search.transfer,
        "model": search.pretraining.model,
        "upstream": search.search.upstream,
        "datasets": [task.whole.name for task in search.search.tasks],
        "sampler": search.search.sampler,
        "trials": search.trials,
        "runs": each.runs,
        "done": each.done,
        "flops": each.flops,
        "flops_left": each.flops_left,
        "memory_bytes": priced.memory_bytes(each.dearest),
        "fits": priced.fits(each.dearest),
    }
