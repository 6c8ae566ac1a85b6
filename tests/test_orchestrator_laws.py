"""`vitscale fit`, `predict`, `next` and `laws` as a user has them, on a study whose results follow a known surface."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from db import answers, laws
from db.store import Store, default_url
from orchestrator import law_reports, plan_reports, study_networks
from orchestrator.frontier_reports import Question, frontier
from orchestrator.law_reports import Wish
from orchestrator.study_networks import Network
from studies.architectures import named
from studies.devices import device_facts
from studies.models import AnyModel
from tests.builders import claim_of, commit, evaluation, submit, training
from tests.command_in_process import asked, digits, vitscale
from tests.scaling_results import ALPHA, CONFIGURATIONS, ROWS, scaling_study

FEW = ("--replicates", "60")
SURFACE = ("--form", "surface", "--family", "ViT", *FEW)


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store holds the study `scaling`, to which tests add laws and nothing else."""
    folder = tmp_path_factory.mktemp("scaling")
    scaling_study(folder)
    return folder


@pytest.fixture
def copy(scaling: Path, tmp_path: Path) -> Path:
    """The same without laws of other tests' making, to change at will."""
    folder = tmp_path / "copy"
    shutil.copytree(scaling, folder)
    store = Store.open(default_url(folder))
    with store.begin() as connection:
        connection.exec_driver_sql("DELETE FROM law")
    store.dispose()
    return folder


def one_more_seed(folder: Path) -> None:
    """Add a result to the study: another seed of a configuration that is there."""
    store = Store.open(default_url(folder))
    of = training(width=8, steps=20, rows=ROWS, seed=7)
    measures = evaluation(of)
    with store.begin() as connection:
        submit(connection, [of, measures], name="more")
        commit(connection, claim_of(connection, of))
        commit(connection, claim_of(connection, measures), 0.4)
        connection.exec_driver_sql(
            "INSERT INTO study_run (study_id, run_id, position) SELECT s.id, r.run_id, 1000 + r.position FROM study s, "
            "study_run r JOIN study m ON m.id = r.study_id AND m.name = 'more' WHERE s.name = 'scaling'"
        )
    from db import points

    with store.begin() as connection:
        study = answers.study_named(connection, "scaling")
        assert study is not None
        points.refresh(connection, study.id)
    store.dispose()


# ----------------------------------------------------------------------------------------------------------------- fit


def test_a_fit_has_every_digit_and_names_what_it_stands_on(scaling: Path) -> None:
    found = asked("fit", "scaling", *SURFACE, cwd=scaling)
    assert (found["form"], found["family"], found["axis"]) == ("surface", "ViT", "flops")
    assert list(found["parameters"]) == ["E", "A", "alpha", "B", "beta"]
    alpha = found["parameters"]["alpha"]
    assert alpha["low"] < ALPHA < alpha["high"]
    assert min(digits(alpha[end]) for end in ("value", "low", "high")) >= 10
    assert digits(found["objective"]) >= 10
    assert digits(found["delta"]) >= 10
    assert len(found["points"]) == CONFIGURATIONS / 2 == len(found["used"]) == len(found["residuals"])
    assert all(len(point["runs"]) == 2 and point["used"] for point in found["points"])
    assert found["agreeing"] > 0.9 * found["starts"]
    assert found["gradient_norm"] < 1e-8
    assert found["dropped"] == []


def test_a_law_is_fitted_once_and_answered_with_the_same_digits(copy: Path) -> None:
    first = vitscale("fit", "scaling", *SURFACE, "--json", cwd=copy)
    again = vitscale("fit", "scaling", *SURFACE, "--json", cwd=copy)
    one, two = json.loads(first.out), json.loads(again.out)
    assert (one.pop("in_store"), two.pop("in_store")) == (False, True)
    assert one == two
    assert "the same digits" in vitscale("fit", "scaling", *SURFACE, cwd=copy).err
    listed = asked("laws", "scaling", cwd=copy)
    assert [law["law"] for law in listed] == [one["law"]]


def test_another_result_makes_another_law_and_the_old_one_stays(copy: Path) -> None:
    before = asked("fit", "scaling", *SURFACE, cwd=copy)
    one_more_seed(copy)
    after = asked("fit", "scaling", *SURFACE, cwd=copy)
    assert not after["in_store"]
    assert before["points_digest"] != after["points_digest"]
    assert before["parameters"] != after["parameters"]
    assert {law["law"] for law in asked("laws", "scaling", cwd=copy)} == {before["law"], after["law"]}


def test_a_law_from_the_store_predicts_with_the_same_digits(copy: Path) -> None:
    store = Store.open(default_url(copy))
    with store.read() as connection:
        study = answers.study_named(connection, "scaling")
    assert study is not None
    found = frontier(store, study, Question(), by_family=False)
    for form in ("saturating", "surface"):
        first, again = (law_reports.fitted(store, found, Wish(form, "ViT", replicates=60)) for _ in range(2))
        assert (first.is_new, again.is_new) == (True, False)
        assert first.fit is not None
        assert again.fit is not None
        assert first.answer == again.answer
        assert (first.fit.draws == again.fit.draws).all()
        assert replace(first.fit, draws=again.fit.draws) == again.fit
    with store.read() as connection:
        assert len(laws.laws_of(connection, study.id)) == 2
    store.dispose()


def test_another_question_about_the_same_results_is_another_law(scaling: Path) -> None:
    keys = {
        asked("fit", "scaling", *options, "--replicates", "50", cwd=scaling)["law"]
        for options in [
            ("--form", "power"),
            ("--form", "power", "--points", "all"),
            ("--form", "power", "--family", "ViT"),
            ("--form", "power", "--seed", "1"),
            ("--form", "power", "--cost", "images"),
        ]
    }
    assert len(keys) == 5


def test_a_fit_is_a_table_with_its_doubts_in_words(scaling: Path) -> None:
    shown = vitscale("fit", "scaling", "--form", "power", "--by", "family", "--points", "all", *FEW, cwd=scaling)
    assert shown.code == 0
    assert "accuracy on digits test at 8 px, ViT: error = a C^-b; C: training FLOPs" in shown.out
    assert shown.out.count("95 % from") == 2
    assert "largest left out ViT-64 (8 epochs): " in shown.out
    assert "starts agree; norm of the gradient" in shown.out
    assert "16 of 16 configurations between" in shown.out


def test_a_law_of_a_frontier_says_what_seeds_show_of_luck(scaling: Path, tmp_path: Path) -> None:
    asks = ("fit", "scaling", "--form", "power")
    found = asked(*asks, *FEW, cwd=scaling)
    # Two seeds of a configuration, each with 2 % of noise.
    assert found["luck"]["spread"] == pytest.approx(0.02 / 2**0.5, rel=0.3)
    assert 10 < found["luck"]["freedom"] <= CONFIGURATIONS
    assert "seeds say how much is luck" in found["interval"]["method"]
    shown = f"luck            {100 * found['luck']['spread']:.2g} % of the error, by seeds ("
    assert shown in vitscale(*asks, *FEW, cwd=scaling).out
    assert asked(*asks, "--points", "all", *FEW, cwd=scaling)["luck"] is None
    assert asked("fit", "vit-paper", *FEW, cwd=tmp_path)["luck"] is None


def test_laws_by_family_are_a_list_with_those_that_have_none(tmp_path: Path) -> None:
    found = asked(
        "fit", "vit-paper", "--by", "family", "--data", "cifar10", "--form", "double-saturating", *FEW, cwd=tmp_path
    )
    assert [law["family"] for law in found["laws"]] == ["ResNet", "ViT"]
    assert [each["family"] for each in found["failed"]] == ["Hybrid"]
    assert all("train more, or ask for a simpler form" in each["reason"] for each in found["failed"])


def test_as_many_points_as_parameters_have_a_law_without_an_interval(tmp_path: Path) -> None:
    asked_for = ("fit", "vit-paper", "--family", "Hybrid", "--form", "double-saturating", *FEW)
    found = asked(*asked_for, cwd=tmp_path)
    assert {(each["low"], each["high"]) for each in found["parameters"].values()} == {(None, None)}
    assert found["delta"] is None
    shown = vitscale(*asked_for, cwd=tmp_path)
    assert shown.out.count("not identified") == 2 * len(found["parameters"])
    assert "nothing tests it and there is no interval" in shown.err


def test_a_budget_is_split_by_a_surface(scaling: Path) -> None:
    found = asked("fit", "scaling", *SURFACE, "--budget", "1e10", cwd=scaling)
    split = found["allocation"]
    assert split["cost"] == 1e10
    assert split["rate"]["k"] * split["parameters"]["value"] * split["images"]["value"] == pytest.approx(1e10)
    shown = vitscale("fit", "scaling", *SURFACE, "--budget", "1e10", cwd=scaling)
    assert "10.0 gigaFLOP are best split" in shown.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["fit", "scaling", "--form", "saturated"], 2, "did you mean 'saturating'?"),
        (["fit", "scaling", "--family", "Hybrid"], 3, "no family 'Hybrid' here; valid: "),
        (["fit", "scaling", "--points", "some"], 2, "valid: frontier, all"),
        (["fit", "scaling", "--by", "family", "--family", "ViT"], 2, "choose one of them"),
        (["fit", "scaling", "--method", "parabola"], 2, "add --form isoflop"),
        (["fit", "scaling", "--form", "isoflop", "--method", "cubic"], 2, "valid: akima, parabola"),
        (["fit", "scaling", "--form", "isoflop", "--points", "all"], 2, "leave it out"),
        (["fit", "scaling", "--budget", "1e10"], 2, "add --form surface"),
        (["fit", "scaling", "--form", "m4", "--model", "ViT-8"], 2, "there are 4 points"),
        (["fit", "vit-paper", "--form", "surface"], 2, "number of parameters"),
        (["fit", "nothing"], 3, "no study 'nothing'"),
        (["predict", "scaling"], 2, "with one of --model NAME, --parameters NUMBER and --flops NUMBER"),
        (["predict", "scaling", "--model", "ViT-8"], 2, "with one of --images (seen, repeats counted) and --epochs"),
        (["predict", "scaling", "--model", "ViT-Q/2", "--epochs", "1"], 2, "'Q' is no ViT size"),
        (["predict", "scaling", "--flops", "1e9", "--epochs", "1"], 2, "have no effect beside --flops"),
        (["predict", "scaling", "--flops", "1e20"], 2, "nothing is predicted"),
        (["predict", "vit-paper", "--model", "ViT-L/16", "--epochs", "7"], 2, "give its cost with --flops"),
        (["next", "scaling", "--budget", "1e10", "--device", "h20"], 2, "did you mean 'h200'?"),
        (["next", "scaling", "--budget", "1"], 2, "budget"),
        (["next", "scaling", "--budget", "1e10", "--form", "isoflop"], 2, "ask for another --form"),
        (["laws", "vit-paper"], 3, "vit-paper"),
    ],
)
def test_what_laws_cannot_answer_is_one_sentence_with_its_cure(
    arguments: list[str], code: int, said: str, scaling: Path
) -> None:
    ended = vitscale(*arguments, cwd=scaling)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err
    assert "Traceback" not in ended.err


# ------------------------------------------------------------------------------------------------------------- predict


def test_a_network_of_the_study_is_predicted_with_its_band_and_cost(scaling: Path) -> None:
    found = asked("predict", "scaling", "--model", "ViT-64", "--epochs", "8", *FEW, cwd=scaling)
    [measured] = [
        point
        for point in asked("fit", "scaling", *SURFACE, cwd=scaling)["points"]
        if (point["label"], point["epochs"]) == ("ViT-64", 8)
    ]
    assert found["asked"]["flops"] == measured["cost"]
    assert found["asked"]["parameters"] == measured["parameters"]
    assert found["low"] < found["error"] < found["high"]
    assert found["run_low"] < measured["error"] < found["run_high"]
    assert (found["family"], found["extrapolation"]) == ("ViT", 1.0)
    assert any("--family all" in note for note in found["notes"])


def test_a_prediction_far_beyond_is_refused_unless_forced(scaling: Path) -> None:
    far = ("predict", "scaling", "--model", "ViT-L/2", "--epochs", "1000", *FEW)
    refused = vitscale(*far, cwd=scaling)
    assert refused.code == 2
    assert "beyond 1,000 times the range fitted on nothing is predicted" in refused.err
    forced = vitscale(*far, "--force", cwd=scaling)
    assert forced.code == 0, forced.err
    assert "expected error" in forced.out
    assert "warning: " in forced.err


def test_a_law_of_cost_predicts_from_flops_alone(tmp_path: Path) -> None:
    found = asked("predict", "vit-paper", "--flops", "1e22", *FEW, cwd=tmp_path)
    assert found["form"] == "saturating"
    assert 0.03 < found["error"] < 0.05
    shown = vitscale("predict", "vit-paper", "--flops", "1e22", *FEW, cwd=tmp_path)
    assert "10,000 exaFLOP: avg5" in shown.out


# ---------------------------------------------------------------------------------------------------------------- next


def test_the_next_runs_fit_the_budget_and_narrow_the_interval(scaling: Path) -> None:
    options = ("--budget", "1e11", "--target", "0.2", "--family", "ViT", "--device", "h200-8", *FEW)
    found = asked("next", "scaling", *options, cwd=scaling)
    assert found["total_cost"] == pytest.approx(math.fsum(run["cost"] for run in found["runs"]))
    assert found["total_cost"] <= 1e11
    assert found["after_high"] / found["after_low"] < found["target"]["high"] / found["target"]["low"]
    assert found["target"]["error"] == pytest.approx(0.2, rel=1e-3)
    assert {run["label"] for run in found["runs"]} <= {"ViT-8", "ViT-16", "ViT-32", "ViT-64"}
    assert found["device"]["units"] == 8
    assert all(run["seconds"] == run["cost"] / found["device"]["flops_per_second"] for run in found["runs"])
    shown = vitscale("next", "scaling", *options, cwd=scaling)
    assert f"{len(found['runs'])} runs, " in shown.out
    assert "8 GPUs of h200" in shown.out


def test_where_size_makes_no_difference_the_plan_is_by_cost_and_says_so(tmp_path: Path) -> None:
    rows = [f"net-{n},ViT,1000000,{1e9 * n},{1000 * n},{0.3 * n**-0.5 * 1.05 ** (-1) ** n}" for n in range(1, 9)]
    (tmp_path / "t.csv").write_text("\n".join(["label,family,size,flops,images,error", *rows]))
    columns = ("--cost", "flops", "--quality", "error:error", "--family", "family", "--label", "label")
    sizes = ("--size", "size", "--images", "images")
    done = vitscale("results", "import", "t.csv", "--study", "t", *columns, *sizes, cwd=tmp_path)
    assert done.code == 0, done.err
    found = asked("next", "t", "--budget", "1e11", *FEW, cwd=tmp_path)
    assert found["runs"]
    assert found["notes"][0].startswith(
        "planned by the saturating law of cost, since not by a surface: all 8 points have the same number of parameters"
    )
    refused = vitscale("next", "t", "--budget", "1e11", "--form", "surface", *FEW, cwd=tmp_path)
    assert (refused.code, refused.out) == (2, "")


def test_a_law_of_cost_proposes_what_is_on_the_frontier(tmp_path: Path) -> None:
    found = asked("next", "vit-paper", "--budget", "5e21", *FEW, cwd=tmp_path)
    frontier_of = asked("frontier", "vit-paper", cwd=tmp_path)
    assert {run["label"] for run in found["runs"]} <= {point["label"] for point in frontier_of["points"]}
    assert any("law of cost" in warning for warning in found["warnings"])


@pytest.mark.parametrize(
    ("name", "device", "units"),
    [
        ("h200", "h200", 1),
        ("h200-8", "h200", 8),
        ("8xa100", "a100", 8),
        ("cpu-2", "cpu", 2),
        ("tpu-v4", "tpu-v4", 1),
        ("v4-32", "tpu-v4", 16),
        ("tpu-v4-8", "tpu-v4", 4),
        ("v3-8", "tpu-v3", 8),
    ],
)
def test_slices_of_tpus_are_counted_in_tensorcores_and_others_in_devices(name: str, device: str, units: int) -> None:
    cluster = plan_reports.cluster_named(name)
    assert (cluster.facts.name, cluster.units) == (device, units)


def network(label: str, model: AnyModel) -> Network:
    """A network in the setting of a small study."""
    train = training().training
    return Network(label, model, train, train)  # type: ignore[arg-type]


def test_a_network_has_the_next_sizes_as_neighbours() -> None:
    known = {label: network(label, named(label)) for label in ("ViT-B/16", "R50x1", "R50+ViT-B/16")}
    study = answers.Study(1, "s", "", "", "", "", "s.yaml", 0.0, 0, 0)
    found = study_networks.with_neighbours(known, study)
    assert set(found) - set(known) == {
        "ViT-M/16",
        "ViT-L/16",
        "R26x1",
        "R101x1",
        "R50+ViT-M/16",
        "R50+ViT-L/16",
    }
    for label in set(found) - set(known):
        assert found[label].model == named(label)


def test_a_network_too_large_for_a_device_is_no_candidate() -> None:
    large = network("ViT-G/4", named("ViT-G/4"))
    assert not large.fits(device_facts("tpu-v3"))
    assert network("ViT-Ti/4", named("ViT-Ti/4")).fits(device_facts("tpu-v3"))


# ------------------------------------------------------------------------------------------- results of others' making


def published(folder: Path) -> None:
    """A study `iso` of imported results: seven sizes at each of five budgets, on a surface with C = 6 N D."""
    lines = ["name,family,flops,params,images,loss"]
    for cost in (1e17, 3e17, 1e18, 3e18, 1e19):
        for factor in (0.25, 0.5, 0.75, 1, 1.5, 2, 4):
            size = round(0.6 * (cost / 6) ** 0.45 * factor)
            images = cost / 6 / size
            error = 0.05 + 40 * size**-0.34 + 400 * images**-0.40
            lines.append(f"net-{size},ViT,{cost!r},{size},{images!r},{error!r}")
    (folder / "iso.csv").write_text("\n".join(lines) + "\n")
    columns = "--cost flops --quality loss:error --family family --label name --size params --images images"
    where = "metric=accuracy,dataset=imagenet,split=test"
    ended = vitscale("results", "import", "iso.csv", "--study", "iso", *columns.split(), "--set", where, cwd=folder)
    assert ended.code == 0, ended.err


def test_laws_of_imported_results_are_recovered_and_planned_with(tmp_path: Path) -> None:
    published(tmp_path)
    surface = asked("fit", "iso", "--form", "surface", *FEW, "--budget", "1e20", cwd=tmp_path)
    values = {name: each["value"] for name, each in surface["parameters"].items()}
    assert values == pytest.approx({"E": 0.05, "A": 40, "alpha": 0.34, "B": 400, "beta": 0.4}, rel=1e-6)
    assert surface["allocation"]["a"]["value"] == pytest.approx(0.4 / 0.74, rel=1e-6)
    optima = asked("fit", "iso", "--form", "isoflop", *FEW, cwd=tmp_path)
    assert optima["a"]["low"] < 0.4 / 0.74 < optima["a"]["high"]
    assert len(optima["optima"]) == 5
    shown = vitscale("fit", "iso", "--form", "isoflop", *FEW, cwd=tmp_path)
    assert "minima by budget, akima" in shown.out
    assert "the same digits" in shown.err
    expected = asked("predict", "iso", "--parameters", "1e8", "--images", "1e10", *FEW, cwd=tmp_path)
    assert expected["error"] == pytest.approx(0.05 + 40 * 1e8**-0.34 + 400 * 1e10**-0.40, rel=1e-6)
    further = asked("next", "iso", "--budget", "1e19", *FEW, cwd=tmp_path)
    assert {run["label"] for run in further["runs"]} <= {point["label"] for point in surface["points"]}
