"""The networks against their published shapes, their price, their flop count, and first values."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from studies import cost
from studies.architectures import named
from studies.definitions import Hybrid, ResNet, ViT
from workers.models.build import blueprint, build
from workers.models.network import Network
from workers.models.resnet import StandardizedConv2d
from workers.models.vit import Block, VisionTransformer, attend

SMALL_VIT = ViT(patch=2, width=16, depth=2, mlp=32, heads=2)
SMALL_RESNET = ResNet(blocks=(1, 2), width=8, root="3x3", groups=4)
SMALL: dict[str, ViT | ResNet | Hybrid] = {
    "vit token-tanh": SMALL_VIT,
    "vit token": SMALL_VIT.model_copy(update={"head": "token"}),
    "vit gap": SMALL_VIT.model_copy(update={"head": "gap"}),
    "resnet 3x3": SMALL_RESNET,
    "resnet 7x7": ResNet(blocks=(1,), width=8, groups=4),
    "hybrid": Hybrid(body=SMALL_RESNET, vit=SMALL_VIT.model_copy(update={"patch": 1})),
}
PUBLISHED = [
    *(f"ViT-{size}/{patch}" for size, patch in [("s", 16), ("Ti", 16), ("S", 16), ("B", 16), ("B", 32), ("L", 16)]),
    *("ViT-H/14", "R26x1", "R50x1", "R50x2", "R101x1", "R50+ViT-B/32", "R50+ViT-B/16"),
]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_named_network_has_the_parameters_that_it_is_priced_with(name: str) -> None:
    model = named(name)
    network = blueprint(model, image_size=224, channels=3, classes=1000, dropout=0.0)
    assert count(network) == cost.parameters(model, 224, 3, 1000)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_has_the_parameters_that_it_is_priced_with(name: str) -> None:
    network = blueprint(SMALL[name], image_size=8, channels=1, classes=10, dropout=0.0)
    assert count(network) == cost.parameters(SMALL[name], 8, 1, 10)


def test_parameter_counts_are_the_published_ones() -> None:
    published = {"ViT-B/16": 86_567_656, "ViT-B/32": 88_224_232, "ViT-L/16": 304_326_632, "ViT-Ti/16": 5_717_416}
    for name, parameters in published.items():
        network = blueprint(named(name, head="token"), image_size=224, channels=3, classes=1000, dropout=0.0)
        assert count(network) == parameters
    # resnetv2_50x1_bit as timm publishes it
    assert count(blueprint(named("R50x1"), image_size=224, channels=3, classes=1000, dropout=0.0)) == 25_549_352


def flops_on_pixels(network: Network, image_size: int, channels: int) -> int:
    """The forward FLOPs that torch counts, less those of taps on zero padding, counted by convolving ones."""
    seen: list[tuple[nn.Conv2d, int]] = []

    def see(module: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
        seen.append((module, inputs[0].shape[-1]))

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(see)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, channels, image_size, image_size, device="meta"))
    padded = 0
    for conv, side in seen:
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
        met = functional.conv2d(torch.ones(1, 1, side, side), torch.ones(1, 1, kernel, kernel), None, stride, padding)
        padded += 2 * (met.numel() * kernel**2 - int(met.sum())) * conv.in_channels * conv.out_channels
    return int(counter.get_total_flops()) - padded


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_named_network_does_exactly_the_flops_that_it_is_priced_with(name: str) -> None:
    model = named(name)
    network = blueprint(model, image_size=224, channels=3, classes=1000, dropout=0.0)
    assert flops_on_pixels(network, 224, 3) == cost.forward_flops(model, 224, 3, 1000)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_does_exactly_the_flops_that_it_is_priced_with(name: str) -> None:
    network = blueprint(SMALL[name], image_size=8, channels=1, classes=10, dropout=0.0)
    assert flops_on_pixels(network, 8, 1) == cost.forward_flops(SMALL[name], 8, 1, 10)


@pytest.mark.parametrize("name", SMALL)
def test_first_values_follow_from_the_seed_and_leave_torchs_own_generator_alone(name: str) -> None:
    def values(seed: int) -> list[torch.Tensor]:
        network = build(SMALL[name], image_size=8, channels=1, classes=10, dropout=0.0, seed=seed)
        return list(network.parameters())

    before = torch.get_rng_state()
    first = values(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for a, b in zip(first, values(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, values(2), strict=True))


def test_first_values_are_pinned() -> None:
    network = build(SMALL_VIT, image_size=8, channels=1, classes=10, dropout=0.0, seed=0)
    assert isinstance(network, VisionTransformer)
    found = [float(network.embed.weight[0, 0, 0, 0].detach()), float(network.position_TD[3, 5].detach())]
    assert found == pytest.approx(PINNED, rel=1e-7)


PINNED = [1.0738518238067627, -0.012593858875334263]


def test_first_values_have_the_spread_of_the_released_code() -> None:
    model = ViT(patch=4, width=256, depth=1, mlp=512, heads=4)
    network = build(model, image_size=32, channels=3, classes=10, dropout=0.0, seed=0)
    assert isinstance(network, VisionTransformer)
    block = network.blocks[0]
    assert isinstance(block, Block)
    spreads = {
        network.embed.weight: math.sqrt(1 / (3 * 16)),
        network.position_TD: 0.02,
        # Uniform within sqrt(6 / (in + out)) has variance 2 / (in + out): of each D x D kernel, not of the fused 3D x
        # D.
        block.qkv.weight: math.sqrt(2 / (256 + 256)),
        block.out.weight: math.sqrt(2 / (256 + 256)),
        block.mlp1.weight: math.sqrt(2 / (256 + 512)),
        block.mlp1.bias: 1e-6,
    }
    for parameter, std in spreads.items():
        assert float(parameter.detach().std()) == pytest.approx(std, rel=0.1)
    assert network.cls_1D is not None
    assert network.embed.bias is not None
    for zeros in (network.cls_1D, network.embed.bias, block.qkv.bias, network.head.weight, network.head.bias):
        assert not zeros.any()


def test_a_convolution_with_standardized_weights_is_the_one_of_big_transfer() -> None:
    conv = StandardizedConv2d(3, 5, 3, padding=1, bias=False)
    variance, mean = torch.var_mean(conv.weight, dim=(1, 2, 3), keepdim=True, correction=0)
    expected = (conv.weight - mean) / torch.sqrt(variance + 1e-10)
    image = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(conv(image), functional.conv2d(image, expected, padding=1))


def test_both_ways_of_attention_agree() -> None:
    q, k, v = torch.randn(3, 2, 4, 17, 8).unbind(0)
    explicit = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert explicit.dtype == torch.bfloat16
    torch.testing.assert_close(explicit.float(), attend(q, k, v), atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_the_last_layer_on_the_features(name: str) -> None:
    network = build(SMALL[name], image_size=8, channels=1, classes=10, dropout=0.0, seed=0)
    image = torch.randn(3, 1, 8, 8)
    features = network.features(image)
    assert torch.equal(network(image), network.classify(features))
    model = SMALL[name]
    assert features.shape == (3, model.channels if isinstance(model, ResNet) else 16)


def test_a_dropout_that_a_resnet_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="a ResNet has no dropout"):
        build(SMALL_RESNET, image_size=8, channels=1, classes=10, dropout=0.1, seed=0)


def test_the_pool_of_the_root_pads_with_zeros() -> None:
    network = build(SMALL["resnet 7x7"], image_size=8, channels=1, classes=10, dropout=0.0, seed=0)
    seen: list[torch.Tensor] = []
    body = network.get_submodule("body")
    body.get_submodule("root").register_forward_hook(lambda module, inputs, output: -output.abs() - 1)
    body.get_submodule("units").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(torch.randn(1, 1, 8, 8))
    # Every value is negative, so only a zero of the padding can be the largest: along the upper and left border.
    assert not seen[0][..., 0, :].any()
    assert not seen[0][..., :, 0].any()
    assert bool((seen[0][..., 1:, 1:] < 0).all())
