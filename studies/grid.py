"""From a study file to its runs: grids are expanded, every cell is checked, and each run is keyed and priced."""

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from math import floor
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from studies import metrics
from studies.architectures import (
    Shapes,
    altered_fields,
    compose,
    describe,
    describe_alterations,
    family_of,
    named,
    nearest,
)
from studies.datasets import DataSet
from studies.definitions import Data, Evaluate, FewShot, Recipe, Train
from studies.language import Axes, Block, FewShotEvaluation, SplitEvaluation, StudyFile, load, validated
from studies.models import Hybrid, ResNet, ViT, check_fits
from studies.planned import PlannedRun
from studies.recipes import RECIPES
from studies.registry import BUILT_IN_ONLY, Registry
from studies.yaml_source import Place, Source, StudyError

MOST_CELLS = 100_000
_PARTS = ("architecture", "size", "patch")


@dataclass(frozen=True)
class Dropped:
    """A cell that makes no run, and why."""

    cell: str
    why: str


@dataclass(frozen=True)
class Study:
    """A study that is fit to run."""

    file: StudyFile
    path: str
    text: str
    runs: tuple[PlannedRun, ...]
    """Cheapest trainings first, each followed by its evaluations; no key twice."""
    dropped: tuple[Dropped, ...]


def load_study(path: Path, shown: str | None = None, registry: Registry = BUILT_IN_ONLY) -> Study:
    """Read a study file, check all of it, and expand it.

    registry: the data sets that it may name.
    Raises StudyError at the first fault, as `file:line:column: what is wrong`.
    """
    file, source = load(path, shown)
    return _Expansion(file, source, registry).study(path)


@dataclass(frozen=True)
class _Axis:
    """The values of one axis and where each stands in the file."""

    values: tuple[Any, ...]
    places: tuple[Place, ...]


@dataclass
class _Cell:
    """One combination of values, with the place of each for error messages."""

    block: Place
    values: dict[str, Any]
    places: dict[str, Place]
    searched: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        written = self.values.get("model")
        if written is None:
            name = "{architecture}-{size}/{patch}" if self.values.get("patch") else "{architecture}{size}"
            written = name.format_map({"size": "", **self.values})
        elif isinstance(written, dict):
            written = _label_of_altered(written)
        elif not isinstance(written, str):
            written = describe(written)
        shown = {name: self.values[name] for name in _SHOWN if name in self.values} | self.searched
        return " ".join([written, *(f"{name}={value}" for name, value in shown.items())])


_SHOWN = ("data", "split", "subset", "per_class", "image_size", "epochs", "seed")


def _label_of_altered(written: dict[str, Any]) -> str:
    fields = {name: value for name, value in written.items() if name != "base"}
    return f"{written['base']}{describe_alterations(fields)}"


class _Expansion:
    """Expands one file. State: what has been made so far, and names that were resolved before."""

    def __init__(self, file: StudyFile, source: Source, registry: Registry) -> None:
        self.file = file
        self.source = source
        self.registry = registry
        self.dropped: list[Dropped] = []
        self.models: dict[tuple[str, str], ViT | ResNet | Hybrid] = {}
        with self.blamed(("shapes",)):
            self.shapes: Shapes = file.shapes.with_published()

    def study(self, path: Path) -> Study:
        self.check_evaluations()
        trainings: dict[str, PlannedRun] = {}
        for number, block in enumerate(self.file.grids):
            for cell in self.cells(block, ("grids", number)):
                planned = self.training(cell)
                if planned.key in trainings:
                    self.dropped.append(Dropped(str(cell), "the same run as a cell before it"))
                else:
                    trainings[planned.key] = planned
        if not trainings:
            raise self.source.error(("grids",), "the grids make no run: everything is excluded")
        runs: list[PlannedRun] = []
        for planned in sorted(trainings.values(), key=lambda planned: planned.train_flops):
            runs.append(planned)
            runs.extend(self.evaluations_of(planned))
        text = path.read_text(encoding="utf-8-sig")
        return Study(self.file, self.source.file, text, tuple(runs), tuple(self.dropped))

    @contextmanager
    def blamed(self, *places: Place | None) -> Iterator[None]:
        """Turn a ValueError inside into an error of the file, at the first of these places that is given."""
        place = next((place for place in places if place is not None), ())
        try:
            yield
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            cause = detail.get("ctx", {}).get("error")
            raise self.source.error(place, str(cause) if cause else detail["msg"]) from None
        except ValueError as error:
            if isinstance(error, StudyError):
                raise
            raise self.source.error(place, str(error)) from None

    # ------------------------------------------------------------------------------------------------------ cells

    def cells(self, block: Block, place: Place) -> Iterator[_Cell]:
        """The cells of a block that are not excluded."""
        axes = self.axes_of(block, place)
        zipped = self.zipped_axes(block, place, axes)
        for axis in zipped:
            axes.pop(axis, None)
        self.check_axes({**axes, **zipped}, place)
        searched = self.searched_fields(block, place)
        count = len(next(iter(zipped.values())).values) if zipped else 1
        total = count
        for options in [*(axis.values for axis in axes.values()), *searched.values()]:
            total *= len(options)
        if total > MOST_CELLS:
            raise self.source.error(place, f"this grid has {total:,} cells; at most {MOST_CELLS:,} are allowed")
        hits = [0] * len(block.exclude)
        for row in range(count):
            for picks in itertools.product(*(range(len(axis.values)) for axis in axes.values())):
                chosen = {name: (axis, pick) for (name, axis), pick in zip(axes.items(), picks, strict=True)}
                chosen |= {name: (axis, row) for name, axis in zipped.items()}
                values = {name: axis.values[pick] for name, (axis, pick) in chosen.items()}
                places = {name: axis.places[pick] for name, (axis, pick) in chosen.items()}
                for combination in itertools.product(*searched.values()):
                    cell = _Cell(place, values, places, dict(zip(searched, combination, strict=True)))
                    if (excluded := self.excluded_by(block, values)) is None:
                        yield cell
                    else:
                        hits[excluded] += 1
                        line = self.source.line((*place, "exclude", excluded))
                        self.dropped.append(Dropped(str(cell), f"excluded by line {line}"))
        for index, hit in enumerate(hits):
            if not hit:
                raise self.source.error((*place, "exclude", index), "this exclusion removes nothing")

    def axes_of(self, block: Block, place: Place) -> dict[str, _Axis]:
        """The block's own axes over the study's defaults. Whole models and parts of names replace each other."""
        own = self.given(block, place)
        default = self.given(self.file.defaults, ("defaults",))
        names = set(own) | set(block.zip or ())
        if "model" in names:
            default = {name: axis for name, axis in default.items() if name not in _PARTS}
        elif names & set(_PARTS):
            default.pop("model", None)
        return default | own

    def given(self, axes: Axes, place: Place) -> dict[str, _Axis]:
        found = {}
        for name in Axes.model_fields:
            values = getattr(axes, name)
            if values is not None:
                found[name] = self.axis(values, (*place, name))
        return found

    def axis(self, values: tuple[Any, ...], place: Place) -> _Axis:
        listed = (*place, 0) in self.source.marks
        return _Axis(values, tuple((*place, index) if listed else place for index in range(len(values))))

    def zipped_axes(self, block: Block, place: Place, axes: Mapping[str, _Axis]) -> dict[str, _Axis]:
        if block.zip is None:
            return {}
        here = (*place, "zip")
        checked = validated(Axes, {name: list(values) for name, values in block.zip.items()}, self.source, here)
        zipped = self.given(checked, here)
        for name in zipped:
            if getattr(block, name) is not None:
                raise self.source.error((*here, name), f"'{name}' is zipped and multiplied; keep one", at_key=True)
        lengths = {len(axis.values) for axis in zipped.values()}
        if len(zipped) < 2 or len(lengths) > 1:
            shown = ", ".join(f"{name} has {len(axis.values)}" for name, axis in zipped.items())
            raise self.source.error(here, f"zip pairs two or more lists of one length; {shown or 'it is empty'}")
        return zipped

    def check_axes(self, axes: Mapping[str, _Axis], place: Place) -> None:
        parts = [name for name in _PARTS if name in axes]
        if "model" in axes and parts:
            raise self.source.error(axes[parts[0]].places[0], f"'{parts[0]}' has no effect beside 'model'")
        if "model" not in axes and "architecture" not in axes:
            raise self.source.error(place, "the grid names no architecture: give 'model', or 'architecture' and 'size'")
        for name in ("data", "epochs", "recipe"):
            if name not in axes:
                raise self.source.error(place, f"the grid has no '{name}': give it here or under 'defaults'")

    def searched_fields(self, block: Block, place: Place) -> dict[str, list[Any]]:
        for name, values in (block.sweep or {}).items():
            here = (*place, "sweep", name)
            if name not in Recipe.model_fields:
                wrong = f"'{name}' is no field of a recipe{nearest(name, list(Recipe.model_fields))}"
                raise self.source.error(here, wrong, at_key=True)
            if len(values) < 2:
                raise self.source.error(here, "a sweep needs two values or more")
        if block.sweep and not any(
            isinstance(each, SplitEvaluation) and each.split == "validation" for each in self.file.evaluations
        ):
            wrong = "a sweep is decided on the validation split: add {kind: split, split: validation} to evaluations"
            raise self.source.error((*place, "sweep"), wrong, at_key=True)
        return dict(block.sweep or {})

    @staticmethod
    def excluded_by(block: Block, values: Mapping[str, Any]) -> int | None:
        for index, exclusion in enumerate(block.exclude):
            wanted = {name: getattr(exclusion, name) for name in Axes.model_fields}
            if all(values.get(name) in options for name, options in wanted.items() if options is not None):
                return index
        return None

    # ------------------------------------------------------------------------------------------------------- runs

    def training(self, cell: _Cell) -> PlannedRun:
        """The training of a cell. Raises StudyError at the axis that makes it impossible."""
        where = cell.places.get
        data = self.training_data(cell)
        image_size = self.training_size(cell, data)
        model, label = self.model(cell)
        with self.blamed(where("image_size"), where("patch"), where("model"), where("architecture")):
            check_fits(model, image_size)
        recipe = self.recipe(cell)
        epochs = float(cell.values["epochs"])
        steps = floor(epochs * data.rows / recipe.batch + 1e-9)
        with self.blamed(where("epochs")):
            if steps < 1:
                raise ValueError(f"{epochs:g} epochs of {data.rows:,} images are less than one batch of {recipe.batch}")
            run = Train(
                model=model,
                data=data,
                image_size=image_size,
                recipe=recipe,
                examples=steps * recipe.batch,
                seed=cell.values.get("seed", 0),
            )
        return PlannedRun(
            run=run,
            training=run,
            model=label,
            family=family_of(model),
            epochs=epochs,
            sweep=self.sweep_of(cell, run) if cell.searched else None,
            searched=json.dumps(cell.searched, sort_keys=True) if cell.searched else None,
        )

    def training_data(self, cell: _Cell) -> Data:
        values, where = cell.values, cell.places.get
        with self.blamed(where("data")):
            data_set = self.registry.get(values["data"])
        if "split" in values:
            with self.blamed(where("split")):
                data_set.selection(values["split"])
        with self.blamed(where("per_class"), where("subset"), where("split"), where("data")):
            return data_set.take(values.get("split", "train"), values.get("subset"), values.get("per_class"))

    def training_size(self, cell: _Cell, data: Data) -> int:
        image_size: int | None = cell.values.get("image_size", data.image_size)
        if image_size is None:
            wrong = f"images of {data.name} have many sizes: give 'image_size', the side that the network sees"
            raise self.source.error(cell.places["data"], wrong)
        return image_size

    def model(self, cell: _Cell) -> tuple[ViT | ResNet | Hybrid, str]:
        values, where = cell.values, cell.places.get
        written = values.get("model")
        if isinstance(written, dict):
            return self.altered(cell, written)
        if written is not None and not isinstance(written, str):
            if "head" in values:
                raise self.source.error(where("head") or (), "'head' has no effect on a shape that is written out")
            return written, describe(written)
        if written is not None:
            name = written
        else:
            with self.blamed(where("architecture")):
                name = compose(values["architecture"], values.get("size"), values.get("patch"))
        return self.named(cell, name, self.blame_of_name(cell)), name

    def named(self, cell: _Cell, name: str, blame: Place | None) -> ViT | ResNet | Hybrid:
        head = cell.values.get("head")
        if (name, str(head)) not in self.models:
            with self.blamed(blame):
                model = named(name, head, self.shapes)
                if head and isinstance(model, ResNet) and cell.places["head"][:1] != ("defaults",):
                    raise self.source.error(cell.places["head"], f"'head' has no effect on the ResNet {name}")
            self.models[name, str(head)] = model
        return self.models[name, str(head)]

    def altered(self, cell: _Cell, written: dict[str, Any]) -> tuple[ViT | ResNet | Hybrid, str]:
        """A named model with fields replaced."""
        place = cell.places["model"]
        fields = {name: value for name, value in written.items() if name != "base"}
        if not isinstance(written["base"], str):
            raise self.source.error((*place, "base"), "base: the name of a model is expected, as in ViT-B/16")
        if not fields:
            raise self.source.error(place, "nothing is replaced: write the name alone, or the fields to replace")
        model = self.named(cell, written["base"], (*place, "base"))
        return validated(type(model), altered_fields(model, fields), self.source, place), _label_of_altered(written)

    def blame_of_name(self, cell: _Cell) -> Place | None:
        """The part of a name that is unknown, as far as one can tell."""
        size = cell.values.get("size")
        architecture = cell.values.get("architecture")
        if size is not None and architecture in ("ViT", *(f"{body}+ViT" for body in self.shapes.ResNet)):
            return cell.places["size"] if size not in self.shapes.ViT else cell.places["patch"]
        return cell.places.get("model") or cell.places.get("architecture")

    def recipe(self, cell: _Cell) -> Recipe:
        written = cell.values["recipe"]
        place = cell.places["recipe"]
        fields = dict(written) if isinstance(written, dict) else {"base": written}
        if "base" in fields:
            base = fields.pop("base")
            if base not in RECIPES:
                at = (*place, "base") if isinstance(written, dict) else place
                raise self.source.error(at, f"'{base}' is no recipe{nearest(str(base), list(RECIPES))}")
            fields = {**RECIPES[base].model_dump(), **fields}
        recipe = validated(Recipe, fields, self.source, place)
        for name, value in cell.searched.items():
            at = (*cell.block, "sweep", name)
            with self.blamed((*at, self.file_index(cell, name, value))):
                recipe = Recipe.model_validate({**recipe.model_dump(), name: value})
        return recipe

    def file_index(self, cell: _Cell, name: str, value: Any) -> int:
        block = self.file.grids[int(cell.block[1])]
        assert block.sweep is not None
        return block.sweep[name].index(value)

    @staticmethod
    def sweep_of(cell: _Cell, run: Train) -> str:
        """Names the trainings that differ only in the searched fields and the seed."""
        fields = run.model_dump(mode="json")
        del fields["seed"]
        for name in cell.searched:
            del fields["recipe"][name]
        fields["searched"] = sorted(cell.searched)
        return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    # ------------------------------------------------------------------------------------------------ evaluations

    def check_evaluations(self) -> None:
        """No two evaluations of a study may give a result of the same name: a frontier could not tell them apart."""
        seen: dict[tuple[str, str | None, str, int | None], int] = {}
        for number, each in enumerate(self.file.evaluations):
            measured = (
                [metrics.ACCURACY] if isinstance(each, SplitEvaluation) else map(metrics.fewshot_accuracy, each.shots)
            )
            for metric in measured:
                name = (metric, each.data, each.split, each.image_size)
                if name in seen:
                    first = self.source.line(("evaluations", seen[name]))
                    wrong = f"'{metric}' on {each.split} is measured twice: see line {first}"
                    raise self.source.error(("evaluations", number), wrong)
                seen[name] = number

    def evaluations_of(self, planned: PlannedRun) -> Iterator[PlannedRun]:
        training = planned.training
        for number, each in enumerate(self.file.evaluations):
            place: Place = ("evaluations", number)
            with self.blamed((*place, "data"), place):
                data_set = self.registry.get(each.data or training.data.name)
            image_size = each.image_size or training.image_size
            with self.blamed((*place, "image_size"), place):
                check_fits(training.model, image_size)
            with self.blamed((*place, "split")):
                data = data_set.take(each.split)
            run: Evaluate | FewShot
            if isinstance(each, SplitEvaluation):
                if data.classes != training.data.classes:
                    wrong = f"{data.name} has {data.classes} classes, and the models are trained for"
                    raise self.source.error((*place, "data"), f"{wrong} {training.data.classes}")
                with self.blamed((*place, "view"), place):
                    run = Evaluate(upstream=planned.key, data=data, image_size=image_size, view=each.view)
            else:
                run = self.fewshot(each, planned, data_set, image_size, place)
            yield PlannedRun(
                run, training, planned.model, planned.family, planned.epochs, planned.sweep, planned.searched
            )

    def fewshot(
        self, each: FewShotEvaluation, planned: PlannedRun, data_set: DataSet, image_size: int, place: Place
    ) -> FewShot:
        with self.blamed((*place, "subset"), (*place, "support"), place):
            support = data_set.take(each.support, each.subset)
        most = support.rows // support.classes
        if max(each.shots) > most:
            wrong = f"{max(each.shots)} shots of {support.classes} classes need more than {support.rows:,} images"
            raise self.source.error((*place, "shots"), wrong)
        with self.blamed((*place, "view"), place):
            return FewShot(
                upstream=planned.key,
                support=support,
                data=data_set.take(each.split),
                image_size=image_size,
                view=each.view,
                shots=each.shots,
                support_seeds=each.seeds or ((0,) if each.draw == "first" else (0, 1, 2)),
                draw=each.draw,
                l2=each.l2,
            )
