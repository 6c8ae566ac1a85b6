"""The networks that a study trains, their neighbours in size, and what others would cost there."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from db import answers
from db.frontiers import Point
from db.store import Store
from studies import cost, language
from studies.architectures import PUBLISHED, Body, Encoder, Shapes, family_of, named
from studies.definitions import RUN, FineTune, Train
from studies.devices import DeviceFacts
from studies.memory import recipe_memory
from studies.models import AnyModel, Hybrid, MaskedPatch, ResNet, ViT, check_fits, fine_tuned, transformer_of


@dataclass(frozen=True)
class Network:
    """A network as a study trains it, or would."""

    label: str
    model: AnyModel
    pretraining: Train
    """Says on which images, of which size and classes: what is paid for."""
    training: Train | FineTune
    """Says the same of what was measured at last, whose parameters count."""

    @property
    def parameters(self) -> int:
        """Of the network that is measured."""
        data = self.training.data
        model = fine_tuned(self.model) if isinstance(self.training, FineTune) else self.model
        return cost.parameters(model, self.training.image_size, data.channels, data.classes)

    @property
    def flops_per_image(self) -> float:
        """Of its pre-training, for an image that is seen once."""
        data = self.pretraining.data
        return cost.train_flops(self.model, self.pretraining.image_size, data.channels, data.classes, 1)

    @property
    def family(self) -> str:
        """The family whose frontier it would be on."""
        return family_of(self.model)

    def fits(self, device: DeviceFacts) -> bool:
        """Whether a training step of one image fits into a unit of the device; a larger batch then goes in parts."""
        if device.memory_bytes is None:
            return True
        data, recipe = self.pretraining.data, self.pretraining.recipe
        needed = recipe_memory(self.model, self.pretraining.image_size, data.channels, data.classes, recipe, device)
        return needed.largest_batch(device.memory_bytes) >= 1


def networks_of(store: Store, study: answers.Study, points: list[Point]) -> dict[str, Network]:
    """The networks behind points, by the names that the study gives them. Imported points have none.

    Raises ValueError where they were pre-trained at more than one image size or number of classes: then no one cost
    belongs to a network.
    """
    wanted = {name for point in points if not point.external for name in (point.training, point.pretraining)}
    if not wanted:
        return {}
    with store.read() as connection:
        runs = answers.runs_of(connection, study.id)
    by_key = {run.key: run for run in runs}
    found: dict[str, Network] = {}
    # A fine-tuning comes after its pre-training, and says more: it takes its place.
    for run in runs:
        if run.configuration in wanted and run.kind in ("train", "finetune"):
            training = RUN.validate_json(run.definition)
            pretraining = training
            if isinstance(training, FineTune):
                pretraining = RUN.validate_json(by_key[training.upstream].definition)
            assert isinstance(training, Train | FineTune)
            assert isinstance(pretraining, Train)
            found[run.model] = Network(run.model, pretraining.model, pretraining, training)
    settings = {_setting(network) for network in found.values()}
    if len(settings) > 1:
        listed = "; ".join(
            f"{size} pixels, {channels} channels, {classes} classes" for size, channels, classes in sorted(settings)
        )
        raise ValueError(
            f"{study.name} pre-trains on images of more than one kind ({listed}), so what a network costs is not one "
            "number: give its cost with --flops"
        )
    return found


def _setting(network: Network) -> tuple[int, int, int]:
    data = network.pretraining.data
    return network.pretraining.image_size, data.channels, data.classes


def shapes_of(study: answers.Study) -> Shapes:
    """What the parts of names mean in a study: published shapes, and its own."""
    if not study.text:
        return PUBLISHED
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(study.text)
        file.flush()
        try:
            return language.load(Path(file.name), study.file)[0].shapes.with_published()
        except ValueError:  # written for an older version of the language
            return PUBLISHED


def network_named(name: str, known: dict[str, Network], study: answers.Study) -> Network:
    """A network by the name that the study gives it, or by the name of any architecture, in the study's setting.

    Raises ValueError with the nearest name when there is no such architecture, or it does not fit the study's images.
    """
    if name in known:
        return known[name]
    if not known:
        raise ValueError(
            f"{study.name} has no trainings of its own, so what {name} costs there is not known: give its cost with "
            "--flops, or its size with --parameters"
        )
    setting = next(iter(known.values()))
    # Like the study's own: of the heads that its transformers have, if they agree.
    heads = {transformer_of(each.model).head for each in known.values() if not isinstance(each.model, ResNet)}
    model = named(name, heads.pop() if len(heads) == 1 else None, shapes_of(study))
    check_fits(model, setting.pretraining.image_size)
    return replace(setting, label=name, model=model)


# ---------------------------------------------------------------------------------------------------------- neighbours


def with_neighbours(known: dict[str, Network], study: answers.Study) -> dict[str, Network]:
    """These networks, and of each the next smaller and the next larger one: another size of transformer, or another
    body, all else equal. A shape without a name has no neighbours.
    """
    shapes = shapes_of(study)
    found = dict(known)
    for network in known.values():
        for label, model in _neighbours(network, shapes):
            found.setdefault(label, replace(network, label=label, model=model))
    return found


def _neighbours(network: Network, shapes: Shapes) -> Iterator[tuple[str, AnyModel]]:
    model = network.model
    if isinstance(model, ViT):
        for old, new, encoder in _encoders(model, shapes):
            yield network.label.replace(f"ViT-{old}/", f"ViT-{new}/"), model.model_copy(update=encoder.model_dump())
    elif isinstance(model, Hybrid | MaskedPatch):
        for old, new, encoder in _encoders(model.vit, shapes):
            vit = model.vit.model_copy(update=encoder.model_dump())
            yield network.label.replace(f"ViT-{old}/", f"ViT-{new}/"), model.model_copy(update={"vit": vit})
    elif isinstance(model, ResNet):
        for old, new, body in _bodies(model, network.label, shapes):
            yield network.label.replace(old, new, 1), model.model_copy(update={"blocks": body.blocks})


def _encoders(vit: ViT, shapes: Shapes) -> Iterator[tuple[str, str, Encoder]]:
    """Name of this shape, name and shape of a neighbour."""
    ordered = sorted(
        shapes.ViT.items(), key=lambda item: item[1].depth * item[1].width * (4 * item[1].width + 2 * item[1].mlp)
    )
    for place, (name, encoder) in enumerate(ordered):
        if all(getattr(vit, field) == value for field, value in encoder.model_dump().items()):
            for other in ordered[max(0, place - 1) : place] + ordered[place + 1 : place + 2]:
                yield name, *other


def _bodies(resnet: ResNet, label: str, shapes: Shapes) -> Iterator[tuple[str, str, Body]]:
    ordered = sorted(
        ((name, body) for name, body in shapes.ResNet.items() if body.blocks and body.root == resnet.root),
        key=lambda item: sum(item[1].blocks),
    )
    for place, (name, body) in enumerate(ordered):
        if body.blocks == resnet.blocks and label.startswith(name):
            for other in ordered[max(0, place - 1) : place] + ordered[place + 1 : place + 2]:
                yield name, *other
