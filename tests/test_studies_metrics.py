"""Names of metrics and which way is better, and files that map classes to classes."""

from pathlib import Path

import pytest

from studies import metrics
from studies.mappings import read_mapping


def test_of_accuracies_more_is_better_and_of_losses_and_calibration_errors_less() -> None:
    for metric in (metrics.ACCURACY, metrics.ACCURACY_TOP5, metrics.fewshot_accuracy(5)):
        assert metrics.direction(metric) == 1
    for metric in (metrics.LOSS, metrics.TRAIN_LOSS, metrics.CALIBRATION_ERROR):
        assert metrics.direction(metric) == -1


def test_a_step_a_penalty_and_a_measurement_on_the_way_are_no_quality() -> None:
    on_the_way = metrics.watched(metrics.LOSS, "digits", "test")
    assert on_the_way == "digits/test/loss_nats"
    for metric in (metrics.BEST_STEP, metrics.chosen_l2(5), on_the_way):
        with pytest.raises(ValueError, match="is no quality"):
            metrics.direction(metric)


def test_a_mapping_is_read_from_csv_and_json_and_what_it_leaves_out_is_no_class(tmp_path: Path) -> None:
    files = {
        "plain.csv": "1,0\n3,2\n",
        "named.csv": "network,data\r\n 1 , 0\r\n\r\n3,2\r\n0,-1\r\n",
        "object.json": '{"3": 2, "1": 0}',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert read_mapping(tmp_path / name, 5) == (-1, 0, -1, 2, -1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "0,1\n5,1\n", r"a\.csv:2: 5 is no class of a network of 5: take one from 0 to 4"),
        ("a.csv", "0,1\n0,2\n", r"a\.csv:2: the class 0 of the network is there twice"),
        ("a.csv", "0,1\nchair,2\n", r"a\.csv:2: 'chair' is no class: write its number"),
        ("a.csv", "0,1,2\n", r"a\.csv:1: 3 fields"),
        ("a.csv", "0,-2\n", r"a\.csv:1: -2 is no class: take one from 0, or -1 for none"),
        ("a.json", '{"0": 1, "0": 2}', r"a\.json, '0': the class 0 of the network is there twice"),
        ("a.json", '{"0": 1.5}', r"a\.json, '0': '1\.5' is no class"),
        ("a.json", '{"0": true}', r"a\.json, '0': 'true' is no class"),
        ("a.json", "[1, 2]", r"a\.json is no object"),
        ("a.json", '{"0": 1,\n', r"a\.json:2: this is no JSON"),
        ("a.txt", "0,1\n", r"a\.txt is neither \.csv nor \.json"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_in_a_sentence(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_mapping(tmp_path / name, 5)


def test_a_mapping_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv cannot be read \(No such file or directory\)"):
        read_mapping(tmp_path / "none.csv", 5)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"bytes\.csv cannot be read \(it is no UTF-8\)"):
        read_mapping(tmp_path / "bytes.csv", 5)
