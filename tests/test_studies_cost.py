"""Shapes and prices against the published numbers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from studies import cost_resnet
from studies.architectures import compose, family_of, named
from studies.bill import as_json, bill
from studies.cost import forward_flops, parameters, train_flops
from studies.devices import device_facts
from studies.grid import load_study
from studies.models import Hybrid, ResNet, ViT

JFT_IMAGES, JFT_CLASSES = 303_000_000, 18_291

FIGURE_5 = {
    ("ViT-B/32", 7): 55.98,
    ("ViT-B/16", 7): 224.07,
    ("ViT-L/32", 7): 196.58,
    ("ViT-L/16", 7): 783.73,
    ("ViT-L/16", 14): 1567.47,
    ("ViT-H/14", 14): 4262.7,
    ("R50x1", 7): 50.82,
    ("R50x2", 7): 199.23,
    ("R101x1", 7): 96.17,
    ("R152x1", 7): 141.72,
    ("R152x2", 7): 563.19,
    ("R152x2", 14): 1126.37,
    ("R200x3", 14): 3306.66,
    ("R50+ViT-B/32", 7): 106.38,
    ("R50+ViT-B/16", 7): 274.16,
    ("R50+ViT-L/32", 7): 246.06,
    ("R50+ViT-L/16", 7): 859.7,
    ("R50+ViT-L/16", 14): 1668.52,
}
"""exaFLOPs of the 18 trainings of arXiv:2010.11929v2, Table 6, as plotted in Figure 5."""
CONTRADICTED = ("R50+ViT-L/16", 7)
"""The paper gives more than half of what it gives for 14 epochs."""

SECOND_PAPER = {
    "s/28": "5.4",
    "s/16": "5.0",
    "S/32": "22",
    "Ti/16": "5.5",
    "B/32": "87",
    "S/16": "22",
    "B/28": "87",
    "B/16": "86",
    "L/16": "303",
    "g/14": "1011",
    "G/14": "1843",
}
"""Millions of parameters of the body, arXiv:2106.04560v2, Table 2. They include the position embedding."""


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ViT-Ti/16", 5_717_416),
        ("ViT-S/16", 22_050_664),
        ("ViT-B/16", 86_567_656),
        ("ViT-B/32", 88_224_232),
        ("ViT-L/16", 304_326_632),
    ],
)
def test_parameter_counts_are_the_published_ones_at_224_pixels_and_1000_classes(name: str, count: int) -> None:
    assert parameters(named(name, head="token"), 224, 3, 1000) == count


def test_parameter_counts_of_residual_networks_are_the_published_ones() -> None:
    assert parameters(named("R50x1"), 224, 3, 1000) == 25_549_352
    r152x4 = named("R152x4")
    assert isinstance(r152x4, ResNet)
    headless = parameters(r152x4, 224, 3, 1000) - (r152x4.channels + 1) * 1000
    assert round(headless / 1e6, 2) == 928.34


def test_parameter_count_of_the_released_hybrid_is_met_in_its_own_form() -> None:
    released = named("R+ViT-Ti/16", head="token")
    assert isinstance(released, Hybrid)
    body = released.body.model_copy(update={"form": "post-activation"})
    assert parameters(released.model_copy(update={"body": body}), 224, 3, 1000) == 6_337_704


@pytest.mark.parametrize(("name", "millions"), SECOND_PAPER.items())
def test_bodies_of_the_second_paper_have_the_parameters_that_it_prints(name: str, millions: str) -> None:
    model = named(f"ViT-{name}", head="gap")
    assert isinstance(model, ViT)
    body = parameters(model, 224, 3, 1000) - (model.width + 1) * 1000
    digits = 1 if "." in millions else 0
    assert f"{body / 1e6:.{digits}f}" == millions


def deviations(costs: dict[tuple[str, int], float]) -> list[float]:
    """Of training FLOPs from Figure 5, without the row that the paper contradicts."""
    assert costs.keys() == FIGURE_5.keys()
    return [abs(costs[row] / 1e18 / FIGURE_5[row] - 1) for row in FIGURE_5 if row != CONTRADICTED]


def test_training_flops_meet_figure_5_within_0_7_percent() -> None:
    errors = deviations(
        {
            (name, epochs): train_flops(named(name), 224, 3, JFT_CLASSES, JFT_IMAGES * epochs)
            for name, epochs in FIGURE_5
        }
    )
    assert len(errors) == 17
    assert max(errors) <= 0.007
    assert sum(errors) / len(errors) <= 0.004


def test_the_plan_of_figure_5_meets_it_too() -> None:
    study = load_study(Path(__file__).parent.parent / "studies" / "fig5.yaml")
    rows = as_json(study, bill(study, {}, device_facts("h100"), 1, None, None))["runs"]
    assert all({"kind", "model", "epochs", "parameters", "train_flops", "images"} <= row.keys() for row in rows)
    assert all(row["kind"] == "train" for row in rows)
    errors = deviations({(row["model"], row["epochs"]): row["train_flops"] for row in rows})
    assert max(errors) <= 0.007
    assert sum(errors) / len(errors) <= 0.004
    for row in rows:
        assert row["images"] == pytest.approx(JFT_IMAGES * row["epochs"], rel=1e-5)  # whole batches
        assert row["parameters"] == parameters(named(row["model"]), 224, 3, JFT_CLASSES)


@pytest.mark.parametrize(("name", "exaflops"), [("Axial-ViT-B/32", 107.6), ("Axial-ViT-B/16", 426.8)])
def test_axial_transformers_meet_figure_13(name: str, exaflops: float) -> None:
    flops = train_flops(named(name), 224, 3, JFT_CLASSES, JFT_IMAGES * 7)
    assert flops / 1e18 == pytest.approx(exaflops, rel=0.0015)


def test_vit_flops_are_those_counted_by_hand() -> None:
    model = ViT(patch=4, width=8, depth=1, mlp=16, heads=2, head="gap")
    tokens, width = 4, 8
    embed = tokens * (1 * 4 * 4) * width
    attention = tokens * 4 * width * width + 2 * tokens * tokens * width
    mlp = 2 * tokens * width * 16
    head = width * 10
    assert forward_flops(model, 8, 1, 10) == 2 * (embed + attention + mlp + head)


def test_taps_on_padding_are_not_counted() -> None:
    model = ResNet(blocks=(1,), width=1, root="3x3", groups=1)
    root_taps = (2 + 3 + 2) ** 2  # a 3-pixel image: corners see 2 x 2 pixels, the centre 3 x 3
    unit = 9 * 1 * 4 + 9 * 1 * 1 + root_taps * 1 * 1 + 9 * 1 * 4
    assert forward_flops(model, 3, 1, 2) == 2 * (root_taps + unit + 4 * 2)


def test_taps_on_padding_are_counted_when_asked_for() -> None:
    model = ResNet(blocks=(1,), width=1, root="3x3", groups=1)
    unit = 9 * 1 * 4 + 9 * 1 * 1 + 9 * 9 + 9 * 1 * 4
    assert forward_flops(model, 3, 1, 2, padded_taps=True) == 2 * (9 * 9 + unit + 4 * 2)


@pytest.mark.parametrize("form", ["pre-activation", "post-activation"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 33])
def test_taps_are_those_that_a_walk_over_the_image_meets(form: str, size: int) -> None:
    model = ResNet.model_validate({"blocks": [], "width": 1, "groups": 1, "form": form})
    outputs = -(-size // 2)
    before = 3 if form == "pre-activation" else max(0, 2 * (outputs - 1) + 7 - size) // 2
    along = sum(0 <= 2 * out + tap - before < size for out in range(outputs) for tap in range(7))
    assert cost_resnet.macs(model, (size, size), 1, padded_taps=False) == along * along


def test_a_grid_of_patches_may_be_wider_than_high() -> None:
    model = ViT(patch=4, width=8, depth=1, mlp=16, heads=2, head="gap", position="none", attention="axial")
    tokens, width = 2 * 3, 8
    block = 2 * tokens * (4 * width * width + 2 * width * 16) + 2 * tokens * (2 + 3) * width
    assert forward_flops(model, (8, 12), 1, 10) == 2 * (tokens * 16 * width + block + width * 10)
    assert forward_flops(model, (12, 8), 1, 10) == forward_flops(model, (8, 12), 1, 10)


def test_half_the_stride_moves_the_last_stage_into_the_one_before() -> None:
    whole, moved = named("R50+ViT-B/32"), named("R50+ViT-B/16")
    assert isinstance(whole, Hybrid)
    assert isinstance(moved, Hybrid)
    assert (whole.body.blocks, whole.vit.patch) == ((3, 4, 6, 3), 1)
    assert (moved.body.blocks, moved.vit.patch) == ((3, 4, 9), 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ViT-b/16", "'b' is no ViT size; did you mean 'B'?"),
        ("ViT-B16", "'ViT-B16' is no architecture; did you mean 'ViT-B/16'?"),
        ("R51x1", "'R51' is no ResNet; did you mean 'R50'?"),
        ("R50+ViT-B/8", "so /16 or /32 are valid"),
        ("ViT-B/0", "is no architecture"),
        ("resnet", "is no architecture"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_valid_one(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        named(name)


def test_names_are_composed_as_the_papers_write_them() -> None:
    assert compose("ViT", "B", 16) == "ViT-B/16"
    assert compose("R50+ViT", "B", 16) == "R50+ViT-B/16"
    assert compose("R50", "x2", None) == "R50x2"
    assert [family_of(named(name)) for name in ("ViT-B/16", "R50x2", "R50+ViT-B/16")] == ["ViT", "ResNet", "Hybrid"]


def test_a_model_is_priced_without_importing_torch() -> None:
    code = (
        "import sys; from studies.cost import parameters; from studies.architectures import named;"
        "from studies import bill, grid; print(parameters(named('ViT-B/16'), 224, 3, 1000));"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
