"""Formulas against the built networks: parameters and FLOPs of every member, on the meta device."""

from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from studies.architectures import PUBLISHED, describe, named
from studies.cost import ImageSize, forward_flops, grid, parameters, sides, tokens
from studies.models import AnyModel, Head, Hybrid, MaskedPatch, ResNet, ViT
from workers.models.build import blueprint
from workers.models.masked import Corruption, MaskedPatchNetwork

CLASSES, CHANNELS = 1000, 3

QUICK_NAMES = [
    "ViT-H/14",
    "ViT-g/14",
    "Axial-ViT-B/32",
    "R50x1",
    "R152x4",
    "AxialResNet-50",
    "R50+ViT-B/16",
    "R+ViT-Ti/16",
]
PUBLISHED_NAMES = [
    *(f"{kind}-{size}/{patch}" for kind, size, patch in product(["ViT", "Axial-ViT"], PUBLISHED.ViT, (14, 16, 32))),
    *(f"{body}x{factor}" for body, factor in product([name for name in PUBLISHED.ResNet if name != "R"], (1, 2, 3, 4))),
    *(f"AxialResNet-{depth}" for depth in (26, 50, 101, 152, 200)),
    *(f"R50+ViT-{size}/{total}" for size, total in product("BL", (16, 32))),
    "R26+ViT-S/32",
    "R26+ViT-B/32",
    "R+ViT-Ti/16",
]


def vit(**choices: Any) -> ViT:
    return ViT(**{"patch": 4, "width": 64, "depth": 2, "mlp": 128, "heads": 2, **choices})


def resnet(**choices: Any) -> ResNet:
    return ResNet(**{"width": 32, **choices})


POSITIONS = ("learned-1d", "learned-2d", "sincos-2d", "none")
FORMS = (("pre-activation", "convolution"), ("post-activation", "convolution"), ("pre-activation", "axial"))
BLOCKS = ((1,), (2, 1, 3))
VITS = [
    *(vit(head=head, position=each) for head in get_args(Head) for each in (*POSITIONS, "relative")),
    *(
        vit(head=head, position=each, position_at=place)
        for head, each, place in product(("token", "gap"), POSITIONS[:2], ("layers", "shared"))
    ),
    *(vit(head=head, code="big-vision") for head in ("token", "map")),
    *(vit(attention="axial", head=head, position=each) for head in ("gap", "map") for each in POSITIONS),
    vit(attention="axial", head="gap", position_at="layers"),
]
MASKED = [
    MaskedPatch.model_validate({"vit": vit(head="token"), "target": target, "corrupted": share})
    for target, share in product(("mean-color", "small-colors", "pixels"), (0.15, 0.5))
]
RESNETS = [
    resnet(form=form, mixing=mixing, root=root, blocks=blocks)
    for (form, mixing), root, blocks in product(FORMS, ("7x7", "3x3"), BLOCKS)
] + [resnet(form=form, blocks=()) for form in ("pre-activation", "post-activation")]
HYBRIDS = [
    Hybrid(body=resnet(form=form, blocks=blocks), vit=vit(patch=1, head=head))
    for form, blocks, head in product(("pre-activation", "post-activation"), ((1, 2), ()), ("token-tanh", "map"))
]


def shown(value: Any) -> str:
    return describe(value) if isinstance(value, ViT | ResNet | Hybrid) else str(value)


def measured(model: AnyModel, image_size: ImageSize, classes: int, passes: int = 1) -> tuple[int, int]:
    """Parameters of the built network, and the FLOPs that torch counts: forward, or with 3 passes the backward too."""
    network = blueprint(model, image_size=image_size, channels=CHANNELS, classes=classes)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        image_BCHW = torch.zeros(1, CHANNELS, *sides(image_size), requires_grad=True)
        if isinstance(network, MaskedPatchNetwork):
            out = network(image_BCHW, corruption_of(network.model, image_size))
        else:
            out = network(image_BCHW)
        if passes == 3:
            out.sum().backward()
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops()


def corruption_of(model: MaskedPatch, image_size: ImageSize) -> Corruption:
    """Of one image, without values."""
    rows, columns = grid(model, image_size)
    corrupted = round(model.corrupted * rows * columns)
    place = torch.zeros(1, corrupted, dtype=torch.int64)
    return Corruption(place, torch.zeros(1, rows * columns, dtype=torch.int64), torch.ones(1, rows * columns) > 0)


def check(model: AnyModel, image_size: ImageSize, classes: int = 10, passes: int = 1) -> None:
    count, flops = measured(model, image_size, classes, passes)
    assert parameters(model, image_size, CHANNELS, classes) == count
    formula = passes * forward_flops(model, image_size, CHANNELS, classes, padded_taps=True)
    assert formula == pytest.approx(flops, rel=0.005)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK_NAMES else pytest.mark.slow) for name in PUBLISHED_NAMES]
)
def test_a_published_model_costs_what_torch_counts(name: str) -> None:
    check(named(name), 224, CLASSES)


@pytest.mark.parametrize("size", [32, (16, 40)], ids=["square", "wide"])
@pytest.mark.parametrize("model", VITS, ids=shown)
def test_every_transformer_costs_what_torch_counts(model: ViT, size: ImageSize) -> None:
    check(model, size)


@pytest.mark.parametrize("size", [32, (16, 40)], ids=["square", "wide"])
@pytest.mark.parametrize("model", MASKED, ids=shown)
def test_a_masked_patch_model_costs_what_torch_counts(model: MaskedPatch, size: ImageSize) -> None:
    check(model, size)


@pytest.mark.parametrize("size", [32, 33, (50, 37)], ids=["even", "odd", "wide"])
@pytest.mark.parametrize("model", RESNETS, ids=shown)
def test_every_residual_network_costs_what_torch_counts(model: ResNet, size: ImageSize) -> None:
    check(model, size)


@pytest.mark.parametrize("size", [32, (64, 32)], ids=["square", "high"])
@pytest.mark.parametrize("model", HYBRIDS, ids=shown)
def test_every_hybrid_costs_what_torch_counts(model: Hybrid, size: ImageSize) -> None:
    check(model, size)


@pytest.mark.parametrize("name", ["ViT-S/16", "Axial-ViT-S/32", "R26x1", "R50+ViT-B/32", "AxialResNet-26"])
def test_a_training_step_is_three_forward_passes(name: str) -> None:
    check(named(name), 224, CLASSES, passes=3)


def test_tokens_are_those_of_the_layers() -> None:
    assert tokens(named("ViT-B/16"), 224) == 14 * 14 + 1
    assert tokens(named("ViT-B/16", head="map"), (224, 448)) == 14 * 28
    assert tokens(named("R50+ViT-B/32"), 224) == 7 * 7 + 1
    assert tokens(named("R50x1"), 224) == 0
