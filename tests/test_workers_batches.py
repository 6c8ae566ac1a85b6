"""Training and evaluation on real files: from shards through subsets and augmentation to the same bits again."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from studies.datasets import DIGITS, DataSet, DropList, Files, Part, StoredSplit
from studies.definitions import Evaluate, FewShot, Recipe, Train, key_of
from studies.manifests import Columns
from studies.metrics import ACCURACY, fewshot_accuracy
from studies.models import ViT
from studies.registry import BUILT_IN_ONLY, Registry
from studies.schedules import Cosine
from studies.subsets import rows_digest
from tests.image_shards import encoded, write_split
from workers.data.batches import Batches, normalized
from workers.data.index import index_shards, manifest_of, write_index
from workers.data.sources import open_source
from workers.data.views import EvalView
from workers.devices import Device
from workers.perform import perform
from workers.supervision import DataError, Finished, Place, Wish, Yielded

CPU = Device.named("cpu")
SIZE, CLASSES = 8, 3
RECIPE = Recipe(lr_peak=1e-2, schedule=Cosine(), warmup_steps=1, weight_decay=0.1, batch=8)


class Recorder:
    """Wishes to yield from a step on, and keeps the checkpoint."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.current: Path | None = None

    def reached(self, step: int) -> Wish:
        return Wish.CONTINUE if self.at is None or step < self.at else Wish.YIELD

    def measure(self, step: int, metrics: object) -> None:
        pass

    def checkpointed(self, folder: Path, step: int) -> None:
        self.current = folder


def registered(folder: Path, *, bad: DropList | None = None, **changes: Any) -> Registry:
    """The shards of a folder as the data set `photos`."""
    files = sorted(path.name for path in folder.glob("train-*.parquet"))
    split = index_shards(str(folder), files, Columns())
    manifest = manifest_of({"train": split}, Columns(), channels=3, image_size=None, classes=CLASSES)
    origin = Files(location=str(folder))
    write_index(origin.index_location, manifest, {"train": split})
    train = StoredSplit(rows=manifest.splits["train"].rows, fingerprint=manifest.fingerprint("train"), bad=bad)
    fields: dict[str, Any] = {
        "name": "photos",
        "origin": origin,
        "splits": {"train": train, "development": Part(of="train", stop="25%")},
        "classes": CLASSES,
        "channels": 3,
        "image_size": None,
        "source": "this test",
    }
    return Registry({"photos": DataSet(**(fields | changes))}, folder / "datasets.yaml")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("photos")
    write_split(folder, "train", shards=2, rows=30)
    return registered(folder)


def training_of(registry: Registry, steps: int = 6, subset: int | None = 40, **recipe: Any) -> Train:
    changed = Recipe.model_validate({**RECIPE.model_dump(), "augmentation": "inception", **recipe})
    return Train(
        model=ViT(patch=4, width=8, depth=1, mlp=8, heads=1),
        data=registry.get("photos").take("train", subset),
        image_size=SIZE,
        recipe=changed,
        examples=steps * changed.batch,
        seed=1,
    )


def place_in(folder: Path, registry: Registry, **fields: Any) -> Place:
    return Place(device=CPU, folder=folder, registry=registry, **fields)


def trained(registry: Registry, folder: Path, **recipe: Any) -> tuple[Train, Finished]:
    run = training_of(registry, **recipe)
    return run, perform(run, place_in(folder, registry), Recorder())


def bits(finished: Finished) -> bytes:
    assert finished.checkpoint is not None
    return (finished.checkpoint / "state.safetensors").read_bytes()


# -------------------------------------------------------------------------------------------------------- training


def test_digits_have_the_pixels_and_labels_that_scikit_learn_has() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    shuffled = np.random.default_rng(0).permutation(len(digits.target))[:1000]
    pixels, labels = open_source(DIGITS.take("train"), BUILT_IN_ONLY).decoded()

    def as_set(image_N: Any, label_N: Any) -> list[tuple[bytes, int]]:
        return sorted((image.tobytes(), int(label)) for image, label in zip(image_N, label_N, strict=True))

    expected = np.rint(digits.images[shuffled] * (255 / 16)).astype(np.uint8)
    assert as_set(pixels, labels) == as_set(expected, digits.target[shuffled])


def test_normalized_values_span_minus_one_to_one_and_channels_come_first() -> None:
    found = normalized(torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8))
    assert found.dtype == torch.float32
    assert found.shape == (1, 3, 1, 1)
    assert found.is_contiguous()
    assert found.flatten().tolist() == pytest.approx([-1, 1 / 255, 1], abs=1e-6)


@pytest.mark.parametrize("augmentation", ["inception", "strong2"])
def test_a_training_on_files_stopped_at_any_step_goes_on_to_the_same_bits(
    registry: Registry, tmp_path: Path, augmentation: str
) -> None:
    run = training_of(registry, augmentation=augmentation)
    unbroken = perform(run, place_in(tmp_path / "unbroken", registry), Recorder())
    for stop in range(1, run.steps):
        first = Recorder(stop)
        with pytest.raises(Yielded):
            perform(run, place_in(tmp_path / f"first{stop}", registry), first)
        second = place_in(tmp_path / f"second{stop}", registry, resume=first.current)
        resumed = perform(run, second, Recorder())
        assert bits(resumed) == bits(unbroken)
        assert resumed.certificate == unbroken.certificate


def test_the_certificate_of_a_training_names_its_rows(registry: Registry, tmp_path: Path) -> None:
    run, finished = trained(registry, tmp_path)
    assert finished.certificate == open_source(run.data, registry).certificate()
    assert finished.certificate is not None
    assert (finished.certificate.rows, finished.certificate.skipped) == (40, 0)


def test_a_training_never_reads_rows_of_another_fingerprint(registry: Registry, tmp_path: Path) -> None:
    run = training_of(registry)
    write_split(tmp_path / "other", "train", shards=2, rows=30, width=21)
    with pytest.raises(DataError, match=r"the run names the train split of photos by the fingerprint \w+, and the reg"):
        perform(run, place_in(tmp_path, registered(tmp_path / "other")), Recorder())


def test_lists_of_labels_are_learned_with_the_sigmoid_loss_and_counted_right(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_split(folder, "train", shards=1, rows=24)
    file = folder / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    lists = [[row % CLASSES, (row + 1) % CLASSES] if row % 2 else [row % CLASSES] for row in range(24)]
    pq.write_table(table.set_column(1, "label", pa.array(lists)), file, row_group_size=5)
    registry = registered(folder, multi_label=True)
    with pytest.raises(ValueError, match="lists of labels: take the loss sigmoid"):
        training_of(registry, subset=24)
    run = training_of(registry, subset=24, loss="sigmoid", augmentation="none")
    image, target = Batches(run, CPU, registry).at(0)
    assert image.shape == (8, 3, SIZE, SIZE)
    assert set(target.flatten().tolist()) == {0.0, 1.0}
    finished = perform(run, place_in(tmp_path / "training", registry), Recorder())
    measure = Evaluate(upstream=key_of(run), data=registry.get("photos").take("train"), image_size=SIZE)
    place = place_in(tmp_path, registry, upstream=finished.checkpoint)
    found = {value.metric: value.value for value in perform(measure, place, Recorder()).values}
    accuracy = found[ACCURACY]
    assert accuracy is not None
    assert accuracy >= 0.4  # a third of the classes, and a half of the images have two


def test_bad_rows_fail_or_are_skipped_and_counted_as_the_registry_says(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_split(folder, "train", shards=1, rows=40)
    file = folder / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    images = [row if number not in (7, 30) else {**row, "bytes": b"no image"} for number, row in
              enumerate(table["image"].to_pylist())]  # fmt: skip
    pq.write_table(table.set_column(0, "image", pa.array(images, table["image"].type)), file, row_group_size=5)
    registry = registered(folder)
    with pytest.raises(DataError, match=r"row \d+.*cannot be decoded.*vitscale data check photos.*bad_rows: skip"):
        trained(registry, tmp_path / "failing", subset=None)
    row = np.array([7, 30])
    pq.write_table(pa.table({"row": row}), folder / "bad.parquet")
    listed = DropList(file="bad.parquet", rows=2, digest=rows_digest(row))
    skipping = registered(folder, bad=listed, bad_rows="skip")
    run, finished = trained(skipping, tmp_path / "skipping", subset=None)
    assert run.data.rows == 38
    assert run.data.fingerprint != registry.get("photos").take("train").fingerprint
    assert finished.certificate is not None
    assert finished.certificate.skipped == 2


# ------------------------------------------------------------------------------------------------------ evaluation


def test_an_evaluation_on_files_sees_what_its_view_says(registry: Registry, tmp_path: Path) -> None:
    from studies.augmentations import CenterCrop
    from workers.evaluation import load_trained

    run, finished = trained(registry, tmp_path / "training")
    measure = Evaluate(
        upstream=key_of(run),
        data=registry.get("photos").take("development"),
        image_size=SIZE,
        view=CenterCrop(resize=12),
    )
    place = place_in(tmp_path, registry, upstream=finished.checkpoint)
    found = perform(measure, place, Recorder())
    row_N = open_source(measure.data, registry).subset.rows_at(np.arange(15))
    view = EvalView(measure.view, SIZE, 3)
    seen = np.empty((15, SIZE, SIZE, 3), dtype=np.uint8)
    for row, out in zip(row_N, seen, strict=True):
        view.render(encoded(int(row)), np.empty(0, np.uint64), out)
    with torch.no_grad():
        logits = load_trained(measure, place).network(normalized(torch.from_numpy(seen)))
    label = torch.from_numpy(row_N % CLASSES)
    assert found.values[0].value == float((logits.argmax(-1) == label).double().mean())
    assert found.certificate == open_source(measure.data, registry).certificate()


def test_few_shots_read_only_the_images_that_are_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_split(folder, "train", shards=1, rows=60)
    registry = registered(folder)
    run, finished = trained(registry, tmp_path / "training")
    measure = FewShot(
        upstream=key_of(run),
        support=registry.get("photos").take("train"),
        data=registry.get("photos").take("development"),
        image_size=SIZE,
        shots=(1, 2),
        support_seeds=(0,),
        l2=(1.0,),
    )
    seen = []
    place = place_in(tmp_path, registry, upstream=finished.checkpoint)

    class Counting(Recorder):
        def reached(self, step: int) -> Wish:
            seen.append(step)
            return Wish.CONTINUE

    found = {value.metric: value.value for value in perform(measure, place, Counting()).values}
    assert set(found) >= {fewshot_accuracy(1), fewshot_accuracy(2)}
    assert len(seen) == 2, "a batch of six drawn images, and one of what is classified"
