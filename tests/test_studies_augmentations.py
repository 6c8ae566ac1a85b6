import pytest
from pydantic import TypeAdapter, ValidationError

from studies.augmentations import (
    AUGMENTATIONS,
    NO_CROP,
    NO_FLIP,
    Augmentation,
    AugmentationUse,
    CenterCrop,
    InceptionCrop,
    RandAugment,
    RandomCrop,
    Resize,
    Shift,
    View,
    bit_transfer,
    check_sizes,
)

use = TypeAdapter(AugmentationUse)


def test_an_augmentation_is_written_by_its_name_or_by_its_fields() -> None:
    assert use.validate_python("cifar") == Augmentation(crop=Shift(pixels=4), flip=True)
    assert use.validate_python({"crop": {"kind": "shift", "pixels": 4}, "flip": True}) == AUGMENTATIONS["cifar"]
    assert use.validate_python({}) == AUGMENTATIONS["none"]


def test_an_unknown_name_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValidationError, match=r"'cifra' is no augmentation; valid: none, shift, .*strong2"):
        use.validate_python("cifra")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_augmentation_survives_json(name: str) -> None:
    augmentation = AUGMENTATIONS[name]
    assert Augmentation.model_validate_json(augmentation.model_dump_json()) == augmentation


def test_the_levels_of_augreg_are_those_of_its_paper() -> None:
    expected = {
        "light1": (0.0, 2, 0.0),
        "light2": (0.2, 2, 10.0),
        "medium1": (0.2, 2, 15.0),
        "medium2": (0.5, 2, 15.0),
        "strong1": (0.5, 2, 20.0),
        "strong2": (0.8, 2, 20.0),
    }
    for name, (mixup, layers, magnitude) in expected.items():
        assert AUGMENTATIONS[name] == Augmentation(
            crop=InceptionCrop(area_min=0.05),
            flip=True,
            randaugment=RandAugment(layers=layers, magnitude=magnitude),
            mixup=mixup,
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"crop": {"kind": "inception-crop", "area_min": 0.0}},
        {"crop": {"kind": "inception-crop", "area_min": 1.1}},
        {"crop": {"kind": "shift", "pixels": 0}},
        {"crop": {"kind": "resize", "pixels": 1}},
        {"crop": {"kind": "random-crop"}},
        {"randaugment": {"layers": 2, "magnitude": 31.0}},
        {"mixup": -0.1},
        {"mixup": float("nan")},
        {"flips": True},
    ],
)
def test_a_setting_without_a_meaning_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        use.validate_python(fields)


def test_a_view_of_evaluation_leaves_nothing_to_chance() -> None:
    view = TypeAdapter(View)
    assert view.validate_python({"kind": "center-crop", "resize": 256}) == CenterCrop(resize=256)
    with pytest.raises(ValidationError):
        view.validate_python({"kind": "random-crop", "resize": 256})


def test_small_images_are_cropped_to_128_of_160_and_larger_ones_to_384_of_448() -> None:
    small = bit_transfer(32, 32)
    assert (small.image_size, small.train.crop, small.evaluate) == (128, RandomCrop(resize=160), Resize())
    assert bit_transfer(95, 97).image_size == 128
    large = bit_transfer(96, 96)
    assert (large.image_size, large.train.crop, large.train.flip) == (384, RandomCrop(resize=448), True)


@pytest.mark.parametrize("task", sorted(NO_FLIP | NO_CROP))
def test_exceptions_of_vtab_change_no_label(task: str) -> None:
    train = bit_transfer(64, 64, task).train
    assert train.flip == (task not in NO_FLIP)
    assert isinstance(train.crop, Resize) == (task in NO_CROP)


def test_a_square_larger_than_the_image_that_it_is_cut_from_is_refused() -> None:
    check_sizes(CenterCrop(resize=224), 224)
    check_sizes(InceptionCrop(), 10_000)
    for view in (CenterCrop(resize=223), RandomCrop(resize=223)):
        with pytest.raises(ValueError, match="a crop of 224 pixels cannot be cut from images scaled to 223"):
            check_sizes(view, 224)
