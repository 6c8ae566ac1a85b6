"""What figures draw, from the store: points with the trainings they stand on. Nothing here draws, nothing writes."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from db import answers, frontiers
from db.frontiers import Point, Series
from db.store import Store
from db.tables import TRAININGS
from orchestrator.frontier_reports import Question, chosen_series
from orchestrator.reports import NotFound
from studies.definitions import RUN, FineTune, Train
from studies.metrics import fewshot_accuracy
from studies.models import ViT

_SHOTS = (5, 10, 1, 25)
"""Few-shot metrics in the order in which papers prefer them."""


@dataclass(frozen=True)
class Trained:
    """A point of a series and the pre-training that it stands on."""

    point: Point
    pretraining: Train | None
    """Of its first seed; None of an imported result."""


@dataclass(frozen=True)
class Material:
    """What a figure draws."""

    title: str
    series: Series
    rows: list[Trained]
    notes: tuple[str, ...]
    """What was chosen or left out, a sentence each."""


def of_transfer(store: Store, study: answers.Study, asked: Question) -> Material:
    """Points of a transfer, each with the size of the data set of its pre-training.

    Raises NotFound when the study has none, ValueError when it has several.
    """
    with store.read() as connection:
        transfers = {each.transfer for each in frontiers.series_of(connection, study.id) if each.transfer}
    if asked.kind is None and asked.metric is None:
        if not transfers:
            raise NotFound(f"{study.name} has no results of a transfer: add --kind evaluate for its pre-trained models")
        if len(transfers) > 1:
            raise ValueError(
                f"{study.name} has more than one transfer: choose with --kind {', '.join(sorted(transfers))}"
            )
        asked = _with(asked, kind=next(iter(transfers)))
    material = _points(store, study, asked)
    return _with_sizes(study, material)


def of_fewshot(store: Store, study: answers.Study, asked: Question) -> Material:
    """Few-shot accuracies, each with the images that were trained on. Raises NotFound when the study has none."""
    with store.read() as connection:
        known = {each.metric for each in frontiers.series_of(connection, study.id) if each.kind == "fewshot"}
    if asked.metric is None and asked.kind in (None, "fewshot"):
        if not known:
            raise NotFound(f"{study.name} has no few-shot results: add --kind evaluate for accuracies")
        preferred = [metric for metric in map(fewshot_accuracy, _SHOTS) if metric in known]
        asked = _with(asked, kind="fewshot", metric=(preferred or sorted(known))[0])
    return _with_sizes(study, _points(store, study, asked))


def of_shape(store: Store, study: answers.Study, asked: Question) -> Material:
    """Points of plain transformers with their shapes. Raises NotFound when there are none."""
    material = _points(store, study, asked)
    rows = [row for row in material.rows if row.pretraining and isinstance(row.pretraining.model, ViT)]
    if not rows:
        raise NotFound(f"{study.name} has no plain transformer of a known shape with a result")
    return Material(material.title, material.series, rows, material.notes)


def of_scaling(store: Store, study: answers.Study, asked: Question) -> Material:
    """Points whose cost, parameters and images in the data set are known. Raises NotFound when there are none."""
    material = _points(store, study, asked)
    rows = [row for row in material.rows if row.point.parameters and row.point.data_rows]
    if not rows:
        raise NotFound(f"{study.name} has no result with a known number of parameters and images in the data set")
    return _without(material, rows, "no known number of parameters or of images in the data set")


def _with_sizes(study: answers.Study, material: Material) -> Material:
    rows = [row for row in material.rows if row.point.data_rows]
    if not rows:
        raise NotFound(f"{study.name} has no result with a known number of images in the data set of the pre-training")
    sizes = {row.point.data_rows for row in rows}
    if len(sizes) < 2:
        raise NotFound(
            f"all results of {study.name} are of {sizes.pop():,} images of pre-training: a line needs two such sizes"
        )
    return _without(material, rows, "no known number of images in the data set")


def _without(material: Material, rows: list[Trained], why: str) -> Material:
    left = len(material.rows) - len(rows)
    notes = (*material.notes, f"left out, with {why}: {left}") if left else material.notes
    return Material(material.title, material.series, rows, notes)


def _with(asked: Question, **fields: str) -> Question:
    return Question(**{**vars(asked), **fields})


# -------------------------------------------------------------------------------------------------------------- points


def _points(store: Store, study: answers.Study, asked: Question) -> Material:
    """The points of the series that is asked for, of a sweep's candidates only the one that validation chose."""
    with store.read() as connection:
        series, notes = chosen_series(connection, study, asked.wanted)
        points = frontiers.points_of(connection, series, asked.axis, asked.prices)
        runs = answers.runs_of(connection, study.id)
    if not points:
        raise NotFound(f"{study.name} has nothing to draw: no configuration has a finite value and a cost")
    kept = chosen_alone(store, study, points)
    if len(kept) < len(points):
        notes = (*notes, f"Of each sweep the choice by validation is drawn; {len(points) - len(kept)} others are not.")
    by_key = {run.key: run for run in runs}
    return Material(study.title, series, [Trained(point, pretraining_of(point, by_key)) for point in kept], notes)


def chosen_alone(store: Store, study: answers.Study, points: Sequence[Point]) -> list[Point]:
    """Without the candidates that a sweep's validation did not choose, where there is a validation split."""
    from orchestrator import sweep_reports

    if all(point.sweep is None for point in points):
        return list(points)
    try:
        spelled = sweep_reports.report(store, study).spelled
    except NotFound:
        return list(points)
    chosen = {sweep.key: sweep.chosen.configuration for sweep in spelled}
    return [point for point in points if chosen.get(point.sweep or "", point.training) == point.training]


def pretraining_of(point: Point, runs: dict[str, answers.Run]) -> Train | None:
    """The pre-training behind a point's first seed: what its evaluation, or its fine-tuning, waited for."""
    run = runs.get(point.runs[0])
    while run is not None:
        definition = training_of(run)
        if isinstance(definition, Train):
            return definition
        run = runs.get(run.upstream or "")
    return None


def training_of(run: answers.Run) -> Train | FineTune | None:
    """The definition of a training; None of an evaluation, and of what an older version wrote in another form."""
    if run.kind not in TRAININGS:
        return None
    try:
        definition = RUN.validate_json(run.definition)
    except ValidationError:
        return None
    assert isinstance(definition, Train | FineTune)
    return definition
