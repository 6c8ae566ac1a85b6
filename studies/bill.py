"""The bill of a study: what each run costs, what the store has already, what is left to pay and how long it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studies.definitions import FewShot, Train
from studies.devices import DeviceRate
from studies.grid import Study
from studies.planned import PlannedRun


@dataclass(frozen=True)
class Bill:
    """A study's price. FLOPs are exact; seconds are an estimate."""

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


def bill(study: Study, known: Mapping[str, str], rate: DeviceRate, units: int, measured: float | None) -> Bill:
    """Price a study.

    known: state by key of the runs that the store has.
    units: how many of the device work at once.
    measured: FLOPs per second of one unit as the store saw it, preferred to the device's assumed rate.
    """
    left = [planned for planned in study.runs if known.get(planned.key) != "done"]
    per_unit = measured or rate.flops_per_second
    return Bill(
        runs=[(planned, known.get(planned.key)) for planned in study.runs],
        flops=sum(planned.flops for planned in study.runs),
        flops_left=sum(planned.flops for planned in left),
        images_left=sum(planned.images for planned in left),
        device=rate.name,
        units=units,
        flops_per_second=per_unit * units,
        basis="measured in this store" if measured else f"assumed: {rate.basis}",
    )


def as_json(study: Study, priced: Bill) -> dict[str, Any]:
    """The bill for programs. Field names are stable; numbers are whole or have all their digits."""
    return {
        "study": study.file.name,
        "runs": [_run_as_json(planned, state) for planned, state in priced.runs],
        "dropped": [{"cell": dropped.cell, "why": dropped.why} for dropped in study.dropped],
        "total": {
            "runs": len(priced.runs),
            "trainings": priced.trainings,
            "done": priced.done,
            "flops": priced.flops,
            "flops_left": priced.flops_left,
            "images_left": priced.images_left,
        },
        "estimate": {
            "device": priced.device,
            "units": priced.units,
            "flops_per_second": priced.flops_per_second,
            "basis": priced.basis,
            "seconds_left": priced.seconds_left,
        },
    }


def _run_as_json(planned: PlannedRun, state: str | None) -> dict[str, Any]:
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
    }
    if planned.searched:
        row["searched"] = planned.searched
    if not isinstance(run, Train):
        row["upstream"] = run.upstream
    if isinstance(run, FewShot):
        row["shots"] = list(run.shots)
    return row
