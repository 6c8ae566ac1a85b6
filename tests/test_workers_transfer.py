"""Trained weights at another resolution and under another head."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from studies.models import AnyModel, Hybrid, MaskedPatch, ResNet, ViT, fine_tuned
from workers.models.build import build
from workers.models.network import FeatureNetwork
from workers.models.positions import sincos
from workers.models.transfer import loaded, resized, resized_positions, transferred
from workers.models.vit import VisionTransformer

RESNET = ResNet(blocks=(1, 2), width=8, root="3x3", groups=4)


def small(**fields: Any) -> ViT:
    return ViT.model_validate({"patch": 2, "width": 16, "depth": 2, "mlp": 32, "heads": 2, **fields})


def weights_of(network: FeatureNetwork) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(parameter.shape, generator=random) for name, parameter in network.named_parameters()}


def trained(model: AnyModel, size: int | tuple[int, int] = 8) -> dict[str, Tensor]:
    return weights_of(build(model, image_size=size, channels=1, classes=10, seed=0))


# ------------------------------------------------------------------------------------------------------ resolution

SIDES = st.integers(1, 9)


@given(before=st.tuples(SIDES, SIDES), after=st.tuples(SIDES, SIDES), token=st.booleans())
@settings(max_examples=60, deadline=None)
def test_interpolation_is_the_zoom_of_the_released_code(
    before: tuple[int, int], after: tuple[int, int], token: bool
) -> None:
    random = np.random.default_rng(before[0])
    table_TD = random.standard_normal((before[0] * before[1] + token, 5)).astype(np.float32)
    grid_HWD = table_TD[token:].reshape(*before, 5)
    zoomed_HWD = ndimage.zoom(grid_HWD, (after[0] / before[0], after[1] / before[1], 1), order=1)
    found_TD = resized_positions(torch.from_numpy(table_TD), before, after).numpy()
    assert np.array_equal(found_TD[:token], table_TD[:token]), "the class token's row stays"
    np.testing.assert_allclose(found_TD[token:], zoomed_HWD.reshape(-1, 5), rtol=1e-6, atol=1e-6)


def test_a_grid_of_the_same_shape_keeps_every_bit() -> None:
    table_TD = torch.randn(13, 4)
    assert resized_positions(table_TD, (3, 4), (3, 4)) is table_TD
    weights = trained(small())
    assert all(
        tensor is weights[name] for name, tensor in resized(weights, small(), from_size=8, to_size=(8, 8)).items()
    )


def test_a_table_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="a table of 15 positions is none of 3 x 4 patches"):
        resized_positions(torch.randn(15, 4), (3, 4), (6, 8))


@pytest.mark.parametrize("position_at", ["stem", "shared", "layers"])
@pytest.mark.parametrize("position", ["learned-1d", "learned-2d"])
@pytest.mark.parametrize("head", ["token", "map"])
def test_every_learned_table_is_resized_and_nothing_else(head: str, position: str, position_at: str) -> None:
    model = small(head=head, position=position, position_at=position_at)
    before = trained(model, (8, 4))
    after = resized(before, model, from_size=(8, 4), to_size=(4, 12))
    network = build(model, image_size=(4, 12), channels=1, classes=10, seed=1)
    loaded(network, after)
    changed = {name for name in before if after[name] is not before[name]}
    assert changed == {name for name in before if "position" in name}
    assert len(changed) == (2 if position == "learned-2d" else 1) * (2 if position_at == "layers" else 1)
    for name in changed:
        if "row" in name:
            expected = ndimage.zoom(before[name].numpy(), (2 / 4, 1), order=1)
        elif "col" in name:
            expected = ndimage.zoom(before[name].numpy(), (6 / 2, 1), order=1)
        else:
            token, grid = before[name][:-8].numpy(), before[name][-8:].view(4, 2, 16).numpy()
            expected = np.concatenate([token, ndimage.zoom(grid, (2 / 4, 6 / 2, 1), order=1).reshape(-1, 16)])
        np.testing.assert_allclose(after[name].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_positions_inside_a_hybrid_are_resized() -> None:
    model = Hybrid(body=RESNET, vit=small(patch=1))
    after = resized(trained(model, 8), model, from_size=8, to_size=(4, 16))
    assert after["vit.position_TD"].shape == (1 + 2 * 8, 16)


def test_sines_and_cosines_are_those_of_the_new_grid() -> None:
    model = small(position="sincos-2d", head="gap")
    network = transferred(trained(model), model, from_size=8, to_size=(6, 10), channels=1, classes=3)
    assert isinstance(network, VisionTransformer)
    assert network.sincos_TD is not None
    assert torch.equal(network.sincos_TD, sincos((3, 5), 16))


def test_relative_positions_say_why_they_cannot_be_resized() -> None:
    model = small(position="relative")
    weights = trained(model)
    assert resized(weights, model, from_size=8, to_size=8) == weights
    with pytest.raises(ValueError, match="for images of 8 cannot see 8 x 16: its offsets count tokens in raster order"):
        resized(weights, model, from_size=8, to_size=(8, 16))


def test_a_convolutional_resnet_sees_any_size_and_an_axial_one_does_not() -> None:
    weights = trained(RESNET)
    assert resized(weights, RESNET, from_size=8, to_size=20) == weights
    axial = ResNet(blocks=(1,), width=16, root="3x3", groups=4, mixing="axial")
    with pytest.raises(ValueError, match="an AxialResNet for images of 8 cannot see 16"):
        resized(trained(axial), axial, from_size=8, to_size=16)


# ------------------------------------------------------------------------------------------------ fine-tuning head


@pytest.mark.parametrize(
    "model",
    [
        small(),
        small(head="map"),
        small(head="gap", attention="axial"),
        RESNET,
        Hybrid(body=RESNET, vit=small(patch=1)),
        MaskedPatch(vit=small(head="token")),
    ],
    ids=["token-tanh", "map", "axial", "resnet", "hybrid", "masked"],
)
def test_fine_tuning_starts_with_one_layer_of_zeros_on_all_that_was_trained(model: AnyModel) -> None:
    before = trained(model)
    network = transferred(before, model, from_size=8, to_size=8, channels=1, classes=7)
    after = dict(network.named_parameters())
    assert not [name for name in after if "pre_logits" in name or name.startswith("predict")]
    inside = "vit." if isinstance(model, MaskedPatch) else ""
    for name, parameter in after.items():
        if name.rpartition(".")[0].endswith("head"):
            assert not parameter.any()
            assert len(parameter) == 7
        else:
            assert torch.equal(parameter, before[inside + name])
    image = torch.randn(2, 1, 8, 8)
    assert not network(image).any()
    assert network.features(image).any()


def test_fine_tuning_drops_the_tanh_layer_and_keeps_the_features_before_it() -> None:
    model = small()
    source = build(model, image_size=8, channels=1, classes=10, seed=0)
    weights = weights_of(source)
    loaded(source, weights)
    assert isinstance(source, VisionTransformer)
    network = transferred(weights, model, from_size=8, to_size=8, channels=1, classes=3)
    image = torch.randn(2, 1, 8, 8)
    expected = source.norm(source.encoded(source.embedded(image))[:, 0])
    torch.testing.assert_close(network.features(image), expected)
    assert fine_tuned(model) == small(head="token")
    assert fine_tuned(Hybrid(body=RESNET, vit=model)) == Hybrid(body=RESNET, vit=small(head="token"))
    assert fine_tuned(small(head="map")) == small(head="map")


def test_fine_tuning_at_a_higher_resolution_trains() -> None:
    model = small()
    network = transferred(trained(model), model, from_size=8, to_size=12, channels=1, classes=3, dropout=0.1)
    network(torch.randn(2, 1, 12, 12)).logsumexp(dim=1).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_weights_of_another_network_are_refused_before_anything_is_written() -> None:
    network = build(small(), image_size=8, channels=1, classes=10, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    weights = {name: torch.ones_like(tensor) for name, tensor in before.items()}
    weights["norm.bias"] = torch.ones(15)
    del weights["cls_1D"]
    with pytest.raises(ValueError, match=r"2 tensors .* the first, cls_1D, has the shape none and not \(1, 16\)"):
        loaded(network, weights)
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    with pytest.raises(ValueError, match="are not the network's"):
        transferred(weights, small(), from_size=8, to_size=8, channels=1, classes=3)
