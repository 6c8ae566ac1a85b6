"""What a study does with each pre-trained network on other images: fine-tunings at given hyper-parameters, or searches.

Every fault is found before anything is stored. `studies/tasks.py` says what is done on one data set, and
`studies/searches.py` what a search makes.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from studies.architectures import nearest
from studies.blame import blamed
from studies.definitions import Evaluate, FineTune, Recipe, key_of
from studies.language import StudyFile, in_words, validated
from studies.planned import PlannedRun
from studies.registry import Registry
from studies.searches import STEPS, Impossible, PlannedSearch, Range, Search, Task
from studies.tasks import Asked, Setting
from studies.yaml_source import Place, Source

Space = dict[str, tuple[Any, ...] | Range]

_OF_SEARCHES = ("choose", "sampler", "trials", "pruner", "every", "extend", "seed")
"""Keys of a transfer that say nothing without `search`."""


def planned_transfers(
    file: StudyFile, source: Source, registry: Registry, planned: PlannedRun
) -> tuple[list[PlannedRun], list[PlannedSearch]]:
    """What the study's transfers make of one pre-training.

    Runs are fine-tunings, each followed by its evaluations; searches are those of transfers with `search`.
    Raises StudyError at the key that makes one impossible.
    """
    runs: list[PlannedRun] = []
    searches: list[PlannedSearch] = []
    names: dict[str, int] = {}
    seen: dict[str, int] = {}
    for number, transfer in enumerate(file.transfers):
        if transfer.models is not None and planned.model not in transfer.models:
            continue
        asked = Asked(transfer, ("transfers", number), source, registry, planned)
        _check(asked)
        if names.setdefault(transfer.name, number) != number:
            line = source.line(("transfers", names[transfer.name]))
            wrong = f"the transfer of line {line} is called '{transfer.name}' too: give each its own 'name'"
            raise asked.error(wrong, "name")
        made = _runs(asked) if transfer.search is None else []
        sought = _searches(asked, transfer.search) if transfer.search is not None else []
        for key in (*(run.key for run in made), *(search.key for search in sought)):
            if seen.setdefault(key, number) != number:
                line = source.line(("transfers", seen[key]))
                raise asked.error(f"the transfer of line {line} does the same: keep one")
        runs += made
        searches += sought
    return runs, searches


def check_models(file: StudyFile, source: Source, trained: Collection[str]) -> None:
    """Raise StudyError at a model of a transfer that the study does not train.

    trained: what the study calls the models that it trains.
    """
    for number, transfer in enumerate(file.transfers):
        for index, model in enumerate(transfer.models or ()):
            if model not in trained:
                wrong = f"'{model}' is no model that this study trains{nearest(model, sorted(trained))}"
                raise source.error(("transfers", number, "models", index), wrong)


def _check(asked: Asked) -> None:
    """What can be said without the data sets."""
    transfer = asked.transfer
    if transfer.name in ("evaluate", "fewshot"):
        raise asked.error(f"'{transfer.name}' names what is measured without a transfer: choose another name", "name")
    if asked.suite and len(transfer.data) > 1:
        wrong = f"{asked.suite.name} stands for {len(asked.suite.tasks)} data sets: give others a transfer of their own"
        raise asked.error(wrong, "data")
    for key in ("data", "seeds"):
        values = getattr(transfer, key)
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise asked.error(f"{key}: {twice} is there twice", key)
    if transfer.search is None:
        written: list[tuple[str, ...]] = [(key,) for key in _OF_SEARCHES if key in transfer.model_fields_set]
        written += [("splits", key) for key in ("search", "development") if key in transfer.splits.model_fields_set]
        if written:
            raise asked.error(f"'{'.'.join(written[0])}' has no effect without 'search'", *written[0], at_key=True)
    elif "extend" in transfer.model_fields_set and transfer.sampler != "grid":
        wrong = f"'extend' has no effect on the sampler {transfer.sampler}: a grid alone has edges"
        raise asked.error(wrong, "extend", at_key=True)
    for number, each in enumerate(transfer.evaluations or ()):
        for key in ("every", "keep"):
            if key in each.model_fields_set:
                wrong = f"'{key}' is for evaluations of pre-trainings: fine-tuned models are evaluated at the end"
                raise asked.error(wrong, "evaluations", number, key, at_key=True)


def _runs(asked: Asked) -> list[PlannedRun]:
    """The fine-tunings at given hyper-parameters, for each data set one a seed, each with its evaluations."""
    made = []
    for name in asked.names:
        setting = asked.setting(name)
        for seed in asked.transfer.seeds:
            training = _fine_tuning(asked, setting, seed)
            made.append(_planned(asked, training, training))
            for each in setting.evaluations:
                evaluation = Evaluate(upstream=key_of(training), **dict(each))
                made.append(_planned(asked, evaluation, training))
    return made


def _fine_tuning(asked: Asked, setting: Setting | Task, seed: int) -> FineTune:
    recipe = setting.recipe
    if recipe.warmup_steps >= setting.steps:
        wrong = f"a warm-up of {recipe.warmup_steps} steps needs a longer training than {setting.steps} steps"
        place = asked.at("steps", "epochs", "recipe")
        raise asked.source.error(place, f"{wrong}: give the recipe fewer warmup_steps")
    with blamed(asked.source, asked.at("recipe", "data")):
        return FineTune(
            upstream=asked.planned.key,
            model=asked.model,
            data=setting.whole,
            image_size=setting.image_size,
            recipe=recipe,
            trained=asked.transfer.trained,
            examples=setting.steps * recipe.batch,
            seed=seed,
        )


def _planned(asked: Asked, run: FineTune | Evaluate, training: FineTune) -> PlannedRun:
    return PlannedRun(
        run=run,
        training=training,
        model=asked.planned.model,
        family=asked.planned.family,
        epochs=asked.planned.epochs,
        pretraining=asked.planned.root,
        transfer=asked.transfer.name,
    )


def _searches(asked: Asked, written: Mapping[str, Any]) -> list[PlannedSearch]:
    """One for each data set, or one for all."""
    tasks = [asked.task(name) for name in asked.names]
    space = _space(asked, written, tasks[0].recipe)
    choose = asked.transfer.choose
    if asked.suite and "choose" not in asked.transfer.model_fields_set:
        choose = "together"
    groups = [tasks] if choose == "together" else [[task] for task in tasks]
    return [PlannedSearch(_search(asked, group, space), asked.planned, asked.transfer.name) for group in groups]


def _space(asked: Asked, written: Mapping[str, Any], recipe: Recipe) -> Space:
    """The values to try as the recipe has them: 1 is 1.0 for a rate."""
    if not written:
        raise asked.error("nothing is searched: give a recipe's field and its values", "search", at_key=True)
    space: Space = {}
    for name, values in written.items():
        place = (*asked.place, "search", name)
        if name != STEPS and name not in Recipe.model_fields:
            wrong = f"'{name}' is no field of a recipe{nearest(name, [*Recipe.model_fields, STEPS])}"
            raise asked.source.error(place, wrong, at_key=True)
        if isinstance(values, dict):
            limits = validated(Range, values, asked.source, place)
            low, high = (_value(asked, recipe, name, getattr(limits, end), (*place, end)) for end in ("low", "high"))
            space[name] = limits.model_copy(update={"low": low, "high": high})
        elif isinstance(values, list) and len(values) > 1:
            space[name] = tuple(
                _value(asked, recipe, name, value, (*place, index)) for index, value in enumerate(values)
            )
        else:
            wrong = "a search needs a list of two values or more, or {low: ..., high: ...}"
            raise asked.source.error(place, f"{wrong}; a single value is the recipe's")
    return space


def _value(asked: Asked, recipe: Recipe, name: str, value: Any, place: Place) -> Any:
    """A value as the recipe's JSON has it."""
    if name == STEPS:
        if type(value) is not int or value < 1:
            raise asked.source.error(place, f"{value!r} is no number of steps: give a whole number from 1")
        return value
    try:
        changed = Recipe.model_validate({**recipe.model_dump(), name: value})
    except ValidationError as error:
        raise asked.source.error(place, in_words(Recipe, error, place[2:])) from None
    return changed.model_dump(mode="json")[name]


def _search(asked: Asked, tasks: Sequence[Task], space: Space) -> Search:
    transfer = asked.transfer
    try:
        return Search(
            upstream=asked.planned.key,
            model=asked.model,
            tasks=tuple(tasks),
            trained=transfer.trained,
            space=space,
            sampler=transfer.sampler,
            trials=transfer.trials,
            pruner=transfer.pruner,
            every=transfer.every,
            extend=transfer.extend,
            seed=transfer.seed,
            seeds=transfer.seeds,
        )
    except ValidationError as error:
        cause = error.errors(include_url=False)[0].get("ctx", {}).get("error")
        if not isinstance(cause, Impossible):
            raise
        if cause.at[0] == "space" and STEPS not in space:
            for task in tasks:
                _fine_tuning(asked, task, transfer.seed)  # where no searched value is to blame, this says what is
        at = ("search", *cause.at[1:]) if cause.at[0] == "space" else cause.at
        raise asked.error(str(cause), *at) from None
