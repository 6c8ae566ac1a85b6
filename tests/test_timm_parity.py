"""Our networks against timm's own: with the same weights, the same outputs, whoever wrote the file.

B = images, C = color channels, H, W = pixels, K = classes. timm computes the exact GELU unless it is told to take the
tanh form of the papers' code; a definition of ours names either. Its epsilons of standardized filters, and in
hybrids of group normalization, are not the released code's: filters here have a scale beside which either's vanish.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studies.architectures import altered_fields, named
from studies.cost import parameters
from studies.models import Hybrid, ResNet, ViT
from tests.published_files import big_transfer, filled, google_hybrid, google_vit
from workers.models.build import blueprint, materialize
from workers.models.network import Network
from workers.published.files import load, save_timm
from workers.published.timm_files import timm_model

pytestmark = [
    pytest.mark.xla,
    # torchvision's own, as timm imports it.
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torchvision"),
]

Model = ViT | ResNet | Hybrid
SIDE = 224
FILTERS = ("conv.weight", "conv1.weight", "conv2.weight", "conv3.weight")
"""How timm's names of standardized filters end."""
TANH = {"act_layer": "gelu_tanh"}


def vit(name: str, **fields: Any) -> ViT:
    model = named(name, "token")
    assert isinstance(model, ViT)
    return ViT.model_validate(altered_fields(model, fields))


def hybrid(name: str, **fields: Any) -> Hybrid:
    """As released: with the post-activation ResNet."""
    model = named(name, "token")
    assert isinstance(model, Hybrid)
    return Hybrid.model_validate(altered_fields(model, {"body": {"form": "post-activation"}, **fields}))


MEMBERS: dict[str, tuple[str, dict[str, Any], Model]] = {
    "Ti/16": ("vit_tiny_patch16_224", TANH, vit("ViT-Ti/16")),
    "S/16": ("vit_small_patch16_224", {}, vit("ViT-S/16", gelu="exact")),
    "B/16": ("vit_base_patch16_224", {}, vit("ViT-B/16", gelu="exact")),
    "B/32": ("vit_base_patch32_224", {}, vit("ViT-B/32", gelu="exact")),
    "gap": (
        "vit_tiny_patch16_224",
        TANH | {"class_token": False, "global_pool": "avg", "fc_norm": False},
        vit("ViT-Ti/16", head="gap"),
    ),
    "map": ("vit_base_patch16_siglip_224", {}, vit("ViT-B/16", head="map", gelu="exact")),
    "R50x1": ("resnetv2_50x1_bit", {}, named("R50x1")),
    "R101x1": ("resnetv2_101x1_bit", {}, named("R101x1")),
    "R50+B/16": ("vit_base_r50_s16_224", {}, hybrid("R50+ViT-B/16", vit={"gelu": "exact"})),
    "R26+S/32": ("vit_small_r26_s32_224", {}, hybrid("R26+ViT-S/32", vit={"gelu": "exact"})),
    "R+Ti/16": ("vit_tiny_r_s16_p8_224", TANH, hybrid("R+ViT-Ti/16")),
}


def timm_network(name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    with torch.device("meta"):  # first values would only cost time
        network: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return network.to_empty(device="cpu").eval()


def our_network(model: Model, classes: int = 1000) -> Network:
    return materialize(blueprint(model, image_size=SIDE, channels=3, classes=classes), "cpu").eval()


def randomized(network: nn.Module, residual_scale: float = 0.2) -> nn.Module:
    """Every parameter random, norms and biases too, at a scale that neither lets signals vanish nor explode.

    residual_scale: of the norm before what a residual unit adds. In trained networks a unit changes little; at 1 a
    hundred random layers enlarge float32's rounding to 3e-5, by which two exact implementations differ as well.
    """
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = torch.randn(parameter.shape, generator=stream)
            if name.endswith(FILTERS):
                parameter.copy_(100 * values)
            elif parameter.ndim >= 2 and name.endswith("weight"):
                parameter.copy_(values / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.3 * values + (1.0 if name.endswith("weight") else 0.0))
            if "norm3" in name:
                parameter.mul_(residual_scale)
    return network


def random_image() -> Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def assert_equal_outputs(ours: Network, theirs: nn.Module) -> None:
    """Class logits of order 1 that agree to 1e-5."""
    found_BK, expected_BK = ours(random_image()), theirs(random_image())
    order = float(expected_BK.std())
    assert 0.1 < order < 10
    torch.testing.assert_close(found_BK, expected_BK, atol=1e-5 * max(1.0, order), rtol=0)


@pytest.mark.parametrize("member", MEMBERS)
def test_outputs_are_those_of_timm_with_its_weights_and_with_ours(member: str, tmp_path: Path) -> None:
    name, arguments, model = MEMBERS[member]
    theirs = randomized(timm_network(name, {"num_classes": 1000, **arguments}))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = our_network(model)
    load(tmp_path / "theirs.safetensors", ours, model)
    assert_equal_outputs(ours, theirs)
    total = sum(parameter.numel() for parameter in theirs.parameters())
    assert sum(parameter.numel() for parameter in ours.parameters()) == total
    assert parameters(model, image_size=SIDE, channels=3, classes=1000) == total

    save_timm(tmp_path / "ours.safetensors", ours, model)
    again = timm_network(*timm_model(ours, model))
    again.load_state_dict(load_file(tmp_path / "ours.safetensors"), strict=True)
    assert_equal_outputs(ours, again)
    # Also the model of that very name and timm's own arguments takes the file.
    theirs.load_state_dict(load_file(tmp_path / "ours.safetensors"), strict=True)


def test_in_float64_a_resnet_of_any_weights_is_timm_s_to_a_billionth(tmp_path: Path) -> None:
    """So that what float32 leaves between the two is rounding alone."""
    theirs = randomized(timm_network("resnetv2_50x1_bit", {"num_classes": 10}), residual_scale=1.0)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = our_network(named("R50x1"), classes=10)
    load(tmp_path / "theirs.safetensors", ours, named("R50x1"))
    image = random_image()[..., :64, :64].double()
    with torch.no_grad():
        torch.testing.assert_close(ours.double()(image), theirs.double()(image), atol=1e-9, rtol=0)


RELEASED: dict[str, tuple[str, dict[str, Any], Model]] = {
    "vision_transformer's ViT": ("vit_base_patch16_224", TANH | {"depth": 2}, vit("ViT-B/16", depth=2)),
    "vision_transformer's hybrid": (
        "vit_base_r50_s16_224",
        TANH | {"depth": 2},
        hybrid("R50+ViT-B/16", vit={"depth": 2}),
    ),
    "big_transfer's ResNet": ("resnetv2_50x1_bit", {}, named("R50x1")),
}


@pytest.mark.parametrize("release", RELEASED)
def test_a_released_file_gives_timm_s_outputs_when_each_reads_it_itself(release: str, tmp_path: Path) -> None:
    name, arguments, model = RELEASED[release]
    match model:
        case ViT():
            arrays = filled(google_vit(model, tokens=14**2 + 1, classes=10))
        case Hybrid():
            arrays = filled(google_hybrid(model, tokens=14**2 + 1, classes=10))
        case ResNet():
            arrays = filled(big_transfer(model, classes=10))
    path = tmp_path / "released.npz"
    np.savez(path, **{name: scale_of(name) * array for name, array in arrays.items()})  # type: ignore[arg-type]
    theirs: Any = timm_network(name, {"num_classes": 10, **arguments})
    theirs.load_pretrained(str(path))
    ours = our_network(model, classes=10)
    load(path, ours, model)
    assert_equal_outputs(ours, theirs)


def scale_of(name: str) -> float:
    """What a released tensor is multiplied by, for the reasons that `randomized` gives."""
    if "conv" in name and name.endswith("/kernel") and "head" not in name:
        return 1e4
    return 0.2 if "/c/group_norm/" in name else 1.0
