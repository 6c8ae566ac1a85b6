"""The networks against their published shapes, their price, their flop count, and first values; that each member
trains, compiles and exports.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from studies import cost
from studies.architectures import named
from studies.models import Hybrid, ResNet, ViT
from workers.models.blocks import Block
from workers.models.build import blueprint, build
from workers.models.convolutions import StandardizedConv2d
from workers.models.network import Network
from workers.models.vit import VisionTransformer


def small_vit(**fields: Any) -> ViT:
    return ViT.model_validate({"patch": 2, "width": 16, "depth": 2, "mlp": 32, "heads": 2, **fields})


SMALL_VIT = small_vit()
SMALL_RESNET = ResNet(blocks=(1, 2), width=8, root="3x3", groups=4)
SMALL: dict[str, ViT | ResNet | Hybrid] = {
    "vit token-tanh": SMALL_VIT,
    "vit token": small_vit(head="token"),
    "vit gap": small_vit(head="gap"),
    "vit map": small_vit(head="map"),
    "vit big-vision": small_vit(head="token", code="big-vision"),
    "vit learned-1d at layers": small_vit(position_at="layers"),
    "vit learned-1d shared": small_vit(position_at="shared"),
    "vit learned-2d": small_vit(position="learned-2d"),
    "vit learned-2d at layers": small_vit(position="learned-2d", position_at="layers", head="gap"),
    "vit sincos-2d": small_vit(position="sincos-2d", head="map"),
    "vit relative": small_vit(position="relative"),
    "vit none": small_vit(position="none"),
    "vit axial": small_vit(attention="axial", head="gap"),
    "vit axial map": small_vit(attention="axial", head="map", position="sincos-2d"),
    "resnet 3x3": SMALL_RESNET,
    "resnet 7x7": ResNet(blocks=(1,), width=8, groups=4),
    "resnet post-activation": ResNet(blocks=(1, 2), width=8, root="3x3", groups=4, form="post-activation"),
    "resnet axial": ResNet(blocks=(1, 2), width=32, root="3x3", groups=4, mixing="axial"),
    "hybrid": Hybrid(body=SMALL_RESNET, vit=small_vit(patch=1)),
    "hybrid post-activation": Hybrid(
        body=ResNet(blocks=(1,), width=8, root="3x3", groups=4, form="post-activation"), vit=small_vit(head="map")
    ),
    "hybrid root alone": Hybrid(body=ResNet(blocks=(), width=8, root="3x3", groups=4), vit=small_vit(head="token")),
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
    network = blueprint(model, image_size=224, channels=3, classes=1000)
    assert count(network) == cost.parameters(model, 224, 3, 1000)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_has_the_parameters_that_it_is_priced_with(name: str) -> None:
    network = blueprint(SMALL[name], image_size=8, channels=1, classes=10)
    assert count(network) == cost.parameters(SMALL[name], 8, 1, 10)


def test_parameter_counts_are_the_published_ones() -> None:
    published = {
        "ViT-B/16": 86_567_656,
        "ViT-B/32": 88_224_232,
        "ViT-L/16": 304_326_632,
        "ViT-S/16": 22_050_664,
        "ViT-Ti/16": 5_717_416,
    }
    for name, parameters in published.items():
        network = blueprint(named(name, head="token"), image_size=224, channels=3, classes=1000)
        assert count(network) == parameters
    # resnetv2_50x1_bit as timm publishes it
    assert count(blueprint(named("R50x1"), image_size=224, channels=3, classes=1000)) == 25_549_352


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
    network = blueprint(model, image_size=224, channels=3, classes=1000)
    assert flops_on_pixels(network, 224, 3) == cost.forward_flops(model, 224, 3, 1000)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_does_exactly_the_flops_that_it_is_priced_with(name: str) -> None:
    network = blueprint(SMALL[name], image_size=8, channels=1, classes=10)
    assert flops_on_pixels(network, 8, 1) == cost.forward_flops(SMALL[name], 8, 1, 10)


@pytest.mark.parametrize("name", SMALL)
def test_first_values_follow_from_the_seed_and_leave_torchs_own_generator_alone(name: str) -> None:
    def values(seed: int) -> list[torch.Tensor]:
        network = build(SMALL[name], image_size=8, channels=1, classes=10, seed=seed)
        return list(network.parameters())

    before = torch.get_rng_state()
    first = values(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for a, b in zip(first, values(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, values(2), strict=True))


def test_first_values_are_pinned() -> None:
    network = build(SMALL_VIT, image_size=8, channels=1, classes=10, seed=0)
    assert isinstance(network, VisionTransformer)
    assert network.position_TD is not None
    found = [float(network.embed.weight[0, 0, 0, 0].detach()), float(network.position_TD[3, 5].detach())]
    assert found == pytest.approx(PINNED, rel=1e-7)


PINNED = [1.0738518238067627, -0.012593858875334263]


def test_first_values_have_the_spread_of_the_released_code() -> None:
    model = ViT(patch=4, width=256, depth=1, mlp=512, heads=4)
    network = build(model, image_size=32, channels=3, classes=10, seed=0)
    assert isinstance(network, VisionTransformer)
    block = network.blocks[0]
    assert isinstance(block, Block)
    assert network.position_TD is not None
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
    conv = StandardizedConv2d(3, 5, 3)
    variance, mean = torch.var_mean(conv.weight, dim=(1, 2, 3), keepdim=True, correction=0)
    expected = (conv.weight - mean) / torch.sqrt(variance + 1e-10)
    image = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(conv(image), functional.conv2d(image, expected, padding=1))


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_the_last_layer_on_the_features(name: str) -> None:
    network = build(SMALL[name], image_size=8, channels=1, classes=10, seed=0)
    image = torch.randn(3, 1, 8, 8)
    features = network.features(image)
    assert torch.equal(network(image), network.classify(features))
    model = SMALL[name]
    assert features.shape == (3, model.channels if isinstance(model, ResNet) else 16)


def test_a_rectangle_has_a_position_for_each_of_its_patches() -> None:
    wide = blueprint(named("ViT-S/16", head="token"), image_size=(64, 32), channels=3, classes=10)
    assert isinstance(wide, VisionTransformer)
    assert wide.position_TD is not None
    assert len(wide.position_TD) == 1 + 4 * 2
    assert wide(torch.empty(2, 3, 64, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", SMALL)
def test_an_image_need_not_be_square(name: str) -> None:
    network = build(SMALL[name], image_size=(8, 12), channels=1, classes=10, seed=0)
    assert network(torch.randn(2, 1, 8, 12)).shape == (2, 10)


@pytest.mark.parametrize("size", [(9, 8), (8, 9), 9])
def test_patches_that_do_not_tile_the_image_are_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="patches of 2 pixels do not divide the image of 9 pixels; these do: 1, 3, 9"):
        blueprint(SMALL_VIT, image_size=size, channels=1, classes=10)


def test_a_dropout_that_a_resnet_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="a ResNet has no dropout"):
        build(SMALL_RESNET, image_size=8, channels=1, classes=10, dropout=0.1, seed=0)
    with pytest.raises(ValueError, match=r"a stochastic depth of 0\.1 has no effect"):
        build(SMALL_RESNET, image_size=8, channels=1, classes=10, stochastic_depth=0.1, seed=0)


def test_the_pool_of_the_root_pads_with_zeros() -> None:
    network = build(SMALL["resnet 7x7"], image_size=8, channels=1, classes=10, seed=0)
    seen: list[torch.Tensor] = []
    body = network.get_submodule("body")
    body.get_submodule("root").register_forward_hook(lambda module, inputs, output: -output.abs() - 1)
    body.get_submodule("units").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(torch.randn(1, 1, 8, 8))
    # Every value is negative, so only a zero of the padding can be the largest: along the upper and left border.
    assert not seen[0][..., 0, :].any()
    assert not seen[0][..., :, 0].any()
    assert bool((seen[0][..., 1:, 1:] < 0).all())


# ------------------------------------------------------------------------------------ training, compiling, exporting


QUICKLY_TRACED = ("vit map", "resnet post-activation")
TRACED = [pytest.param(name, marks=() if name in QUICKLY_TRACED else pytest.mark.slow) for name in SMALL]

# The compiler warns of its own code: it makes an instance of a Function, and uses a decorator that torch gave up.
COMPILERS_OWN_WARNINGS = pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not be instantiated:DeprecationWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)


def batch_of(images: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(images, 1, 8, 8, generator=random), torch.arange(images) % 4


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SMALL)
def test_a_member_learns_a_fixed_batch(name: str, precision: torch.dtype) -> None:
    network = build(SMALL[name], image_size=8, channels=1, classes=4, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    image_BCHW, label_B = batch_of()
    losses = []
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            logits_BK = network(image_BCHW)
        loss = functional.cross_entropy(logits_BK.float(), label_B)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in network.parameters()]
        assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if losses[-1] < losses[0] / 10:
            break
    assert losses[-1] < losses[0] / 10


@pytest.mark.parametrize("name", SMALL)
def test_no_value_is_read_on_the_host(name: str) -> None:
    """Fake tensors have no values: whoever asks for one raises."""
    network = build(SMALL[name], image_size=8, channels=1, classes=4, seed=0)
    with FakeTensorMode() as mode:
        tensors = dict(network.named_parameters()) | dict(network.named_buffers())
        fake: dict[str, torch.Tensor] = {name: mode.from_tensor(tensor) for name, tensor in tensors.items()}
        logits_BK = functional_call(network, fake, (mode.from_tensor(batch_of()[0]),))
        logits_BK.sum().backward()


@pytest.mark.parametrize("name", TRACED)
def test_a_member_exports_with_any_batch(name: str) -> None:
    network = warm(build(SMALL[name], image_size=8, channels=1, classes=4, seed=0)).eval()
    image_BCHW, _ = batch_of()
    exported = torch.export.export(network, (image_BCHW,), dynamic_shapes=({0: torch.export.Dim("B", min=2)},))
    torch.testing.assert_close(exported.module()(image_BCHW[:3]), network(image_BCHW[:3]), rtol=1e-4, atol=1e-5)


@COMPILERS_OWN_WARNINGS
@pytest.mark.parametrize("name", TRACED)
def test_a_member_compiles_in_one_graph_and_computes_the_same(name: str) -> None:
    compiles_to_the_same(SMALL[name], backend="aot_eager")


@COMPILERS_OWN_WARNINGS
@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit map", "vit axial", "resnet 7x7"])
def test_a_member_compiled_to_machine_code_computes_the_same(name: str) -> None:
    compiles_to_the_same(SMALL[name], backend="inductor")


@COMPILERS_OWN_WARNINGS
def test_dropout_and_stochastic_depth_compile_in_one_graph() -> None:
    for model in (SMALL["vit axial"], SMALL["vit relative"]):
        network = build(model, image_size=8, channels=1, classes=4, dropout=0.1, stochastic_depth=0.1, seed=0)
        torch.compiler.reset()
        torch.compile(network, fullgraph=True, dynamic=False, backend="aot_eager")(
            batch_of()[0]
        ).square().sum().backward()


def compiles_to_the_same(model: ViT | ResNet | Hybrid, *, backend: str) -> None:
    """Logits and gradients of the compiled network are those of the plain one."""
    network = warm(build(model, image_size=8, channels=1, classes=4, seed=0)).train()
    image_BCHW, label_B = batch_of()

    def step(forward: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, ...]:
        logits_BK = forward(image_BCHW)
        loss = functional.cross_entropy(logits_BK, label_B)
        return (logits_BK, *torch.autograd.grad(loss, list(network.parameters())))

    torch.compiler.reset()
    found = step(torch.compile(network, fullgraph=True, dynamic=False, backend=backend))
    for one, other in zip(found, step(network), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def warm(network: Network) -> Network:
    """Numbers everywhere: a head of zeros would hide the rest."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)
    return network
