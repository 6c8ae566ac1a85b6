"""How an image becomes the square that a network sees: by chance in training, always the same way in evaluation.

Only definitions: `workers/data/views.py` does it. Papers: Inception crops are those of arXiv:1409.4842, RandAugment is
arXiv:1909.13719, mixup arXiv:1710.09412; levels are those of AugReg (arXiv:2106.10270), transfer is BiT's
(arXiv:1912.11370v3, section 3.3 and appendix F).
"""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PositiveInt

from studies.frozen import Frozen, NonNegative


class Resize(Frozen):
    """The whole image, scaled to the square; its aspect ratio is not kept. An image of that size stays as it is."""

    kind: Literal["resize"] = "resize"


class CenterCrop(Frozen):
    """The middle of the image scaled to `resize` pixels."""

    kind: Literal["center-crop"] = "center-crop"
    resize: PositiveInt
    """Pixels of the smaller side, or of both sides without `keep_aspect`; at least the size of the square."""
    keep_aspect: bool = True


View = Annotated[Resize | CenterCrop, Field(discriminator="kind")]
"""What is seen of an image in evaluation: nothing is left to chance."""


class Shift(Frozen):
    """The image, padded by `pixels` of the darkest value on all sides, through a square window at a random place."""

    kind: Literal["shift"] = "shift"
    pixels: PositiveInt = 1


class InceptionCrop(Frozen):
    """A random rectangle of `area_min` or more of the image, with an aspect of 3/4 to 4/3, scaled to the square."""

    kind: Literal["inception-crop"] = "inception-crop"
    area_min: Annotated[float, Field(gt=0, le=1)] = 0.05


class RandomCrop(Frozen):
    """A random square of the image scaled to `resize` pixels."""

    kind: Literal["random-crop"] = "random-crop"
    resize: PositiveInt
    """Pixels of both sides, or of the smaller one with `keep_aspect`; at least the size of the square."""
    keep_aspect: bool = False


class RandAugment(Frozen):
    """`layers` operations on each image, picked by chance, each of this magnitude: 10 is the scale's original end."""

    layers: PositiveInt
    magnitude: Annotated[float, Field(ge=0, le=30)]


class Augmentation(Frozen):
    """What chance does to an image in training: crop, flip, RandAugment, then mixup of the batch."""

    crop: Annotated[Resize | CenterCrop | Shift | InceptionCrop | RandomCrop, Field(discriminator="kind")] = Resize()
    flip: bool = False
    """Mirror every other image from left to right."""
    randaugment: RandAugment | None = None
    mixup: NonNegative = 0.0
    """Both parameters of the beta distribution that images and labels of a batch are mixed by; 0 mixes nothing."""


_INCEPTION = Augmentation(crop=InceptionCrop(), flip=True)


def _augreg(mixup: float, layers: int, magnitude: float) -> Augmentation:
    return _INCEPTION.model_copy(
        update={"randaugment": RandAugment(layers=layers, magnitude=magnitude) if layers else None, "mixup": mixup}
    )


AUGMENTATIONS = {
    "none": Augmentation(),
    "shift": Augmentation(crop=Shift()),
    "flip": Augmentation(flip=True),
    "cifar": Augmentation(crop=Shift(pixels=4), flip=True),
    "inception": _INCEPTION,
    "bit-small": Augmentation(crop=RandomCrop(resize=160), flip=True),
    "bit-large": Augmentation(crop=RandomCrop(resize=448), flip=True),
    # AugReg's levels (protocols of arXiv:2106.10270): mixup, RandAugment's layers and magnitude.
    "light1": _augreg(0.0, 2, 0.0),
    "light2": _augreg(0.2, 2, 10.0),
    "medium1": _augreg(0.2, 2, 15.0),
    "medium2": _augreg(0.5, 2, 15.0),
    "strong1": _augreg(0.5, 2, 20.0),
    "strong2": _augreg(0.8, 2, 20.0),
}
"""Augmentations that a recipe names."""


def _named(value: Any) -> Any:
    """The augmentation of this name. Raises ValueError with the valid names."""
    if not isinstance(value, str):
        return value
    if value not in AUGMENTATIONS:
        raise ValueError(f"'{value}' is no augmentation; valid: {', '.join(AUGMENTATIONS)}, or its fields")
    return AUGMENTATIONS[value]


VIEWS: dict[str, Resize | CenterCrop] = {
    "resize": Resize(),
    # Of 224 of 256 pixels: the few-shot evaluator of big_vision scales both sides, common practice keeps the aspect.
    "center-crop": CenterCrop(resize=256),
    "fewshot": CenterCrop(resize=256, keep_aspect=False),
}
"""Views that an evaluation names."""


def _named_view(value: Any) -> Any:
    """The view of this name. Raises ValueError with the valid names."""
    if not isinstance(value, str):
        return value
    if value not in VIEWS:
        raise ValueError(f"'{value}' is no view; valid: {', '.join(VIEWS)}, or its fields")
    return VIEWS[value]


ViewUse = Annotated[View, BeforeValidator(_named_view)]
"""A view by name or by its fields."""
AugmentationUse = Annotated[Augmentation, BeforeValidator(_named)]
"""An augmentation by name or by its fields."""


# -------------------------------------------------------------------------------------------------------- transfer

_SMALL_PIXELS = 96
NO_FLIP = frozenset({"dsprites-orientation", "dsprites-location", "snorb-azimuth"})
"""VTAB tasks whose label a mirror image would change (BiT, appendix F)."""
NO_CROP = frozenset({"clevr-count", "clevr-distance", "dmlab", "kitti-distance", "dsprites-location"})
"""VTAB tasks whose label a crop would change (BiT, appendix F)."""


class Transfer(NamedTuple):
    """How a data set is fine-tuned on: what training and evaluation see, and at which resolution."""

    image_size: int
    train: Augmentation
    evaluate: View


def bit_transfer(height: int, width: int, task: str | None = None) -> Transfer:
    """BiT's rules: images smaller than 96 x 96 pixels are cropped to 128 of 160, larger ones to 384 of 448.

    height, width: of the data set's images, in pixels.
    task: a VTAB task that may be an exception; None for any other data set.
    """
    image_size, name = (128, "bit-small") if height * width < _SMALL_PIXELS**2 else (384, "bit-large")
    return Transfer(image_size, harmless(AUGMENTATIONS[name], task), Resize())


def harmless(augmentation: Augmentation, task: str | None) -> Augmentation:
    """The same without the crop or the flip that would change labels of a VTAB task; None is any other data set."""
    crop = Resize() if task in NO_CROP else augmentation.crop
    return augmentation.model_copy(update={"crop": crop, "flip": augmentation.flip and task not in NO_FLIP})


def check_sizes(view: Resize | CenterCrop | Shift | InceptionCrop | RandomCrop, image_size: int) -> None:
    """Raise ValueError when the square is larger than the image that it is cut from."""
    if isinstance(view, CenterCrop | RandomCrop) and view.resize < image_size:
        raise ValueError(f"a crop of {image_size} pixels cannot be cut from images scaled to {view.resize}")
