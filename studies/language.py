"""The study language: what a study file may say, field by field. `studies/grid.py` turns it into runs."""

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from studies.architectures import Shapes, nearest
from studies.augmentations import Resize, ViewUse
from studies.frozen import Frozen, Listed, Positive
from studies.models import Head, Hybrid, MaskedPatch, ResNet, ViT
from studies.yaml_source import Place, Source, StudyError, read

T = TypeVar("T")


NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
"""Of studies, and of a user's data sets and splits: it may become the name of a file."""


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Many = Annotated[Listed[T], Field(min_length=1), BeforeValidator(_as_list)]
"""One value or a list of them."""


def _kind_of_model(value: Any) -> str:
    if not isinstance(value, dict):
        return "name"
    return "base" if "base" in value else str(value.get("kind", "vit"))


ModelUse = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[dict[str, Any], Tag("base")]
    | Annotated[ViT, Tag("vit")]
    | Annotated[ResNet, Tag("resnet")]
    | Annotated[Hybrid, Tag("hybrid")]
    | Annotated[MaskedPatch, Tag("masked-patch")],
    Discriminator(_kind_of_model),
]
"""A model's name, a mapping of `base`, its name, and the fields to replace, or a shape that is written out. Beside
`base`, `masked: mean-color` makes it a model that is pre-trained on its masked patches."""
RecipeUse = str | dict[str, Any]
"""A recipe's name, a mapping of `base`, its name, and the fields to replace, or a recipe that is written out."""


class Axes(Frozen):
    """The axes of a grid. Lists multiply."""

    architecture: Many[str] | None = None
    """`ViT`, a ResNet such as `R50`, or a hybrid such as `R50+ViT`."""
    size: Many[str] | None = None
    """Of a transformer: `B`; of a ResNet, its width factor: `x1`."""
    patch: Many[PositiveInt] | None = None
    """Pixels; for a hybrid the total reduction, as in `R50+ViT-B/16`."""
    model: Many[ModelUse] | None = None
    """Whole models, instead of the three above: by name, by name with fields replaced, or by explicit shape."""
    head: Many[Head] | None = None
    data: Many[str] | None = None
    split: Many[str] | None = None
    """What is trained on; `train` without it."""
    subset: Many[PositiveInt | str] | None = None
    """Training images, as 9000000, `9M` or `10%`; without it, the whole split."""
    per_class: Many[PositiveInt] | None = None
    """So many training images of each class, instead of `subset`."""
    image_size: Many[PositiveInt] | None = None
    """Pixels of a side as the network sees them; without it, those of the stored images, where all have the same."""
    epochs: Many[Positive] | None = None
    """Passes over the training images."""
    steps: Many[PositiveInt] | None = None
    """Optimizer updates, instead of `epochs`."""
    recipe: Many[RecipeUse] | None = None
    seed: Many[NonNegativeInt] | None = None


class Block(Axes):
    """One grid: its lists multiply, `zip` pairs, `sweep` searches, `exclude` removes."""

    zip: dict[str, list[Any]] | None = None
    """Axes whose lists go in step: the first values together, the second together, and so on."""
    sweep: dict[str, list[Any]] | None = None
    """Recipe fields to search; the choice is made on the validation split."""
    exclude: Listed[Axes] = ()
    """Cells to leave out: those that match every axis given."""


class OnTheWay(Frozen):
    """When an evaluation is made beside the end of a training."""

    every: PositiveInt | Literal["auto"] | None = None
    """Steps between two evaluations during the training; `auto`: so many that one image is evaluated
    for 40 that are trained on, less than a tenth of the time. Without it, the trained model alone is evaluated."""
    keep: Literal["last", "best"] = "last"
    """`best`: the weights of the step at which this evaluation was best are what the training leaves, and so what all
    evaluations see."""


class SplitEvaluation(OnTheWay):
    """Classify a split with each trained model."""

    kind: Literal["split"]
    split: str
    data: str | None = None
    """Another data set of the same classes; the training's without it."""
    image_size: PositiveInt | None = None
    """The training's without it."""
    view: ViewUse = Resize()
    mapping: str | None = None
    """A file, .csv or .json, that maps the classes of the network to those of the data (`studies/mappings.py`)."""


class FewShotEvaluation(OnTheWay):
    """Closed-form few-shot classification from frozen features."""

    kind: Literal["fewshot"]
    shots: Many[PositiveInt]
    seeds: Many[NonNegativeInt] | None = None
    """Of the draws; 0, 1 and 2 without it, and one where nothing is drawn."""
    l2: Many[Positive] = (1024.0,)
    """Of several, each number of shots takes the best."""
    draw: Literal["seeded", "first"] = "seeded"
    """`first`: the first images of each class as they are stored, as the older evaluator had it."""
    data: str | None = None
    """The data set of both splits; the training's without it."""
    support: str = "train"
    """The split whose images the classifiers learn from."""
    subset: PositiveInt | str | None = None
    """So many images of the support split to draw from, as of an axis."""
    split: str = "test"
    image_size: PositiveInt | None = None
    """The training's without it."""
    view: ViewUse = Resize()


Evaluation = Annotated[SplitEvaluation | FewShotEvaluation, Field(discriminator="kind")]


class TransferSplits(Frozen):
    """The splits of a data set that a transfer uses."""

    whole: str = "train"
    """What the chosen hyper-parameters are trained with."""
    search: str | None = None
    """What trials are trained on: `remaining` where there is one of `whole`, else `whole`."""
    development: str | None = None
    """What decides between trials: `development` where there is one and `search` is without it, else `validation`."""
    test: str = "test"
    """What is classified in the end, where `evaluations` does not say it."""


class Transfer(Frozen):
    """Fine-tune each trained model on other images, at hyper-parameters that are searched or given."""

    name: Annotated[str, StringConstraints(pattern=rf"^{NAME}$")] = "fine-tuning"
    """What the results are called; of one model, each transfer has its own."""
    models: Many[str] | None = None
    """What the study calls the models to transfer; all without it."""
    data: Many[str]
    """Data sets, or a suite (`studies/vtab.py`) for all its tasks: `vtab-1k`, `vtab-laptop`. A suite has its own
    splits, recipe, steps and image size for those that are not written here."""
    choose: Literal["each", "together"] = "each"
    """One choice for each data set, or one for all by the mean accuracy; of a suite without it, one for all."""
    splits: TransferSplits = TransferSplits()
    subset: PositiveInt | str | None = None
    """So many images of `whole` and `search`, as of an axis."""
    trained: Literal["all", "head"] = "all"
    """`head`: a linear probe."""
    recipe: RecipeUse = "fine-tuning"
    """As of an axis; or `bit-hyperrule`, which decides recipe, steps and resolution by the data set."""
    steps: PositiveInt | None = None
    """Updates; where neither recipe nor suite decides them, this or `epochs`."""
    epochs: Positive | None = None
    image_size: PositiveInt | None = None
    """Pixels of a side; that of the pre-training without it."""
    view: ViewUse | None = None
    """Of development and test splits; `resize` without it."""
    search: dict[str, Any] | None = None
    """Values to try by the recipe's field or `steps`: lists, or for samplers other than `grid` `{low: , high: }`."""
    sampler: Literal["grid", "tpe", "random", "cma-es"] = "grid"
    trials: PositiveInt | None = None
    pruner: Literal["none", "median", "halving"] = "none"
    every: PositiveInt | None = None
    """Steps between two looks of the pruner."""
    extend: bool = True
    """Try one value more where the best of a grid is at its edge."""
    seed: NonNegativeInt = 0
    """Of the trials."""
    seeds: Many[NonNegativeInt] = (0, 1, 2)
    """Of the trainings that measure the choice."""
    evaluations: Annotated[Listed[SplitEvaluation], Field(min_length=1)] | None = None
    """What the fine-tuned models classify; the test split without it."""


class Resources(Frozen):
    """Hints on where and when to run. They are no part of a run's identity."""

    cpus: PositiveInt = 1
    """CPU threads of each run. One run a core is faster than one run on all cores."""
    gpus: NonNegativeInt = 0
    priority: int = 0
    """Lower goes first."""
    micro_batch: PositiveInt | None = None
    """Images of a step on the device at a time; the gradients of a larger batch add up. All at once without it. It
    changes bits in the last places, so it is part of the numerics class; a run that has begun keeps its own."""
    together: bool = False
    """Train the trials of a search that differ only in their rates as one program, where that pays
    (`docs/benchmarks.md`). It changes bits in the last places, so it is part of the numerics class."""


class StudyFile(Frozen):
    """A study as it is written."""

    name: Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
    title: str
    source: str
    """Paper, table or question that the study comes from."""
    shows: str
    """What it should show."""
    shapes: Shapes = Shapes()
    """Shapes of the study's own, used in names like the published ones."""
    defaults: Axes = Axes()
    """Axes of every block that does not give its own."""
    grids: Annotated[Listed[Block], Field(min_length=1)]
    evaluations: Listed[Evaluation] = ()
    transfers: Listed[Transfer] = ()
    resources: Resources = Resources()

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("a study is a mapping that begins with `name:`")
        return data


def load(path: Path, shown: str | None = None) -> tuple[StudyFile, Source]:
    """Read and check a study file.

    Raises StudyError, `file:line:column: what is wrong`, with the nearest valid name where one is near.
    """
    source = read(path, shown)
    file = validated(StudyFile, source.data, source, ())
    if file.resources.together and not any(transfer.search for transfer in file.transfers):
        raise source.error(("resources", "together"), "'together' has no effect on a study without a search")
    return file, source


F = TypeVar("F", bound=BaseModel)


def validated(kind: type[F], data: Any, source: Source, place: Place) -> F:
    """`data`, which stands at `place` in the file, as a model of this kind.

    Raises StudyError at the place of the fault.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _first_fault(kind, error, data, source, place) from None


def in_words(kind: type[BaseModel], error: ValidationError, place: Place) -> str:
    """What is wrong with a value at this place that was to be a part of such a model."""
    return _message(kind, error.errors(include_url=False)[0], place)


def _first_fault(kind: type[BaseModel], error: ValidationError, data: Any, source: Source, place: Place) -> StudyError:
    """The fault that stands first in the file."""
    faults = []
    details = error.errors(include_url=False)
    for detail in details:
        if detail["type"] == "too_short" and detail["input"] and len(details) > 1:
            continue  # said of a list from which faulty items were dropped
        inner = _in_data(detail["loc"], data)
        full = (*place, *inner)
        at_key = detail["type"] == "extra_forbidden"
        marks = source.key_marks if at_key else source.marks
        faults.append((marks.get(full, source.marks.get(full, (0, 0))), full, detail, at_key))
    _, full, detail, at_key = min(faults, key=lambda fault: fault[0])
    return source.error(full, _message(kind, detail, full), at_key=at_key)


def _in_data(loc: tuple[int | str, ...], data: Any) -> Place:
    """The part of pydantic's location that exists in the data: it also names tags of unions and single values."""
    place: list[str | int] = []
    for index, step in enumerate(loc):
        if isinstance(data, dict) and step == data.get("kind") and index + 1 < len(loc):
            continue  # a tag, although an evaluation of the kind `split` has a key of that name
        if isinstance(data, dict) and step in data:
            data = data[str(step)]
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            continue
        place.append(step)
    return tuple(place)


def _message(kind: type[BaseModel], detail: Any, full: Place) -> str:
    what = ".".join(map(str, full)) or "the study"
    loc, given = detail["loc"], detail.get("input")
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key '{loc[-1]}'{nearest(str(loc[-1]), sorted(_fields_beside(kind, loc)))}"
        case "missing":
            return f"{what}: the key '{loc[-1]}' is missing" if full else f"the key '{loc[-1]}' is missing"
        case "value_error":
            return str(detail["ctx"]["error"])
        case "too_short" if not given:
            return f"{what}: the list is empty"
        case "literal_error" | "union_tag_invalid":
            context = detail["ctx"]
            listed = str(context.get("expected", context.get("expected_tags"))).replace("'", "").replace(" or ", ", ")
            valid = [name.strip() for name in listed.split(",")]
            wrong = context.get("tag", given)
            return f"{what}: '{wrong}' is not valid{nearest(str(wrong), valid)}"
        case _:
            shown = repr(given) if not isinstance(given, dict | list | tuple) else f"a {_yaml_name(given)}"
            wanted = _PLAIN_WORDS.get(detail["type"], detail["msg"].removeprefix("Input should be "))
            return f"{what}: {shown} should be {wanted}"


_PLAIN_WORDS = {
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "a list of one value or more",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
}
"""What pydantic's names of faults mean to a person who wrote YAML."""


def _yaml_name(value: Any) -> str:
    return "mapping" if isinstance(value, dict) else "list"


def _fields_beside(kind: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """The valid keys of the mapping in which the last step of a location stands."""
    kinds: list[Any] = [kind]
    for step in loc[:-1]:
        kinds = [inner for outer in kinds for inner in _step(outer, step)]
    return {name for each in kinds for model in _models(each) for name in model.model_fields}


def _step(annotation: Any, step: int | str) -> Iterator[Any]:
    """The annotations that a step of a location may lead to."""
    for model in _models(annotation):
        if step in model.model_fields:
            yield model.model_fields[str(step)].annotation
        elif step == model.__name__ or step in _tags(model):
            yield model
    for container in _containers(annotation):
        yield get_args(container)[-1] if get_origin(container) is dict else get_args(container)[0]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, UnionType):
        for inner in get_args(annotation):
            yield from _models(inner)


def _containers(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (tuple, list, dict):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, UnionType):
        for inner in get_args(annotation):
            yield from _containers(inner)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()
