"""What a study measures of each pre-training, on the way and of the trained network. Of fine-tuned networks:
`studies/transfers.py`.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path

from studies import metrics
from studies.blame import blamed
from studies.datasets import DataSet
from studies.definitions import (
    Classification,
    Data,
    Evaluate,
    FewShot,
    FewShotClassification,
    FewShotWatch,
    SplitWatch,
    Train,
    Watch,
    key_of,
)
from studies.language import FewShotEvaluation, SplitEvaluation, StudyFile
from studies.mappings import read_mapping
from studies.models import AnyModel, MaskedPatch, check_fits
from studies.planned import PlannedRun
from studies.registry import Registry
from studies.yaml_source import Place, Source

Measured = Classification | FewShotClassification

WATCHED_SHARE = Fraction(1, 40)
"""Images evaluated on the way for each image trained on, at the most, under `every: auto`. By images and not by FLOPs:
images have to be read or drawn too, and an evaluation is in float32 beside a training in bf16. Measured, an image
evaluated takes up to 1.5 times the time of one trained on (`benchmarks/watching.py`), so that evaluations, the last
included, stay below a tenth of a run's time.
"""


def check_evaluations(file: StudyFile, source: Source) -> None:
    """Raise StudyError where two evaluations give a result of the same name, which a frontier could not tell apart,
    and where it is not clear which weights to keep.
    """
    seen: dict[tuple[str, str | None, str, int | None], int] = {}
    keeping = None
    for number, each in enumerate(file.evaluations):
        place: Place = ("evaluations", number)
        measured = (
            [metrics.ACCURACY] if isinstance(each, SplitEvaluation) else map(metrics.fewshot_accuracy, each.shots)
        )
        for metric in measured:
            name = (metric, each.data, each.split, each.image_size)
            if name in seen:
                first = source.line(("evaluations", seen[name]))
                raise source.error(place, f"'{metric}' on {each.split} is measured twice: see line {first}")
            seen[name] = number
        if each.keep == "best":
            if each.every is None:
                wrong = "keep: best has no effect on an evaluation at the end alone: give 'every', in steps or auto"
                raise source.error((*place, "keep"), wrong)
            if keeping is not None:
                first = source.line(("evaluations", keeping))
                raise source.error((*place, "keep"), f"one evaluation decides which weights are kept: see line {first}")
            keeping = number


def measurements(
    file: StudyFile, source: Source, registry: Registry, model: AnyModel, data: Data, image_size: int
) -> list[Measured]:
    """For each evaluation of the study what it measures of a network of this training.

    Raises StudyError at the field that makes it impossible.
    """
    measured: list[Measured] = []
    for number, each in enumerate(file.evaluations):
        place: Place = ("evaluations", number)
        with blamed(source, (*place, "data"), place):
            data_set = registry.get(each.data or data.name)
        size = each.image_size or image_size
        with blamed(source, (*place, "image_size"), place):
            check_fits(model, size)
        if isinstance(each, SplitEvaluation):
            if isinstance(model, MaskedPatch):
                wrong = "a masked-patch model knows no classes: give few-shot evaluations, or 'transfers'"
                raise source.error(place, wrong)
            measured.append(_classification(each, data_set, data, size, source, place))
        else:
            measured.append(_fewshot(each, data_set, size, source, place))
    return measured


def _classification(
    each: SplitEvaluation, data_set: DataSet, trained: Data, image_size: int, source: Source, place: Place
) -> Classification:
    with blamed(source, (*place, "split")):
        data = data_set.take(each.split)
    mapping = None
    if each.mapping is not None:
        with blamed(source, (*place, "mapping")):
            mapping = read_mapping(Path(each.mapping), trained.classes)
    elif data.classes != trained.classes:
        wrong = f"{data.name} has {data.classes} classes, and the models are trained for {trained.classes}"
        raise source.error((*place, "data"), f"{wrong}: a 'mapping' says which are the same")
    with blamed(source, (*place, "mapping" if mapping else "view"), place):
        return Classification(data=data, image_size=image_size, view=each.view, mapping=mapping)


def _fewshot(
    each: FewShotEvaluation, data_set: DataSet, image_size: int, source: Source, place: Place
) -> FewShotClassification:
    with blamed(source, (*place, "subset"), (*place, "support"), place):
        support = data_set.take(each.support, each.subset)
    with blamed(source, (*place, "split")):
        data = data_set.take(each.split)
    most = support.rows // support.classes
    if max(each.shots) > most:
        wrong = f"{max(each.shots)} shots of {support.classes} classes need more than {support.rows:,} images"
        raise source.error((*place, "shots"), wrong)
    one_support = each.draw == "first"
    with blamed(source, (*place, "seeds" if one_support and each.seeds else "view"), place):
        return FewShotClassification(
            support=support,
            data=data,
            image_size=image_size,
            view=each.view,
            shots=each.shots,
            support_seeds=each.seeds or ((0,) if one_support else (0, 1, 2)),
            draw=each.draw,
            l2=each.l2,
        )


def watches(file: StudyFile, source: Source, measured: Sequence[Measured], training: Train) -> tuple[Watch, ...]:
    """What is measured during a training: the evaluations that give `every`.

    measured: of each evaluation of the study. training: without watches.
    Raises StudyError where `auto` leaves no room for an evaluation that decides which weights are kept.
    """
    chosen = []
    automatic = _automatic_steps(file, source, measured, training)
    for number, (each, what) in enumerate(zip(file.evaluations, measured, strict=True)):
        every = automatic if each.every == "auto" else each.every
        if each.every == "auto" and automatic is not None and automatic >= training.steps:
            every = None  # no room for one: the trained network alone is evaluated
        if every is not None:
            kind = SplitWatch if isinstance(what, Classification) else FewShotWatch
            chosen.append(kind(**dict(what), every=every, keep=each.keep))
        elif each.keep == "best":
            wrong = f"a training of {training.steps:,} steps is too short for 'auto', which takes {automatic:,}"
            raise source.error(("evaluations", number, "every"), f"{wrong}: give 'every' in steps")
    return tuple(chosen)


def _automatic_steps(file: StudyFile, source: Source, measured: Sequence[Measured], training: Train) -> int | None:
    """The smallest number of steps after which all evaluations with `auto` see no more images than the share that the
    others leave. The length of the training has no part in it, so that trainings of several can share a trunk.
    """
    batch = training.recipe.batch
    taken, once = Fraction(0), 0
    place: Place | None = None
    for number, (each, what) in enumerate(zip(file.evaluations, measured, strict=True)):
        if each.every is not None:
            images = _planned(what, PlannedRun(training, training, "", "", 0.0)).images
            if each.every == "auto":
                once += images
                place = place or ("evaluations", number, "every")
            else:
                taken += Fraction(images, each.every * batch)
    if place is None:
        return None
    if taken >= WATCHED_SHARE:
        wrong = f"the other evaluations see {float(100 * taken):.0f} % as many images as are trained on"
        raise source.error(place, f"'auto' finds no room: {wrong}; give 'every' in steps")
    return ceil(once / ((WATCHED_SHARE - taken) * batch))


def evaluations_of(planned: PlannedRun, measured: Sequence[Measured]) -> Iterator[PlannedRun]:
    """The evaluations of a trained network, as runs."""
    for each in measured:
        yield _planned(each, planned)


def _planned(measured: Measured, training: PlannedRun) -> PlannedRun:
    kind = Evaluate if isinstance(measured, Classification) else FewShot
    run = kind(upstream=key_of(training.run), **dict(measured))
    return PlannedRun(
        run,
        training.training,
        training.model,
        training.family,
        training.epochs,
        training.sweep,
        training.searched,
    )
