"""From a study file to its runs: every cell of its grids is checked, and each run is keyed and priced."""

import json
from dataclasses import dataclass
from hashlib import sha256
from math import floor
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from studies.architectures import Shapes, altered_fields, compose, describe, family_of, named
from studies.blame import blamed
from studies.cells import Cell, Dropped, cells, label_of_altered
from studies.definitions import Data, Recipe, Train
from studies.evaluations import Measured, check_evaluations, evaluations_of, measurements, watches
from studies.language import Evaluation, SplitEvaluation, StudyFile, load, validated
from studies.models import AnyModel, Hybrid, MaskedPatch, ResNet, ViT, check_fits
from studies.planned import PlannedRun
from studies.recipes import resolved
from studies.registry import BUILT_IN_ONLY, Registry
from studies.searches import PlannedSearch
from studies.transfers import check_models, planned_transfers
from studies.trunks import with_trunks
from studies.yaml_source import Place, Source

_LONG = 10**9
"""Steps of a training that is longer than any schedule."""


@dataclass(frozen=True)
class Study:
    """A study that is fit to run."""

    file: StudyFile
    path: str
    text: str
    runs: tuple[PlannedRun, ...]
    """Cheapest trainings first, each followed by its evaluations, then its fine-tunings and theirs; no key twice, and
    each run after those that it stands on."""
    dropped: tuple[Dropped, ...]
    searches: tuple[PlannedSearch, ...] = ()
    """Their runs follow from results, and are not among these."""


def load_study(path: Path, shown: str | None = None, registry: Registry = BUILT_IN_ONLY) -> Study:
    """Read a study file, check all of it, and expand it.

    registry: the data sets that it may name.
    Raises StudyError at the first fault, as `file:line:column: what is wrong`.
    """
    file, source = load(path, shown)
    return _Expansion(_beside(path.parent, file), source, registry).study(path)


def _beside(folder: Path, file: StudyFile) -> StudyFile:
    """The study with the paths of its mappings, which are named relative to its own folder."""

    def placed(each: Evaluation) -> Evaluation:
        if not isinstance(each, SplitEvaluation) or each.mapping is None:
            return each
        return each.model_copy(update={"mapping": str(folder / each.mapping)})

    transfers = [
        each.model_copy(update={"evaluations": tuple(map(placed, each.evaluations))}) if each.evaluations else each
        for each in file.transfers
    ]
    evaluations = tuple(map(placed, file.evaluations))
    return file.model_copy(update={"evaluations": evaluations, "transfers": tuple(transfers)})


class _Expansion:
    """Expands one file. State: what has been made so far, and names that were resolved before."""

    def __init__(self, file: StudyFile, source: Source, registry: Registry) -> None:
        self.file = file
        self.source = source
        self.registry = registry
        self.dropped: list[Dropped] = []
        self.models: dict[tuple[str, str], ViT | ResNet | Hybrid] = {}
        self.measured: dict[str, list[Measured]] = {}
        with blamed(source, ("shapes",)):
            self.shapes: Shapes = file.shapes.with_published()

    def study(self, path: Path) -> Study:
        check_evaluations(self.file, self.source)
        trainings: dict[str, PlannedRun] = {}
        for number in range(len(self.file.grids)):
            for cell in cells(self.file, self.source, number, self.dropped):
                planned = self.training(cell)
                if planned.key in trainings:
                    self.dropped.append(Dropped(str(cell), "the same run as a cell before it"))
                else:
                    trainings[planned.key] = planned
        if not trainings:
            raise self.source.error(("grids",), "the grids make no run: everything is excluded")
        check_models(self.file, self.source, {planned.model for planned in trainings.values()})
        runs: dict[str, PlannedRun] = {}
        searches: dict[str, PlannedSearch] = {}
        for planned in sorted(with_trunks(list(trainings.values())), key=lambda planned: planned.train_flops):
            runs[planned.key] = planned
            if planned.role == "trunk":
                continue
            for each in evaluations_of(planned, self.measured[planned.key]):
                runs[each.key] = each
            transferred, searched = planned_transfers(self.file, self.source, self.registry, planned)
            for each in transferred:
                runs.setdefault(each.key, each)
            for search in searched:
                searches.setdefault(search.key, search)
        text = path.read_text(encoding="utf-8-sig")
        return Study(
            self.file, self.source.file, text, tuple(runs.values()), tuple(self.dropped), tuple(searches.values())
        )

    def training(self, cell: Cell) -> PlannedRun:
        """The training of a cell. Raises StudyError at the axis that makes it impossible."""
        where = cell.places.get
        data = self.training_data(cell)
        image_size = self.training_size(cell, data)
        model, label = self.model(cell)
        with blamed(self.source, where("image_size"), where("patch"), where("model"), where("architecture")):
            check_fits(model, image_size)
        recipe = self.recipe(cell)
        measured = measurements(self.file, self.source, self.registry, model, data, image_size)
        steps, epochs = self.length(cell, data, recipe)
        run = self.possible(cell, model, data, image_size, recipe, steps)
        watched = watches(self.file, self.source, measured, run)
        if watched:
            run = Train.model_validate({**dict(run), "watches": watched})
        planned = PlannedRun(
            run=run,
            training=run,
            model=label,
            family=family_of(model),
            epochs=epochs,
            sweep=self.sweep_of(cell, run) if cell.searched else None,
            searched=json.dumps(cell.searched, sort_keys=True) if cell.searched else None,
        )
        self.measured[planned.key] = measured
        return planned

    def possible(self, cell: Cell, model: AnyModel, data: Data, image_size: int, recipe: Recipe, steps: int) -> Train:
        """The training of so many steps. Raises StudyError at the recipe, or at the length if a longer one could be."""
        where = cell.places.get

        def made(steps: int) -> Train:
            seed = cell.values.get("seed", 0)
            examples = steps * recipe.batch
            return Train(model=model, data=data, image_size=image_size, recipe=recipe, examples=examples, seed=seed)

        try:
            return made(steps)
        except ValidationError:
            with blamed(self.source, where("recipe")):
                made(_LONG)
            with blamed(self.source, where("epochs"), where("steps")):
                return made(steps)

    def length(self, cell: Cell, data: Data, recipe: Recipe) -> tuple[int, float]:
        """Steps, and passes over the images."""
        if "steps" in cell.values:
            steps: int = cell.values["steps"]
            return steps, steps * recipe.batch / data.rows
        epochs = float(cell.values["epochs"])
        steps = floor(epochs * data.rows / recipe.batch + 1e-9)
        if steps < 1:
            wrong = f"{epochs:g} epochs of {data.rows:,} images are less than one batch of {recipe.batch}"
            raise self.source.error(cell.places["epochs"], wrong)
        return steps, epochs

    def training_data(self, cell: Cell) -> Data:
        values, where = cell.values, cell.places.get
        with blamed(self.source, where("data")):
            data_set = self.registry.get(values["data"])
        if "split" in values:
            with blamed(self.source, where("split")):
                data_set.selection(values["split"])
        with blamed(self.source, where("per_class"), where("subset"), where("split"), where("data")):
            return data_set.take(values.get("split", "train"), values.get("subset"), values.get("per_class"))

    def training_size(self, cell: Cell, data: Data) -> int:
        image_size: int | None = cell.values.get("image_size", data.image_size)
        if image_size is None:
            wrong = f"images of {data.name} have many sizes: give 'image_size', the side that the network sees"
            raise self.source.error(cell.places["data"], wrong)
        return image_size

    # ------------------------------------------------------------------------------------------------------ models

    def model(self, cell: Cell) -> tuple[AnyModel, str]:
        values, where = cell.values, cell.places.get
        written = values.get("model")
        if isinstance(written, dict):
            return self.altered(cell, written), label_of_altered(written)
        if written is not None and not isinstance(written, str):
            if "head" in values:
                raise self.source.error(where("head") or (), "'head' has no effect on a shape that is written out")
            return written, describe(written)
        if written is not None:
            name = written
        else:
            with blamed(self.source, where("architecture")):
                name = compose(values["architecture"], values.get("size"), values.get("patch"))
        return self.named(cell, name, self.blame_of_name(cell)), name

    def named(self, cell: Cell, name: str, blame: Place | None, usual: str | None = None) -> ViT | ResNet | Hybrid:
        """The model of this name. usual: its head, where the grid has no axis of heads."""
        head = cell.values.get("head", usual)
        if (name, str(head)) not in self.models:
            with blamed(self.source, blame):
                model = named(name, head, self.shapes)
                if "head" in cell.values and isinstance(model, ResNet) and cell.places["head"][:1] != ("defaults",):
                    raise self.source.error(cell.places["head"], f"'head' has no effect on the ResNet {name}")
            self.models[name, str(head)] = model
        return self.models[name, str(head)]

    def altered(self, cell: Cell, written: dict[str, Any]) -> AnyModel:
        """A named model with fields replaced, or one that is pre-trained on its masked patches."""
        place = cell.places["model"]
        fields = {name: value for name, value in written.items() if name != "base"}
        if not isinstance(written["base"], str):
            raise self.source.error((*place, "base"), "base: the name of a model is expected, as in ViT-B/16")
        if not fields:
            raise self.source.error(place, "nothing is replaced: write the name alone, or the fields to replace")
        if "masked" in fields:
            return self.masked(cell, written["base"], fields)
        model = self.named(cell, written["base"], (*place, "base"))
        return validated(type(model), altered_fields(model, fields), self.source, place)

    def masked(self, cell: Cell, base: str, fields: dict[str, Any]) -> MaskedPatch:
        """`masked` says what is predicted, `corrupted` of which share of the patches; other fields are the ViT's."""
        place = cell.places["model"]
        model = self.named(cell, base, (*place, "base"), usual="token")
        if not isinstance(model, ViT):
            wrong = f"'{base}' is no ViT: masked patches are predicted by a transformer that sees the image's own"
            raise self.source.error((*place, "base"), wrong)
        own = {"target": fields.pop("masked")}
        if "corrupted" in fields:
            own["corrupted"] = fields.pop("corrupted")
        vit = validated(ViT, altered_fields(model, fields), self.source, place)
        with blamed(self.source, (*place, "masked")):
            return MaskedPatch(vit=vit, **own)

    def blame_of_name(self, cell: Cell) -> Place | None:
        """The part of a name that is unknown, as far as one can tell."""
        size = cell.values.get("size")
        architecture = cell.values.get("architecture")
        if size is not None and architecture in ("ViT", *(f"{body}+ViT" for body in self.shapes.ResNet)):
            return cell.places["size"] if size not in self.shapes.ViT else cell.places["patch"]
        return cell.places.get("model") or cell.places.get("architecture")

    # ----------------------------------------------------------------------------------------------------- recipes

    def recipe(self, cell: Cell) -> Recipe:
        recipe = resolved(cell.values["recipe"], self.source, cell.places["recipe"])
        for name, value in cell.searched.items():
            at = (*cell.block, "sweep", name)
            with blamed(self.source, (*at, self.file_index(cell, name, value))):
                recipe = Recipe.model_validate({**recipe.model_dump(), name: value})
        return recipe

    def file_index(self, cell: Cell, name: str, value: Any) -> int:
        block = self.file.grids[int(cell.block[1])]
        assert block.sweep is not None
        return block.sweep[name].index(value)

    @staticmethod
    def sweep_of(cell: Cell, run: Train) -> str:
        """Names the trainings that differ only in the searched fields and the seed."""
        fields = run.model_dump(mode="json")
        del fields["seed"]
        for name in cell.searched:
            del fields["recipe"][name]
        fields["searched"] = sorted(cell.searched)
        return sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
