"""Shapes and prices against the published numbers."""

import csv
import re
import subprocess
import sys
from io import StringIO

import pytest

from studies.architectures import compose, family_of, named
from studies.cost import forward_flops, parameters, train_flops
from studies.definitions import Hybrid, ResNet, ViT

JFT_IMAGES, JFT_CLASSES = 303_000_000, 18_291

TABLE_6 = """\
model,epochs,exaflops
ViT-B/32,7,55.98
ViT-B/16,7,224.07
ViT-L/32,7,196.58
ViT-L/16,7,783.73
ViT-L/16,14,1567.47
ViT-H/14,14,4262.7
R50x1,7,50.82
R50x2,7,199.23
R101x1,7,96.17
R152x1,7,141.72
R152x2,7,563.19
R152x2,14,1126.37
R200x3,14,3306.66
R50+ViT-B/32,7,106.38
R50+ViT-B/16,7,274.16
R50+ViT-L/32,7,246.06
R50+ViT-L/16,14,1668.52
"""
"""arXiv:2010.11929v2, Table 6, as plotted in Figure 5. R50+ViT-L/16 for 7 epochs is left out: the paper gives 859,
which is not half of what it gives for 14."""


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


def test_parameter_count_is_the_published_one_of_r50x1() -> None:
    assert parameters(named("R50x1"), 224, 3, 1000) == 25_549_352


def test_training_flops_meet_table_6_within_0_7_percent() -> None:
    errors = []
    for row in csv.DictReader(StringIO(TABLE_6)):
        model = named(row["model"])
        flops = train_flops(model, 224, 3, JFT_CLASSES, JFT_IMAGES * int(row["epochs"]))
        errors.append(abs(flops / 1e18 / float(row["exaflops"]) - 1))
    assert len(errors) == 17
    assert max(errors) <= 0.007
    assert sum(errors) / len(errors) <= 0.004


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
