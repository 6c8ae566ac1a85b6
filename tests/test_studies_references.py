"""The reference studies say what the papers print."""

import csv

import pytest

from studies import references
from studies.known_sizes import KNOWN_SIZES


def test_the_vit_paper_has_18_trainings_on_six_data_sets() -> None:
    found = references.reference("vit-paper")
    assert "arXiv:2010.11929v2" in found.source
    assert len(found.rows) == 18 * 6
    assert len({row.training for row in found.rows}) == 18
    assert len({row.key for row in found.rows}) == 108
    assert {row.family for row in found.rows} == {"ViT", "ResNet", "Hybrid"}
    assert {row.image_size for row in found.rows} == {384}


def test_its_data_sets_and_splits_are_called_as_ours() -> None:
    for row in references.reference("vit-paper").rows:
        assert row.split in KNOWN_SIZES[row.dataset].splits


def test_its_values_are_those_of_the_paper_to_the_last_digit() -> None:
    rows = {(row.model, row.epochs, row.dataset): row for row in references.reference("vit-paper").rows}
    huge = rows["ViT-H/14", 14.0, "imagenet"]
    assert (huge.value, huge.train_flops, huge.images) == (0.8808, 4.262e21, 14 * 303e6)
    assert rows["ResNet50x1", 7.0, "pets"].value == 0.9111
    assert rows["R50x1+ViT-L/16", 7.0, "cifar100"].train_flops == 8.59e20


def test_its_printed_costs_are_those_of_the_figure_without_decimals() -> None:
    with (references.FOLDER / "vit-paper.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert int(row["exaFLOPs"]) == int(float(row["exaFLOPs_from_figure5"]))


def test_an_unknown_reference_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'vit-paper'"):
        references.reference("vit-papr")


def test_every_file_of_a_reference_is_read() -> None:
    tables = {row.place.rpartition(":")[0] for name in references.names() for row in references.reference(name).rows}
    assert {path.name for path in references.FOLDER.glob("*.csv")} == tables
