"""What studies say about images: data sets of one's own, subsets, resolutions, augmentations and views."""

from pathlib import Path

import pytest

from studies.augmentations import AUGMENTATIONS, CenterCrop, InceptionCrop
from studies.definitions import Evaluate, FewShot, Train
from studies.grid import Study, load_study
from studies.registry import load_registry
from studies.yaml_source import StudyError

REGISTRY = f"""
datasets:
  photos:
    location: data/photos
    classes: 5
    development: 10%
    splits:
      train: {{rows: 1000, fingerprint: {"aa" * 32}, fewest: 150}}
      test: {{rows: 100, fingerprint: {"bb" * 32}}}
  pets:
    location: data/pets
    classes: 37
    splits:
      train: {{rows: 3680, fingerprint: {"cc" * 32}}}
      test: {{rows: 3669, fingerprint: {"dd" * 32}}}
"""
HEAD = """\
name: mini
title: A title
source: A source
shows: Something
shapes: {ViT: {xs: {width: 32, depth: 2, mlp: 64, heads: 2}}}
defaults: {model: ViT-xs/16, epochs: 4, recipe: small}
"""


def study(folder: Path, text: str) -> Study:
    (folder / "datasets.yaml").write_text(REGISTRY)
    path = folder / "study.yaml"
    path.write_text(HEAD + text)
    return load_study(path, "study.yaml", load_registry(folder / "datasets.yaml"))


def error(folder: Path, text: str) -> str:
    with pytest.raises(StudyError) as caught:
        study(folder, text)
    return str(caught.value)


def trainings(made: Study) -> list[Train]:
    return [planned.run for planned in made.runs if isinstance(planned.run, Train)]


def test_a_study_names_data_of_its_users_by_subset_split_and_resolution(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        "grids:\n"
        "  - {data: photos, subset: [10%, 300, 1k], image_size: [32, 64]}\n"
        "  - {data: photos, split: remaining, per_class: 20, image_size: 32}\n",
    )
    found = {(run.data.split, run.data.rows, run.data.per_class, run.image_size) for run in trainings(made)}
    assert found == {("train", rows, None, size) for rows in (100, 300, 1000) for size in (32, 64)} | {
        ("remaining", 100, 20, 32)
    }
    assert len({run.data.fingerprint for run in trainings(made)}) == 2, "a part has a fingerprint of its own"


def test_a_recipe_names_an_augmentation_or_writes_it_out(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        "grids:\n"
        "  - {data: photos, image_size: 32, recipe: {base: small, augmentation: strong1}}\n"
        "  - {data: photos, image_size: 32, recipe: {base: small, augmentation: {crop: {kind: inception-crop,"
        " area_min: 0.3}, mixup: 0.1}}}\n",
    )
    augmentations = {run.recipe.augmentation for run in trainings(made)}
    assert AUGMENTATIONS["strong1"] in augmentations
    (other,) = augmentations - {AUGMENTATIONS["strong1"]}
    assert (other.crop, other.flip, other.mixup) == (InceptionCrop(area_min=0.3), False, 0.1)


def test_evaluations_may_name_other_data_views_and_resolutions(tmp_path: Path) -> None:
    made = study(
        tmp_path,
        "grids: [{data: photos, image_size: 32}]\n"
        "evaluations:\n"
        "  - {kind: split, split: test, view: center-crop}\n"
        "  - {kind: split, split: test, image_size: 64, view: {kind: center-crop, resize: 80}}\n"
        "  - {kind: fewshot, data: pets, shots: 5, image_size: 48}\n"
        "  - {kind: fewshot, data: shapes, subset: 2k, shots: 5}\n",
    )
    evaluations = [planned.run for planned in made.runs if not isinstance(planned.run, Train)]
    first, second, pets, shapes = evaluations
    assert isinstance(first, Evaluate)
    assert isinstance(second, Evaluate)
    assert isinstance(pets, FewShot)
    assert isinstance(shapes, FewShot)
    assert (first.image_size, first.view) == (32, CenterCrop(resize=256))
    assert (second.image_size, second.view) == (64, CenterCrop(resize=80))
    assert (pets.data.name, pets.support.rows, pets.image_size) == ("pets", 3680, 48)
    assert (shapes.support.rows, shapes.data.rows) == (2000, 10_000)
    drawn = [planned.images for planned in made.runs if planned.run is pets]
    assert drawn == [3669 + 5 * 37 * 3], "of a support those images count that are drawn"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grids: [{data: photos}]", "study.yaml:7:16: images of photos have many sizes: give 'image_size'"),
        ("grids: [{data: foto, image_size: 32}]", "study.yaml:7:16: 'foto' is no data set"),
        ("grids: [{data: photos, split: tain, image_size: 32}]", "7:31: 'tain' is no split of photos"),
        ("grids: [{data: photos, subset: 200%, image_size: 32}]", "7:32: a subset of 200% is more than there is"),
        ("grids: [{data: photos, subset: 9X, image_size: 32}]", "7:32: '9X' is no number of images"),
        ("grids: [{data: photos, per_class: 151, image_size: 32}]", "has 150 images, fewer than 151"),
        ("grids: [{data: photos, per_class: 5, subset: 25, image_size: 32}]", "'subset' and 'per_class' both"),
        ("grids: [{data: photos, image_size: 40}]", "7:36: patches of 16 pixels do not divide the image of 40"),
        ("grids: [{data: shapes}]", "the train split of shapes is endless: give 'subset'"),
        (
            "grids: [{data: photos, image_size: 32, recipe: {base: small, augmentation: cutout}}]",
            "'cutout' is no augmentation; valid: none, shift",
        ),
        (
            "grids: [{data: photos, image_size: 32}]\nevaluations: [{kind: split, split: test, data: pets}]",
            "8:48: pets has 37 classes, and the models are trained for 5",
        ),
        (
            "grids: [{data: photos, image_size: 32}]\nevaluations: [{kind: split, split: test, view: centre}]",
            "'centre' is no view; valid: resize, center-crop, fewshot",
        ),
        (
            "grids: [{data: photos, image_size: 512}]\nevaluations: [{kind: split, split: test, view: center-crop}]",
            "a crop of 512 pixels cannot be cut from images scaled to 256",
        ),
        (
            "grids: [{data: photos, image_size: 32}]\nevaluations: [{kind: split, split: test, image_size: 33}]",
            "8:54: patches of 16 pixels do not divide the image of 33 pixels",
        ),
    ],
)
def test_what_a_study_says_wrongly_about_images_is_named_at_its_place(tmp_path: Path, text: str, message: str) -> None:
    assert message in error(tmp_path, text)
