"""Evaluations of trained networks: against plain computations and wrong checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch

from studies.datasets import DIGITS
from studies.definitions import Evaluate, FewShot, FineTune, Train, canonical, key_of
from studies.metrics import ACCURACY, LOSS, fewshot_accuracy
from studies.models import MaskedPatch, ViT, fine_tuned
from studies.registry import BUILT_IN_ONLY
from tests.trained_digits import CPU, SMALL, Silent, values
from workers.checkpoints import Facts, load, save
from workers.data.batches import normalized
from workers.data.loader import Batch
from workers.data.sources import open_source
from workers.evaluation import BATCH, batched, load_trained
from workers.models.build import build
from workers.models.transfer import resized_positions
from workers.perform import perform
from workers.supervision import CheckpointError, Place, Stopped, Wish, Yielded


def evaluation(split: str = "test", rows: int | None = None) -> Evaluate:
    return Evaluate(upstream=key_of(SMALL), data=DIGITS.take(split, rows), image_size=8)


def test_accuracy_and_loss_are_those_of_a_plain_computation(upstream: Path, tmp_path: Path) -> None:
    place = Place(CPU, tmp_path, upstream=upstream)
    finished = perform(evaluation(), place, Silent())
    network = load_trained(evaluation(), place).network
    image_NHWC, label_N = (torch.tensor(each) for each in open_source(DIGITS.take("test"), BUILT_IN_ONLY).decoded())
    with torch.no_grad():
        logits = network(normalized(image_NHWC)).double()
    found = values(finished)
    assert found[ACCURACY] == float((logits.argmax(-1) == label_N).double().mean())
    assert found[LOSS] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, label_N)), rel=1e-6)
    accuracy = found[ACCURACY]
    assert accuracy is not None
    assert accuracy > 0.7
    assert {(v.dataset, v.split, v.image_size) for v in finished.values} == {("digits", "test", 8)}
    assert finished.checkpoint is None
    assert list(tmp_path.iterdir()) == []


def test_the_last_batch_is_padded_to_the_shape_of_all(upstream: Path, tmp_path: Path) -> None:
    shapes = []

    def see(image_BCHW: torch.Tensor) -> torch.Tensor:
        shapes.append(image_BCHW.shape)
        return image_BCHW.flatten(1)

    pixels = np.random.default_rng(0).integers(0, 256, (BATCH + 3, 8, 8, 1), dtype=np.uint8)
    places = np.arange(BATCH + 3)
    parts = (slice(0, BATCH), slice(BATCH, None))
    batches = [Batch(pixels[part], np.zeros(len(places[part]), dtype=np.int64), places[part]) for part in parts]
    seen = torch.cat([answer for _, answer in batched(see, batches, BATCH + 3, CPU, Silent())])
    assert shapes == [(BATCH, 1, 8, 8)] * 2
    assert torch.equal(seen, normalized(torch.from_numpy(pixels)).flatten(1))


def test_an_evaluation_gives_the_same_numbers_each_time(upstream: Path, tmp_path: Path) -> None:
    place = Place(CPU, tmp_path, upstream=upstream)
    assert perform(evaluation(), place, Silent()) == perform(evaluation(), place, Silent())


def test_an_evaluation_of_mixed_numerics_says_so(upstream: Path, tmp_path: Path) -> None:
    tensors, facts = load(upstream)
    save(tmp_path / "mixed", tensors, facts.model_copy(update={"mixed_numerics": True}))
    assert not perform(evaluation(), Place(CPU, tmp_path, upstream=upstream), Silent()).mixed_numerics
    assert perform(evaluation(), Place(CPU, tmp_path, upstream=tmp_path / "mixed"), Silent()).mixed_numerics


def test_a_network_that_answers_nan_has_a_loss_that_is_no_number(upstream: Path, tmp_path: Path) -> None:
    tensors, facts = load(upstream)
    tensors["model.head.bias"][:] = torch.nan
    save(tmp_path / "broken", tensors, facts)
    assert values(perform(evaluation(), Place(CPU, tmp_path, upstream=tmp_path / "broken"), Silent()))[LOSS] is None


def test_a_wrong_upstream_is_refused(upstream: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint was given"):
        perform(evaluation(), Place(CPU, tmp_path), Silent())
    place = Place(CPU, tmp_path, upstream=upstream)
    with pytest.raises(CheckpointError, match="and the run stands on 000000000000"):
        perform(evaluation().model_copy(update={"upstream": "0" * 64}), place, Silent())
    tensors, facts = load(upstream)
    other = SMALL.model_copy(update={"seed": 7})
    changes: dict[str, tuple[dict[str, object], str]] = {
        "renamed": ({"training": other.model_dump_json()}, "its definition is of another"),
        "early": ({"step": 3}, "is at step 3 and not at the end"),
        "unreadable": ({"training": "{}"}, "a definition that this code cannot read"),
    }
    for name, (change, message) in changes.items():
        save(tmp_path / name, tensors, facts.model_copy(update=change))
        with pytest.raises(CheckpointError, match=message):
            perform(evaluation(), Place(CPU, tmp_path, upstream=tmp_path / name), Silent())
    save(tmp_path / "fewer", {"model.head.bias": tensors["model.head.bias"]}, facts)
    with pytest.raises(CheckpointError, match="other names or shapes"):
        perform(evaluation(), Place(CPU, tmp_path, upstream=tmp_path / "fewer"), Silent())


def test_a_transformer_sees_images_of_another_size_with_interpolated_positions(upstream: Path, tmp_path: Path) -> None:
    place = Place(CPU, tmp_path, upstream=upstream)
    same, larger = (
        load_trained(evaluation().model_copy(update={"image_size": size}), place).network for size in (8, 16)
    )
    before, after = dict(same.named_parameters()), dict(larger.named_parameters())
    assert torch.equal(after["position_TD"], resized_positions(before["position_TD"], (4, 4), (8, 8)))
    assert all(torch.equal(before[name], after[name]) for name in before if name != "position_TD")
    assert larger(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def test_images_that_the_network_is_not_made_for_are_refused(upstream: Path, tmp_path: Path) -> None:
    place = Place(CPU, tmp_path, upstream=upstream)
    with pytest.raises(ValueError, match="patches of 2 pixels do not divide the image of 9 pixels"):
        perform(evaluation().model_copy(update={"image_size": 9}), place, Silent())
    data = DIGITS.take("test")
    for change, message in (
        ({"channels": 3}, "1 channels cannot see images of 3"),
        ({"classes": 5}, "10 classes .* on 5, those of digits: give a mapping"),
    ):
        with pytest.raises(ValueError, match=message):
            perform(evaluation().model_copy(update={"data": data.model_copy(update=change)}), place, Silent())


def test_a_mapping_must_have_as_many_classes_as_the_network(upstream: Path, tmp_path: Path) -> None:
    run = evaluation().model_copy(update={"mapping": (0, 1, 2)})
    with pytest.raises(ValueError, match="a mapping of 3 classes is none of a network of 10"):
        perform(run, Place(CPU, tmp_path, upstream=upstream), Silent())


def finished(run: Train | FineTune, folder: Path, **beside: torch.Tensor) -> Path:
    """The final checkpoint of a training that changed nothing."""
    network = build(run.model, image_size=8, channels=1, classes=run.data.classes, seed=run.seed)
    weights = {f"model.{name}": parameter.detach() for name, parameter in network.named_parameters()}
    facts = Facts(run=key_of(run), training=canonical(run), step=run.steps, numerics="cpu", mixed_numerics=False)
    save(folder, weights | beside, facts)
    return folder


def test_evaluations_stand_on_fine_tuned_networks_too(tmp_path: Path) -> None:
    assert isinstance(SMALL.model, ViT)
    run = FineTune(
        upstream=key_of(SMALL),
        model=fine_tuned(SMALL.model),
        data=SMALL.data,
        image_size=8,
        recipe=SMALL.recipe,
        examples=SMALL.examples,
        seed=0,
    )
    measure = evaluation().model_copy(update={"upstream": key_of(run)})
    place = Place(CPU, tmp_path, upstream=finished(run, tmp_path / "final"))
    assert load_trained(measure, place).training == run
    assert ACCURACY in values(perform(measure, place, Silent()))


def test_what_a_trunk_leaves_beside_its_weights_is_no_matter_to_an_evaluation(upstream: Path, tmp_path: Path) -> None:
    tensors, facts = load(upstream)
    beside = {"optimizer.first.head.bias": torch.ones(10), "last.head.bias": torch.ones(10)}
    save(tmp_path / "trunk", tensors | beside, facts)
    found, expected = (
        perform(evaluation(), Place(CPU, tmp_path, upstream=each), Silent()) for each in (tmp_path / "trunk", upstream)
    )
    assert found == expected


def test_a_masked_patch_network_has_features_for_few_shots_and_classifies_nothing(tmp_path: Path) -> None:
    model = MaskedPatch(vit=ViT(patch=2, width=16, depth=1, mlp=16, heads=2, head="token"))
    run = SMALL.model_copy(update={"model": model})
    place = Place(CPU, tmp_path, upstream=finished(run, tmp_path / "final"))
    with pytest.raises(ValueError, match="learned to predict masked patches and knows no classes: fine-tune it, or"):
        perform(evaluation().model_copy(update={"upstream": key_of(run)}), place, Silent())
    fewshot = FewShot(
        upstream=key_of(run),
        support=DIGITS.take("train"),
        data=DIGITS.take("test"),
        image_size=8,
        shots=(10,),
        support_seeds=(0,),
        l2=(1.0,),
    )
    accuracy = values(perform(fewshot, place, Silent()))[fewshot_accuracy(10)]
    assert accuracy is not None
    assert accuracy > 0.2


def test_an_evaluation_gives_up_when_it_is_asked_to(upstream: Path, tmp_path: Path) -> None:
    place = Place(CPU, tmp_path, upstream=upstream)
    with pytest.raises(Stopped):
        perform(evaluation(), place, Silent(Wish.STOP))
    with pytest.raises(Yielded):
        perform(evaluation(), place, Silent(Wish.YIELD))


def test_a_small_transformer_reads_more_than_nine_of_ten_digits(tmp_path: Path) -> None:
    run = SMALL.model_copy(update={"examples": 50 * 700, "seed": 1})
    trained = perform(run, Place(CPU, tmp_path / "training"), Silent())
    measure = Evaluate(upstream=key_of(run), data=DIGITS.take("test"), image_size=8)
    accuracy = values(perform(measure, Place(CPU, tmp_path, upstream=trained.checkpoint), Silent()))[ACCURACY]
    assert accuracy is not None
    assert accuracy > 0.9
