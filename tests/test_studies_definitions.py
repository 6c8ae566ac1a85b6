"""Keys: what they hash, what they leave out, and that one known key never changes unnoticed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from studies.datasets import DIGITS, Files, Part
from studies.definitions import RUN, Evaluate, Train, canonical, configuration_of, key_of
from studies.models import ResNet, ViT
from studies.permutation import permuted
from studies.recipes import RECIPES, recipe
from studies.subsets import subset_of


def training(**changes: object) -> Train:
    fields = {
        "model": ViT(patch=2, width=32, depth=2, mlp=64, heads=2, head="gap"),
        "data": DIGITS.take("train", 500),
        "image_size": 8,
        "recipe": recipe("small"),
        "examples": 1000,
        "seed": 0,
    }
    return Train.model_validate({**fields, **changes})


def test_the_key_of_one_known_run_is_the_same_for_ever() -> None:
    """A new field changes every key, and every store would train again. If this fails, that was a decision."""
    known = Train.model_validate_json(
        '{"model":{"kind":"vit","patch":2,"width":32,"depth":2,"mlp":64,"heads":2,"head":"gap"},'
        '"data":{"name":"digits","fingerprint":"'
        + "ab"
        * 32
        + '","split":"train","rows":500,"classes":10,"channels":1,"image_size":8},'
        '"image_size":8,"recipe":{"lr_peak":0.003,"schedule":"cosine","warmup_steps":10,"weight_decay":0.1,"batch":50},'
        '"examples":1000,"seed":0}'
    )
    assert key_of(known) == "054dcbe9a257c750b640be3d3c443019c89a91a8a5a1ce3bb2a7aa763b49dd5f"


def test_a_key_is_the_same_in_another_process() -> None:
    code = "from tests_path import training; from studies.definitions import key_of; print(key_of(training()))"
    folder = Path(__file__).parent
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(folder.parent)!r}];" + code.replace(
        "tests_path", "test_studies_definitions"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == key_of(training())


def test_everything_that_decides_numbers_changes_the_key() -> None:
    changed: list[dict[str, object]] = [
        {"seed": 1},
        {"examples": 1050},
        {"data": DIGITS.take("train", 501)},
        {"recipe": recipe("small", {"lr_peak": 2e-3})},
        {"recipe": recipe("small", {"precision": "bf16"})},
        {"model": ViT(patch=2, width=32, depth=3, mlp=64, heads=2, head="gap")},
    ]
    keys = {key_of(training())} | {key_of(training(**change)) for change in changed}
    assert len(keys) == len(changed) + 1


def test_replicates_share_a_configuration_and_so_do_their_evaluations() -> None:
    first, second = training(seed=0), training(seed=1)
    assert configuration_of(first) == configuration_of(second)
    evaluations = [Evaluate(upstream=key_of(each), data=DIGITS.take("test"), image_size=8) for each in (first, second)]
    names = {configuration_of(each, configuration_of(first)) for each in evaluations}
    assert len(names) == 1
    assert key_of(evaluations[0]) != key_of(evaluations[1])


def test_a_regularization_without_effect_is_refused() -> None:
    single = ViT(patch=2, width=32, depth=1, mlp=64, heads=2)
    with pytest.raises(ValidationError, match="stochastic_depth has no effect on a single layer"):
        training(model=single, recipe=recipe("small", {"stochastic_depth": 0.1}))
    residual = ResNet(blocks=(1,), width=8, groups=4, root="3x3")
    for name in ("dropout", "stochastic_depth"):
        with pytest.raises(ValidationError, match=f"{name} has no effect on a ResNet"):
            training(model=residual, recipe=recipe("small", {name: 0.1}))


def test_a_definition_survives_its_own_json() -> None:
    run = training()
    again = RUN.validate_json(canonical(run))
    assert again == run
    assert key_of(again) == key_of(run)


@pytest.mark.parametrize(
    "change",
    [
        {"examples": 1001},
        {"examples": 0},
        {"seed": -1},
        {"seed": True},
        {"seed": "0"},
        {"image_size": 9},
        {"extra": 1},
        {"recipe": {**RECIPES["small"].model_dump(), "lr_peak": float("nan")}},
        {"recipe": {**RECIPES["small"].model_dump(), "lr_peak": -1.0}},
        {"model": {"kind": "vit", "patch": 2, "width": 30, "depth": 1, "mlp": 8, "heads": 4}},
        {"model": {"kind": "vit", "patch": 2, "width": 32, "depth": 0, "mlp": 8, "heads": 4}},
    ],
)
def test_an_impossible_run_is_no_run(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        training(**change)


def test_a_subset_larger_than_its_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="a subset of 1,001 images is larger than the train split of digits: 1,000"):
        DIGITS.take("train", 1001)


# ---------------------------------------------------------------------------------------------------- permutation


@given(rows=st.integers(1, 5000), key=st.integers(0, 2**32))
def test_a_permutation_names_every_row_once(rows: int, key: int) -> None:
    order = permuted(np.arange(rows), rows, "test", key)
    assert sorted(order.tolist()) == list(range(rows))


@given(rows=st.integers(2, 3000), data=st.data())
def test_a_smaller_subset_is_a_prefix_of_a_larger_one(rows: int, data: st.DataObject) -> None:
    few = data.draw(st.integers(1, rows))
    whole = permuted(np.arange(rows), rows, "test")
    assert np.array_equal(permuted(np.arange(few), rows, "test"), whole[:few])


def test_303_million_rows_cost_nothing() -> None:
    places = np.array([0, 1, 302_999_999])
    order = permuted(places, 303_000_000, "jft")
    assert len(set(order.tolist())) == 3
    assert order.max() < 303_000_000


def test_the_permutation_is_the_same_for_ever() -> None:
    assert permuted(np.arange(8), 1000, "digits", 0).tolist() == [736, 91, 590, 90, 676, 393, 802, 115]


def test_the_permutation_looks_random() -> None:
    order = permuted(np.arange(20_000), 20_000, 7).astype(float)
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    halves = order[:10_000].mean() / 9_999.5
    assert abs(correlation) < 0.03
    assert abs(halves - 1) < 0.03


# --------------------------------------------------------------------------------------------------------- digits


def test_the_digits_are_those_that_scikit_learn_carries() -> None:
    import io
    import json

    import pyarrow.parquet as pq
    from PIL import Image
    from sklearn.datasets import load_digits

    assert isinstance(DIGITS.origin, Files)
    table = pq.read_table(Path(DIGITS.origin.location) / "digits.parquet")
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}
    images = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()])
    labels = np.asarray(table["label"])
    real = load_digits()
    order = np.random.default_rng(0).permutation(len(real.target))
    assert np.array_equal(labels, real.target[order])
    assert np.array_equal(np.rint(images / (255 / 16)), real.images[order])


def test_the_splits_of_digits_are_fixed_disjoint_and_cover_the_file() -> None:
    parts = {name: split for name, split in DIGITS.splits.items() if isinstance(split, Part)}
    rows = [row for name in parts for row in _rows_of(name)]
    assert sorted(rows) == list(range(1797))
    assert {name: DIGITS.selection(name).rows for name in parts} == {"train": 1000, "validation": 297, "test": 500}


def _rows_of(split: str) -> list[int]:
    found = subset_of(DIGITS.selection(split), DIGITS.take(split), np.empty(0, dtype=np.int64), None)
    return [int(row) for row in found.rows_at(np.arange(found.rows))]
