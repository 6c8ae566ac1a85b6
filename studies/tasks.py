"""How a network is fine-tuned on one data set: the splits, recipe, length, resolution and evaluations that a transfer
asks for, checked. What runs and searches become of that: `studies/transfers.py`.
"""

from math import floor
from pathlib import Path
from typing import Any, NamedTuple

from studies.augmentations import Resize, View, harmless
from studies.blame import blamed
from studies.datasets import DataSet, Part
from studies.definitions import Classification, Data, Recipe
from studies.language import SplitEvaluation, Transfer, TransferSplits
from studies.mappings import read_mapping
from studies.models import AnyModel, ResNet, check_fits, fine_tuned, transformer_of
from studies.planned import PlannedRun
from studies.recipes import BIT_HYPERRULE, RECIPES, bit_hyperrule, resolved
from studies.registry import Registry
from studies.searches import STEPS, Task
from studies.vtab import SUITES, task_of
from studies.yaml_source import Place, Source, StudyError


def check_resizable(model: AnyModel, before: int, after: int) -> None:
    """Raise ValueError for a model whose positions mean nothing at another size than that of its pre-training.

    before, after: sides of the image in pixels. `workers/models/transfer.py` resizes all others.
    """
    if before == after:
        return
    if isinstance(model, ResNet):
        if model.mixing == "axial":
            raise ValueError(
                f"an AxialResNet for images of {before} pixels cannot see {after}: give image_size {before}"
            )
    elif transformer_of(model).position == "relative":
        raise ValueError(
            f"relative positions for images of {before} pixels cannot see {after}: give image_size {before}"
        )


class Setting(NamedTuple):
    """How one data set is fine-tuned on, but for what is searched."""

    whole: Data
    image_size: int
    recipe: Recipe
    steps: int
    view: View
    evaluations: tuple[Classification, ...]


class Asked:
    """What one transfer asks for after one pre-training."""

    def __init__(
        self, transfer: Transfer, place: Place, source: Source, registry: Registry, planned: PlannedRun
    ) -> None:
        self.transfer = transfer
        self.place = place
        self.source = source
        self.registry = registry
        self.planned = planned
        self.model = fine_tuned(planned.training.model)
        self.suite = next((SUITES[name] for name in transfer.data if name in SUITES), None)
        self.names = self.suite.tasks if self.suite else transfer.data

    def error(self, wrong: str, *keys: str | int, at_key: bool = False) -> StudyError:
        """The error to raise for a value (or key) inside the transfer."""
        return self.source.error((*self.place, *keys), wrong, at_key=at_key)

    def at(self, *keys: str) -> Place:
        """The first of these keys that is written, for blame; else the transfer."""
        places = ((*self.place, key) for key in keys)
        return next((place for place in places if place in self.source.marks), self.place)

    def at_data(self, name: str) -> Place:
        """Where a data set is named."""
        place = (*self.place, "data", self.transfer.data.index(name) if name in self.transfer.data else 0)
        return place if place in self.source.marks else self.at("data")

    def splits(self) -> TransferSplits:
        """The names of splits that are written, over those of the suite."""
        written = self.transfer.splits
        if self.suite is None:
            return written
        return self.suite.splits.model_copy(update={key: getattr(written, key) for key in written.model_fields_set})

    def data_set(self, name: str) -> DataSet:
        """Raises StudyError for one that is unknown, or has images of other channels than the network sees."""
        with blamed(self.source, self.at_data(name)):
            found = self.registry.get(name)
        trained = self.planned.training.data
        if found.channels != trained.channels:
            wrong = f"images of {name} have {_channels(found)}, and those of {trained.name}, which the network"
            raise self.source.error(self.at_data(name), f"{wrong} is trained on, {trained.channels}")
        return found

    def taken(self, data_set: DataSet, split: str, subset: int | str | None = None) -> Data:
        """Raises StudyError at the name of the split where it is unknown, else at the subset."""
        keys = [key for key in ("whole", "search", "development", "test") if getattr(self.splits(), key) == split]
        places = [place for key in keys if (place := (*self.place, "splits", key)) in self.source.marks]
        if split not in data_set.splits:
            with blamed(self.source, *places, self.at_data(data_set.name)):
                data_set.selection(split)
        subset_place = (*self.place, "subset") if subset is not None else None
        with blamed(self.source, subset_place, *places, self.at_data(data_set.name)):
            return data_set.take(split, subset)

    def setting(self, name: str) -> Setting:
        """How this data set is fine-tuned on."""
        data_set = self.data_set(name)
        whole = self.taken(data_set, self.splits().whole, self.transfer.subset)
        ruled = bit_hyperrule(whole.rows, whole.image_size, task_of(name))
        written: Any = self.transfer.recipe
        if self.suite and "recipe" not in self.transfer.model_fields_set:
            written = self.suite.recipe
        recipes = {**RECIPES, BIT_HYPERRULE: ruled.recipe}
        recipe = resolved(written, self.source, (*self.place, "recipe"), recipes)
        recipe = recipe.model_copy(update={"augmentation": harmless(recipe.augmentation, task_of(name))})
        view = self.transfer.view or Resize()
        if (written.get("base") if isinstance(written, dict) else written) == BIT_HYPERRULE:
            for key in ("steps", "epochs", "image_size"):
                if getattr(self.transfer, key) is not None:
                    raise self.error(f"'{key}' has no effect: {BIT_HYPERRULE} decides it", key, at_key=True)
            image_size, steps, view = ruled.image_size, ruled.steps, self.transfer.view or ruled.view
        else:
            of_suite = self.suite.image_size if self.suite else None
            image_size = self.transfer.image_size or of_suite or self.planned.training.image_size
            steps = self.steps(recipe, whole)
        self.check_network(image_size)
        return Setting(whole, image_size, recipe, steps, view, self.evaluations(data_set, whole, image_size, view))

    def steps(self, recipe: Recipe, whole: Data) -> int:
        """How long the training is; where that is searched, some number."""
        transfer, searched = self.transfer, self.transfer.search or {}
        if transfer.steps is not None and transfer.epochs is not None:
            raise self.error("'steps' and 'epochs' both say how long: keep one", "epochs", at_key=True)
        if STEPS in searched:
            for key in ("steps", "epochs"):
                if getattr(transfer, key) is not None:
                    raise self.error(f"'{key}' has no effect while 'steps' are searched", key, at_key=True)
            return 1
        if transfer.steps is not None:
            return transfer.steps
        if transfer.epochs is not None:
            if "batch" in searched:
                raise self.error("epochs are of one batch, and 'batch' is searched: give 'steps'", "epochs")
            steps = floor(transfer.epochs * whole.rows / recipe.batch + 1e-9)
            if steps < 1:
                wrong = f"{transfer.epochs:g} epochs of {whole.rows:,} images of {whole.name} are less than one batch"
                raise self.error(f"{wrong} of {recipe.batch}", "epochs")
            return steps
        if self.suite:
            return self.suite.steps
        raise self.error("how long is not said: give 'steps' or 'epochs'")

    def check_network(self, image_size: int) -> None:
        """Raise StudyError where the network cannot see images of this side."""
        pretrained = self.planned.training
        try:
            check_fits(self.model, image_size)
            check_resizable(pretrained.model, pretrained.image_size, image_size)
        except ValueError as error:
            place = self.at("image_size", "recipe", "data")
            raise self.source.error(place, f"{self.planned.model}: {error}") from None

    # ------------------------------------------------------------------------------------------------ evaluations

    def evaluations(self, data_set: DataSet, whole: Data, image_size: int, view: View) -> tuple[Classification, ...]:
        """What fine-tuned models classify."""
        if self.transfer.evaluations is None:
            data = self.taken(data_set, self.splits().test)
            with blamed(self.source, self.at("view", "data")):
                return (Classification(data=data, image_size=image_size, view=view),)
        seen: dict[tuple[str, str, int], int] = {}
        found = []
        for number, each in enumerate(self.transfer.evaluations):
            measured = self.evaluation(each, (*self.place, "evaluations", number), data_set, whole, image_size, view)
            name = (measured.data.name, measured.data.split, measured.image_size)
            if name in seen:
                line = self.source.line((*self.place, "evaluations", seen[name]))
                wrong = f"'{each.split}' of {measured.data.name} is measured twice: see line {line}"
                raise self.error(wrong, "evaluations", number)
            seen[name] = number
            found.append(measured)
        return tuple(found)

    def evaluation(
        self, each: SplitEvaluation, place: Place, data_set: DataSet, whole: Data, image_size: int, view: View
    ) -> Classification:
        """Raises StudyError at the field that makes it impossible."""
        if each.data is not None:
            with blamed(self.source, (*place, "data")):
                data_set = self.registry.get(each.data)
        with blamed(self.source, (*place, "split")):
            data = data_set.take(each.split)
        if data.channels != whole.channels:
            wrong = f"images of {data.name} have {_channels(data)}, and those of {whole.name} {whole.channels}"
            raise self.source.error((*place, "data"), wrong)
        mapping = None
        if each.mapping is not None:
            with blamed(self.source, (*place, "mapping")):
                mapping = read_mapping(Path(each.mapping), whole.classes)
        elif data.classes != whole.classes:
            wrong = f"{data.name} has {data.classes} classes, and models are fine-tuned for the {whole.classes} of"
            raise self.source.error((*place, "data"), f"{wrong} {whole.name}: a 'mapping' says which are the same")
        size = each.image_size or image_size
        with blamed(self.source, (*place, "image_size")):
            check_fits(self.model, size)
            check_resizable(self.model, image_size, size)
        with blamed(self.source, (*place, "mapping" if mapping else "view")):
            return Classification(
                data=data,
                image_size=size,
                view=each.view if "view" in each.model_fields_set else view,
                mapping=mapping,
            )

    def task(self, name: str) -> Task:
        """How this data set is searched on."""
        data_set = self.data_set(name)
        searched, development = self.search_splits(data_set)
        setting = self.setting(name)
        return Task(
            search=self.taken(data_set, searched, self.transfer.subset),
            development=self.taken(data_set, development),
            **setting._asdict(),
        )

    def search_splits(self, data_set: DataSet) -> tuple[str, str]:
        """What trials are trained on, and what decides between them."""
        splits = self.splits()

        def is_of(split: str, whole: str) -> bool:
            made = data_set.splits.get(split)
            return isinstance(made, Part) and made.of == whole

        place = self.at("splits") if "splits" in self.transfer.model_fields_set else self.at_data(data_set.name)
        searched = splits.search or ("remaining" if is_of("remaining", splits.whole) else splits.whole)
        known = [name for name in ("development", "validation") if name in data_set.splits]
        development = splits.development or next((name for name in known if not is_of(name, searched)), None)
        if development is None and not known:
            wrong = f"{data_set.name} has no 'development' or 'validation' split to choose on"
            raise self.source.error(place, f"{wrong}: write splits: {{development: ...}}")
        development = development or known[0]
        if development == searched or is_of(development, searched):
            wrong = f"'{development}' of {data_set.name} decides between trials and is in '{searched}', which they are"
            raise self.source.error(place, f"{wrong} trained on: write splits: {{search: ...}}")
        return searched, development


def _channels(images: DataSet | Data) -> str:
    return f"{images.channels} channel{'s' * (images.channels != 1)}"
