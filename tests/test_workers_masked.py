"""Masked patch prediction: what is corrupted, what is predicted, and that it is learned."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from studies.cost import parameters
from studies.models import MaskedPatch, ViT
from workers.models.build import blueprint, build
from workers.models.masked import Corruption, MaskedPatchNetwork, corruption_of

SIDE, PATCHES = 16, 16
TARGETS = ("mean-color", "small-colors", "pixels")


def small(**fields: Any) -> MaskedPatch:
    vit = ViT(patch=4, width=32, depth=2, mlp=64, heads=2, head="token")
    return MaskedPatch.model_validate({"vit": vit, **fields})


def network_of(model: MaskedPatch, channels: int = 3) -> MaskedPatchNetwork:
    return build(model, image_size=SIDE, channels=channels, classes=0, seed=0)


def image_of(batch: int = 4, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def corrupted(batch: int = 4, step: int = 0) -> Corruption:
    return corruption_of(7, step, batch=batch, patches=PATCHES, share=0.5)


def same(one: Corruption, other: Corruption) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------------------------------------------ corruption


@pytest.mark.parametrize(("patches", "share", "count"), [(16, 0.5, 8), (49, 0.15, 7), (196, 0.5, 98), (2, 0.4, 1)])
def test_every_image_has_the_same_number_of_corrupted_patches(patches: int, share: float, count: int) -> None:
    drawn = corruption_of(0, 3, batch=50, patches=patches, share=share)
    assert drawn.place.shape == (50, count)
    assert bool((drawn.place.diff(dim=1) > 0).all()), "ascending, each once"
    assert bool((drawn.place >= 0).all())
    assert bool((drawn.place < patches).all())
    untouched = torch.ones(50, patches, dtype=torch.bool).scatter(1, drawn.place, value=False)
    assert torch.equal(drawn.source[untouched], torch.arange(patches).expand(50, -1)[untouched])
    assert not drawn.masked[untouched].any()


def test_eight_of_ten_corrupted_patches_are_masked_one_is_anothers_and_one_stays() -> None:
    drawn = corruption_of(1, 0, batch=2000, patches=64, share=0.5)
    masked = drawn.masked.gather(1, drawn.place)
    other = drawn.source.gather(1, drawn.place) != drawn.place
    assert not (masked & other).any()
    assert float(masked.double().mean()) == pytest.approx(0.8, abs=0.005)
    assert float(other.double().mean()) == pytest.approx(0.1, abs=0.005)
    # Each place is corrupted as often as any other, and each other patch is taken as often.
    assert (drawn.place.flatten().bincount() / 2000 - 0.5).abs().max() < 0.05
    distance = (drawn.source.gather(1, drawn.place) - drawn.place)[other] % 64
    assert distance.bincount(minlength=64)[1:].min() > 0.6 * len(distance) / 63


def test_corruption_follows_from_seed_and_step_alone() -> None:
    before = torch.get_rng_state()
    first = corruption_of(5, 9, batch=4, patches=16, share=0.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, corruption_of(5, 9, batch=4, patches=16, share=0.5))
    for seed, step in ((6, 9), (5, 10), (5, 0)):
        assert not same(first, corruption_of(seed, step, batch=4, patches=16, share=0.5))


def test_corruption_is_pinned() -> None:
    drawn = corruption_of(0, 3, batch=1, patches=8, share=0.5)
    place, source, masked = (field[0] for field in drawn)
    assert place.tolist() == [0, 1, 3, 6]
    assert source.tolist() == [0, 1, 2, 3, 4, 5, 2, 7]
    assert masked.nonzero().flatten().tolist() == [0, 1, 3]


@pytest.mark.parametrize(("patches", "share"), [(16, 0.0), (4, 0.1), (1, 0.9)])
def test_a_share_that_leaves_nothing_to_predict_is_refused(patches: int, share: float) -> None:
    with pytest.raises(ValueError, match=f"of {patches} patches leaves nothing to predict"):
        corruption_of(0, 0, batch=1, patches=patches, share=share)
    side = int(patches**0.5) * 4
    with pytest.raises(ValueError, match="leaves nothing to predict"):
        blueprint(small(corrupted=share), image_size=side, channels=3, classes=0)


# ---------------------------------------------------------------------------------------------- targets, predictions


def test_the_mean_color_has_three_bits_a_channel() -> None:
    network = network_of(small())
    image = torch.empty(1, 3, SIDE, SIDE)
    image[0, 0], image[0, 1], image[0, 2] = -1.0, 0.1, 1.0
    assert set(network.targets(image, corrupted(1)).flatten().tolist()) == {0 * 64 + 4 * 8 + 7}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("target", TARGETS)
def test_targets_are_those_of_a_loop_over_patches(target: str, channels: int) -> None:
    network = network_of(small(target=target), channels)
    image, corruption = image_of(channels=channels), corrupted()
    found = network.targets(image, corruption)

    def color(mean_C: Tensor) -> int:
        levels = [min(7, int((float(mean) + 1) / 2 * 8)) for mean in mean_C]
        return sum(level * 8 ** (channels - 1 - index) for index, level in enumerate(levels))

    for index in range(4):
        for slot, place in enumerate(corruption.place[index].tolist()):
            top, left = 4 * (place // 4), 4 * (place % 4)
            patch_Chw = image[index, :, top : top + 4, left : left + 4]
            if target == "pixels":
                assert torch.equal(found[index, slot], patch_Chw.flatten())
            elif target == "mean-color":
                assert int(found[index, slot]) == color(patch_Chw.mean(dim=(1, 2)))
            else:  # patches of 4 x 4 pixels are their own reduction
                assert found[index, slot].tolist() == [color(patch_Chw[:, i // 4, i % 4]) for i in range(16)]


def test_small_colors_are_means_of_tiles() -> None:
    model = MaskedPatch(vit=ViT(patch=8, width=32, depth=1, mlp=32, heads=2, head="token"), target="small-colors")
    network = build(model, image_size=16, channels=1, classes=0, seed=0)
    image = image_of(2, 1)
    corruption = corruption_of(0, 0, batch=2, patches=4, share=0.5)
    small_B1hw = torch.nn.functional.avg_pool2d(image, 2)
    level = ((small_B1hw[:, 0] + 1) * 4).floor().long()
    place = int(corruption.place[1, 0])
    top, left = 4 * (place // 2), 4 * (place % 2)
    expected = level[1, top : top + 4, left : left + 4].flatten()
    assert torch.equal(network.targets(image, corruption)[1, 0], expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("target", TARGETS)
def test_predictions_are_of_corrupted_patches_alone_and_cost_what_was_said(target: str, channels: int) -> None:
    model = small(target=target)
    network = network_of(model, channels)
    colors = 8**channels
    shape = {"mean-color": (4, 8, colors), "small-colors": (4, 8, 16, colors), "pixels": (4, 8, 16 * channels)}[target]
    assert network(image_of(channels=channels), corrupted()).shape == shape
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters(model, SIDE, channels, 0)
    assert not [name for name, _ in network.named_parameters() if name.startswith("vit.head")]


def test_the_network_sees_nothing_of_what_is_masked_and_all_of_the_rest() -> None:
    network = network_of(small())
    torch.nn.init.normal_(network.predict.weight)
    image = image_of(1).requires_grad_()
    place = torch.tensor([[3, 5, 9]])
    source = torch.arange(PATCHES)[None].clone()
    source[0, 5] = 12  # patch 5 looks like patch 12, patch 9 stays
    masked = torch.zeros(1, PATCHES, dtype=torch.bool)
    masked[0, 3] = True
    network(image, Corruption(place, source, masked)).square().sum().backward()
    assert image.grad is not None
    touched = image.grad[0].abs().sum(0).unfold(0, 4, 4).unfold(1, 4, 4).sum(dim=(-2, -1)).flatten() > 0
    assert torch.arange(PATCHES)[~touched].tolist() == [3, 5]


def test_features_are_the_mean_of_patches() -> None:
    network = network_of(small())
    image = image_of()
    tokens = network.vit.norm(network.vit.encoded(network.vit.embedded(image)))
    torch.testing.assert_close(network.features(image), tokens[:, 1:].mean(dim=1))


# ---------------------------------------------------------------------------------------- training and compiling


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("target", TARGETS)
def test_a_masked_patch_model_learns_a_fixed_batch(target: str, precision: torch.dtype) -> None:
    network = network_of(small(target=target))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    image, corruption = image_of(2), corrupted(2)
    losses = []
    for _ in range(300):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            predicted = network(image, corruption)
        loss = network.loss(predicted, network.targets(image, corruption))
        assert loss.dtype == torch.float32
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if losses[-1] < losses[0] / 10:
            break
    assert losses[-1] < losses[0] / 10


def test_no_value_is_read_on_the_host() -> None:
    network = network_of(small())
    with FakeTensorMode() as mode:
        fake: dict[str, Tensor] = {name: mode.from_tensor(tensor) for name, tensor in network.named_parameters()}
        image, corruption = mode.from_tensor(image_of()), Corruption(*map(mode.from_tensor, corrupted()))
        loss = network.loss(functional_call(network, fake, (image, corruption)), network.targets(image, corruption))
        loss.backward()  # type: ignore[no-untyped-call]


def test_a_masked_patch_model_exports_and_compiles_in_one_graph() -> None:
    network = network_of(small())
    torch.nn.init.normal_(network.predict.weight, generator=torch.Generator().manual_seed(0))
    arguments = (image_of(), corrupted())
    expected = network(*arguments)
    torch.testing.assert_close(torch.export.export(network, arguments).module()(*arguments), expected)
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, dynamic=False, backend="aot_eager")
    found = compiled(*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    other = compiled(image_of(), corrupted(step=1))
    torch.testing.assert_close(other, network(image_of(), corrupted(step=1)), rtol=1e-4, atol=1e-5)
