"""The bill of a study: what each run costs, what the store has already, what is left to pay, and what will not fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studies.definitions import AnyTraining, FewShot, FineTune, Train
from studies.devices import DeviceFacts
from studies.grid import Study
from studies.memory import Memory, micro_batch_of
from studies.planned import PlannedRun


@dataclass(frozen=True)
class Bill:
    """A study's price. FLOPs are exact; seconds and bytes are estimates."""

    runs: Sequence[tuple[PlannedRun, str | None]]
    """Each run and its state in the store; None where the store does not know it."""
    flops: float
    """Of all runs."""
    flops_left: float
    """Of the runs that are not done."""
    images_left: int
    device: str
    units: int
    flops_per_second: float
    """Of all units together."""
    basis: str
    memories: Mapping[str, Memory]
    """What a step of each training needs, by the training's key. A step holds its micro-batch on one unit."""
    unit_bytes: int | None
    """Memory of one unit; None where it is not known."""
    micro_batch: int | None
    """The study's bound on the images that a step has on a unit at a time."""

    def images_at_once(self, training: AnyTraining) -> int:
        """Images of a step that are on a unit at a time."""
        return micro_batch_of(training.recipe.batch, self.micro_batch)

    def fits(self, planned: PlannedRun) -> bool | None:
        """Whether a training's steps fit into one unit; None where that is not known, and of an evaluation."""
        if self.unit_bytes is None or not isinstance(planned.run, Train | FineTune):
            return None
        return self.memories[planned.key].at(self.images_at_once(planned.run)) <= self.unit_bytes

    @property
    def misfits(self) -> Mapping[tuple[str, int], tuple[Memory, int]]:
        """Trainings that are not done and will not fit, by model and batch: what a step needs, and their number."""
        found: dict[tuple[str, int], tuple[Memory, int]] = {}
        for planned, state in self.runs:
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
        """Number of trainings."""
        return sum(isinstance(planned.run, Train) for planned, _ in self.runs)

    @property
    def done(self) -> int:
        """Runs whose results the store has."""
        return sum(state == "done" for _, state in self.runs)


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
    left = [planned for planned in study.runs if known.get(planned.key) != "done"]
    per_unit = measured or device.flops_per_second
    return Bill(
        runs=[(planned, known.get(planned.key)) for planned in study.runs],
        flops=sum(planned.flops for planned in study.runs),
        flops_left=sum(planned.flops for planned in left),
        images_left=sum(planned.images for planned in left),
        device=device.name,
        units=units,
        flops_per_second=per_unit * units,
        basis="measured in this store" if measured else f"assumed: {device.basis}",
        memories={
            planned.key: planned.step_memory(device)
            for planned in study.runs
            if isinstance(planned.run, Train | FineTune)
        },
        unit_bytes=unit_bytes,
        micro_batch=study.file.resources.micro_batch,
    )


def as_json(study: Study, priced: Bill) -> dict[str, Any]:
    """The bill for programs. Field names are stable; numbers are whole or have all their digits."""
    return {
        "study": study.file.name,
        "runs": [_run_as_json(planned, state, priced) for planned, state in priced.runs],
        "dropped": [{"cell": dropped.cell, "why": dropped.why} for dropped in study.dropped],
        "total": {
            "runs": len(priced.runs),
            "trainings": priced.trainings,
            "done": priced.done,
            "flops": priced.flops,
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
        "memory_bytes": priced.memories[planned.key].at(priced.images_at_once(run)) if isinstance(run, Train) else None,
        "fits": priced.fits(planned),
    }
    if planned.searched:
        row["searched"] = planned.searched
    if not isinstance(run, Train):
        row["upstream"] = run.upstream
    if isinstance(run, FewShot):
        row["shots"] = list(run.shots)
    return row
