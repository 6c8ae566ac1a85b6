"""`vitscale frontier` and `vitscale advantage` as a user has them: Table 6 as it ships, a study with a known law."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from db import answers, ledger
from db.store import Store, default_url
from orchestrator import frontier_reports
from orchestrator.frontier_reports import Question
from tests.builders import Value, claim_of, commit, evaluation, submit, training
from tests.command_in_process import asked, digits, vitscale
from tests.scaling_results import CONFIGURATIONS, scaling_study

AVG5 = ["imagenet", "cifar10", "cifar100", "pets", "flowers102"]


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store holds the study `scaling`. Tests read it."""
    folder = tmp_path_factory.mktemp("scaling")
    scaling_study(folder)
    return folder


# ------------------------------------------------------------------------------------------------------------- Table 6


def test_table_6_is_there_without_a_store_and_shows_the_mean_of_five_data_sets(tmp_path: Path) -> None:
    shown = vitscale("frontier", "vit-paper", "--by", "family", cwd=tmp_path)
    assert shown.code == 0
    assert "avg5, the mean over imagenet, cifar10, cifar100, pets, flowers102" in shown.out
    assert "of 18 configurations" in shown.out
    assert "imported" in shown.out
    assert "avg5, the mean of accuracy on" in shown.err
    assert "is shown: one of them alone is asked for by --data" in shown.err
    assert not (tmp_path / ".vitscale").exists()


def test_each_point_of_table_6_names_the_five_results_behind_it(tmp_path: Path) -> None:
    found = asked("frontier", "vit-paper", "--by", "family", "--quality", "avg5", cwd=tmp_path)
    assert (found["metric"], found["datasets"], found["axis"]) == ("avg5", AVG5, "flops")
    assert {point["family"] for point in found["points"]} == {"ViT", "ResNet", "Hybrid"}
    assert all(point["external"] and len(point["runs"]) == 5 for point in found["points"])
    vit_h = next(point for point in found["points"] if point["label"] == "ViT-H/14")
    assert (vit_h["cost"], vit_h["quality"]) == (4.262e21, pytest.approx(0.95822, abs=1e-12))
    assert found["excluded"] == []


@pytest.mark.parametrize(
    ("options", "ratios"),
    [(("--quality", "avg5"), ("3.79", "2.78", "5.95")), (("--data", "imagenet"), ("2.12", "1.72", "2.44"))],
)
def test_table_6_gives_the_published_advantage_to_the_last_digit(
    options: tuple[str, str], ratios: tuple[str, str, str], tmp_path: Path
) -> None:
    found = asked("advantage", "vit-paper", "--of", "ViT", "--over", "ResNet", *options, cwd=tmp_path)
    names = ("ratio_mean", "ratio_least", "ratio_most")
    assert tuple(f"{found['advantage'][name]:.2f}" for name in names) == ratios


def test_hybrids_are_compared_with_the_vit_frontier_at_equal_compute(tmp_path: Path) -> None:
    found = asked("advantage", "vit-paper", "--of", "Hybrid", "--over", "ViT", cwd=tmp_path)
    gains = [100 * each["difference"] for each in found["differences"]]
    assert [f"{gains[i]:+.2f}" for i in (0, 1, 2, 4)] == ["+0.86", "+0.44", "+0.20", "-0.11"]
    assert f"{gains[3]:+.3f}" == "+0.005"


def test_an_advantage_is_a_sentence_and_a_table(tmp_path: Path) -> None:
    said = vitscale("advantage", "vit-paper", "--of", "ViT", "--over", "ResNet", "--band", "2,4", cwd=tmp_path)
    assert "at equal avg5, ResNet costs 3.79 times as much as ViT: geometric mean over 92.50 % to 95.09 %" in said.out
    assert "least 2.78, most 5.95; 61 % of that range is between 2 and 4" in said.out
    assert "no ResNet at this cost" in said.out


# ------------------------------------------------------------------------------------------------------------- options


def test_the_frontier_has_every_digit(scaling: Path) -> None:
    found = asked("frontier", "scaling", "--by", "family", cwd=scaling)
    assert found["configurations"] == CONFIGURATIONS
    assert min(digits(point["quality"]) for point in found["points"]) >= 10
    assert all(len(point["runs"]) == point["seeds"] == 2 for point in found["points"])
    assert {"label", "family", "cost", "quality", "runs", "sd", "same"} <= found["points"][0].keys()


@pytest.mark.parametrize("axis", ["images", "parameters", "forward-flops", "device-seconds"])
def test_cost_may_be_counted_on_another_axis(axis: str, scaling: Path) -> None:
    found = asked("frontier", "scaling", "--cost", axis, cwd=scaling)
    assert found["axis"] == axis
    costs, qualities = ([point[name] for point in found["points"]] for name in ("cost", "quality"))
    assert costs == sorted(set(costs))
    assert qualities == sorted(set(qualities))
    if axis in ("images", "parameters"):
        assert costs == [point[axis] for point in found["points"]]


def test_money_is_device_time_at_a_price(scaling: Path) -> None:
    found = asked("frontier", "scaling", "--cost", "money", "--price", "cpu=3600", cwd=scaling)
    times = asked("frontier", "scaling", "--cost", "device-seconds", cwd=scaling)
    assert [point["cost"] for point in found["points"]] == pytest.approx(
        [point["cost"] for point in times["points"]], rel=1e-12
    )
    assert found["excluded"] == times["excluded"]


def test_the_corners_of_a_hull_are_on_the_frontier_and_its_axes_are_named(scaling: Path) -> None:
    stairs = {point["configuration"] for point in asked("frontier", "scaling", cwd=scaling)["points"]}
    for axes in ("log-cost", "log-log", "linear"):
        found = asked("frontier", "scaling", "--hull", "--axes", axes, cwd=scaling)
        assert (found["shape"], found["axes"]) == ("hull", axes)
        corners = {point["configuration"] for point in found["points"]}
        assert corners <= stairs
        assert 2 <= len(corners) < len(stairs)
    assert (
        "lower convex hull on the axes log cost, error: " in vitscale("frontier", "scaling", "--hull", cwd=scaling).out
    )


def test_what_is_drawn_may_have_a_law(scaling: Path, tmp_path: Path) -> None:
    file = tmp_path / "f.svg"
    drawn = vitscale("frontier", "scaling", "--by", "family", "--plot", file, "--law", "power", cwd=scaling)
    assert drawn.code == 0, drawn.err
    assert "power law" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["frontier", "scaling", "--cost", "imges"], 2, "'imges' is no axis of cost; did you mean 'images'?"),
        (["frontier", "scaling", "--price", "2"], 2, "add --cost money"),
        (["frontier", "scaling", "--cost", "money"], 2, "as in --price 2.5"),
        (["frontier", "scaling", "--cost", "money", "--price", "h100=much"], 2, "write it as in 2.5 or h100=2.5"),
        (["frontier", "scaling", "--axes", "log-log"], 2, "add --hull"),
        (["frontier", "scaling", "--hull", "--axes", "loglog"], 2, "valid: log-cost, log-log, linear"),
        (["frontier", "scaling", "--law", "power"], 2, "add --plot FILE"),
        (["frontier", "scaling", "--plot", "f.svg", "--law", "surface"], 2, "no line over cost"),
        (["frontier", "scaling", "--quality", "avg5"], 2, "no such accuracy on imagenet, cifar10"),
        (["frontier", "scaling", "--quality", "avg5", "--data", "pets"], 2, "--data has no effect on it"),
        (["frontier", "vit-papr"], 3, "did you mean 'vit-paper'?"),
        (["advantage", "scaling", "--of", "ViT", "--over", "ResNets"], 2, "did you mean 'ResNet'?"),
        (["advantage", "scaling", "--of", "ViT", "--over", "ViT"], 2, "compared with itself"),
        (["advantage", "scaling", "--of", "ViT", "--over", "ResNet", "--band", "4,2"], 2, "write it as in --band 2,4"),
        (["advantage", "scaling", "--of", "ViT", "--over", "ResNet", "--band", "2"], 2, "no pair of numbers"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence_with_its_cure(
    arguments: list[str], code: int, said: str, scaling: Path
) -> None:
    ended = vitscale(*arguments, cwd=scaling)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("\n") == 1


# --------------------------------------------------------------------------------------------------- ties, no overlap


def small_study(folder: Path, accuracies: Mapping[tuple[str, int], tuple[float, ...]]) -> Store:
    """A store with a study `tiny`: by family and steps, the accuracies of the seeds."""
    store = Store.open(default_url(folder))
    with store.begin() as connection:
        runs = [
            (of := training(family=family, steps=steps, seed=seed), evaluation(of), value)
            for (family, steps), values in accuracies.items()
            for seed, value in enumerate(values)
        ]
        submit(connection, [run for of, measures, _ in runs for run in (of, measures)])
        for of, measures, value in runs:
            commit(connection, claim_of(connection, of))
            commit(connection, claim_of(connection, measures), value)
    return store


def test_a_runner_up_within_one_standard_error_is_tied(tmp_path: Path) -> None:
    seeds = {("ViT", 40): (0.50, 0.54), ("ViT", 80): (0.49, 0.54), ("ViT", 160): (0.40, 0.41)}
    store = small_study(tmp_path, seeds)
    store.dispose()
    shown = vitscale("frontier", "tiny", cwd=tmp_path)
    assert "1 of 3 configurations, 1 tied within one standard error" in shown.out
    assert [line.split().count("tied") for line in shown.out.splitlines()[2:]] == [0, 1]
    found = asked("frontier", "tiny", cwd=tmp_path)
    [tied] = found["tied"]
    assert tied["value"] == pytest.approx(0.515)
    assert tied["configuration"] not in {point["configuration"] for point in found["points"]}


@pytest.mark.parametrize("options", [(), ("--by", "family"), ("--cost", "images"), ("--hull",)])
def test_the_answer_is_the_same_whether_all_points_are_read_for_a_figure_or_none(
    scaling: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    without = asked("frontier", "scaling", *options, cwd=scaling)
    assert asked("frontier", "scaling", *options, "--plot", tmp_path / "f.svg", cwd=scaling) == without


def test_families_without_a_common_quality_have_no_ratio(tmp_path: Path) -> None:
    store = small_study(
        tmp_path, {("ViT", 40): (0.6,), ("ViT", 80): (0.7,), ("ResNet", 40): (0.2,), ("ResNet", 80): (0.3,)}
    )
    store.dispose()
    said = vitscale("advantage", "tiny", "--of", "ViT", "--over", "ResNet", cwd=tmp_path)
    assert said.code == 0
    assert "no overlap: there is no accuracy that both frontiers reach" in said.out
    assert "ViT reaches 60.00 % to 70.00 %; ResNet reaches 20.00 % to 30.00 %" in said.out
    found = asked("advantage", "tiny", "--of", "ViT", "--over", "ResNet", cwd=tmp_path)
    assert (found["overlap"], found["advantage"]) == (False, None)


def test_the_five_data_sets_are_averaged_only_where_nothing_else_was_said(tmp_path: Path) -> None:
    store = Store.open(default_url(tmp_path))
    of = training()
    measures = evaluation(of)
    with store.begin() as connection:
        submit(connection, [of, measures])
        commit(connection, claim_of(connection, of))
        claimed = claim_of(connection, measures)
        values = [Value("accuracy", 0.5 + 0.01 * i, dataset=name) for i, name in enumerate(AVG5)]
        ledger.commit(connection, run_id=claimed.run_id, fence=claimed.fence, values=values, checkpoint=None, step=0)
    with store.read() as connection:
        study = answers.study_named(connection, "tiny")
    assert study is not None
    mean = frontier_reports.frontier(store, study, Question(), by_family=False)
    assert mean.series.metric == "avg5"
    assert mean.frontier[0].value == pytest.approx(0.52, abs=1e-15)
    one = frontier_reports.frontier(store, study, Question(dataset="pets"), by_family=False)
    assert (one.series.dataset, one.frontier[0].value, one.notes) == ("pets", 0.53, ())
    with pytest.raises(ValueError, match="more than one such series"):
        frontier_reports.frontier(store, study, Question(split="test"), by_family=False)
    store.dispose()
