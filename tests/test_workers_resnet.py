"""Residual networks of both forms and with axial attention: against their price, slow references, and in training."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from studies import cost
from studies.architectures import named
from studies.models import AXIAL_HEADS, Hybrid, ResNet
from workers.kernels import normalization
from workers.kernels.rules import GroupNorm, convolve
from workers.models.axial import AxialMixing, LineAttention
from workers.models.build import blueprint, build
from workers.models.convolutions import SameConv2d, StandardizedConv2d
from workers.models.draws import Draws
from workers.models.network import Network
from workers.models.resnet import Body, PostActivation

DEPTHS = ("R26", "R50", "R101", "R152", "R200")
FORMS = ("pre-activation", "post-activation")
SMALL = {
    "pre-activation": ResNet(blocks=(1, 1), width=16, groups=4, root="3x3"),
    "post-activation": ResNet(blocks=(1, 1), width=16, groups=4, form="post-activation"),
    "axial": ResNet(blocks=(1, 1), width=16, groups=4, root="3x3", mixing="axial"),
}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def small(name: str, size: tuple[int, int] = (16, 12)) -> Network:
    network = build(SMALL[name], image_size=size, channels=3, classes=5, seed=0)
    assert isinstance(network, Network)
    return network


def batch(size: tuple[int, int] = (16, 12)) -> tuple[Tensor, Tensor]:
    images = torch.randn(8, 3, *size, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(8) % 5


# ---------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("name", DEPTHS)
def test_a_resnet_of_any_width_has_the_parameters_that_it_is_priced_with(name: str, width: int, form: str) -> None:
    model = named(f"{name}x{width}").model_copy(update={"form": form})
    network = blueprint(model, image_size=224, channels=3, classes=1000)
    assert count(network) == cost.parameters(model, 224, 3, 1000)


@pytest.mark.parametrize("size", [224, (96, 80)])
def test_an_axial_resnet_has_the_parameters_that_it_is_priced_with(size: int | tuple[int, int]) -> None:
    model = named("AxialResNet-50")
    network = blueprint(model, image_size=size, channels=3, classes=1000)
    assert count(network) == cost.parameters(model, size, 3, 1000)


def test_the_body_of_r152x4_has_the_published_928_million_parameters() -> None:
    model = named("R152x4")
    assert isinstance(model, ResNet)
    with torch.device("meta"):
        assert round(count(Body(model, 3, (224, 224))) / 1e4) == 92_834


def test_the_released_hybrid_of_a_root_alone_has_its_published_parameters() -> None:
    model = named("R+ViT-Ti/16", head="token")
    assert isinstance(model, Hybrid)
    released = model.model_copy(update={"body": model.body.model_copy(update={"form": "post-activation"})})
    assert count(blueprint(released, image_size=224, channels=3, classes=1000)) == 6_337_704


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(16, 16), (15, 9)])
def test_a_feature_map_has_the_size_that_its_stride_says_rounded_up(name: str, size: tuple[int, int]) -> None:
    model = SMALL[name]
    with torch.device("meta"):
        last_BCHW = Body(model, 3, size)(torch.empty(2, 3, *size))
    assert last_BCHW.shape == (2, model.channels, *(math.ceil(side / model.stride) for side in size))


# ------------------------------------------------------------------------------------------- slow, plain references


def plain_same(x_BCHW: Tensor, kernel: int, stride: int, value: float) -> list[Tensor]:
    """What each tap of a window sees under TensorFlow's SAME padding, (B, C, h, w) for each."""
    pads: list[int] = []
    sides: list[int] = []
    for side in reversed(x_BCHW.shape[2:]):
        sides.insert(0, math.ceil(side / stride))
        missing = max((sides[0] - 1) * stride + kernel - side, 0)
        pads += [missing // 2, math.ceil(missing / 2)]
    padded = functional.pad(x_BCHW, pads, value=value)
    (rows, columns), taps = sides, range(kernel)
    return [
        padded[:, :, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in taps
        for j in taps
    ]


def plain_conv(conv: nn.Module, x_BCHW: Tensor) -> Tensor:
    assert isinstance(conv, SameConv2d)
    weight, kernel = conv.weight, conv.kernel_size[0]
    deviation, mean = torch.std_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
    taps_OCT = ((weight - mean) / (deviation + 1e-5)).flatten(2)
    seen = plain_same(x_BCHW, kernel, conv.stride[0], 0.0)
    return sum((torch.einsum("bchw,oc->bohw", tap, taps_OCT[..., t]) for t, tap in enumerate(seen)), torch.zeros(()))


def plain_norm(norm: nn.Module, x_BCHW: Tensor) -> Tensor:
    assert isinstance(norm, GroupNorm)
    parts = []
    for group in x_BCHW.chunk(norm.num_groups, dim=1):
        variance, mean = torch.var_mean(group, dim=(1, 2, 3), keepdim=True, correction=0)
        parts.append((group - mean) / torch.sqrt(variance + 1e-6))
    return torch.cat(parts, dim=1) * norm.weight[:, None, None] + norm.bias[:, None, None]


def plain_post_activation(body: Body, image_BCHW: Tensor) -> Tensor:
    assert body.root_norm is not None
    x = plain_norm(body.root_norm, plain_conv(body.root, image_BCHW)).relu()
    x = torch.stack(plain_same(x, 3, 2, -math.inf)).amax(dim=0)
    for unit in body.units:
        assert isinstance(unit, PostActivation)
        shortcut = x
        if unit.project is not None and unit.project_norm is not None:
            shortcut = plain_norm(unit.project_norm, plain_conv(unit.project, x))
        x = plain_norm(unit.norm1, plain_conv(unit.conv1, x)).relu()
        x = plain_norm(unit.norm2, plain_conv(unit.conv2, x)).relu()
        x = (plain_norm(unit.norm3, plain_conv(unit.conv3, x)) + shortcut).relu()
    return x


@pytest.mark.parametrize("size", [(16, 16), (17, 14), (22, 25)])
def test_the_post_activation_form_is_that_of_the_released_hybrids(size: tuple[int, int]) -> None:
    model = ResNet(blocks=(2, 1), width=8, groups=4, form="post-activation")
    body = Body(model, 3, size).double()
    body.initialize(Draws(0))
    for name, parameter in body.named_parameters():
        if "norm" in name:  # off their first values, where the last one of a unit hides it
            Draws(1).normal(name, parameter, std=1.0)
    image_BCHW = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(body(image_BCHW), plain_post_activation(body, image_BCHW))


def test_a_post_activation_unit_starts_as_its_shortcut() -> None:
    body = Body(SMALL["post-activation"].model_copy(update={"blocks": (2,)}), 3, (16, 16))
    body.initialize(Draws(0))
    map_BCHW = torch.randn(2, 64, 4, 4).relu()
    assert torch.equal(body.units[1](map_BCHW), map_BCHW)


def test_a_body_without_blocks_is_its_root_with_norm_relu_and_pool() -> None:
    image_BCHW = torch.randn(2, 3, 16, 16)
    for form in FORMS:
        body = Body(ResNet(blocks=(), width=8, groups=4, form=form), 3, (16, 16))  # type: ignore[arg-type]
        body.initialize(Draws(0))
        out_BCHW = body(image_BCHW)
        assert out_BCHW.shape == (2, 8, 4, 4)
        assert bool((out_BCHW >= 0).all())


def plain_line_attention(layer: LineAttention, x_BCLT: Tensor) -> Tensor:
    """Attention of axial-deeplab, pixel by pixel, with torch's group norms."""

    def normal(norm: GroupNorm, x: Tensor) -> Tensor:
        return functional.group_norm(x, norm.num_groups, norm.weight, norm.bias)

    batch, channels, lines, side = x_BCLT.shape
    d = channels // AXIAL_HEADS // 2
    qkv = normal(layer.qkv_norm, functional.conv2d(x_BCLT, layer.qkv.filters())).view(
        batch, AXIAL_HEADS, 4 * d, lines, side
    )
    logits = torch.empty(batch, 3, AXIAL_HEADS, lines, side, side, dtype=x_BCLT.dtype)
    for t in range(side):
        for u in range(side):
            q, k = qkv[:, :, :d, :, t], qkv[:, :, d : 2 * d, :, u]
            of_query = layer.offset_Od[t - u + side - 1, :d]
            of_key = layer.offset_Od[u - t + side - 1, d : 2 * d]
            logits[:, 0, ..., t, u] = (q * k).sum(dim=2)
            logits[:, 1, ..., t, u] = (q * of_query[:, None]).sum(dim=2)
            logits[:, 2, ..., t, u] = (k * of_key[:, None]).sum(dim=2)
    weight = normal(layer.logit_norm, logits.flatten(1, 2)).view_as(logits).sum(dim=1).softmax(dim=-1)
    content, place = torch.zeros(2, batch, AXIAL_HEADS, 2 * d, lines, side, dtype=x_BCLT.dtype).unbind(0)
    for t in range(side):
        for u in range(side):
            share = weight[:, :, None, :, t, u]
            content[..., t] += share * qkv[:, :, 2 * d :, :, u]
            place[..., t] += share * layer.offset_Od[t - u + side - 1, 2 * d :, None]
    both = normal(layer.out_norm, torch.cat([content.flatten(1, 2), place.flatten(1, 2)], dim=1))
    return both[:, :channels] + both[:, channels:]


def test_axial_attention_is_the_slow_sum_over_pixels_within_columns_and_then_rows() -> None:
    mixing = AxialMixing(32, (6, 4), stride=2, groups=4).double()
    for name, parameter in mixing.named_parameters():
        Draws(0).normal(name, parameter, std=1.0)
    x_BCHW = torch.randn(2, 32, 6, 4, dtype=torch.float64)
    with torch.no_grad():
        columns_BCHW = plain_line_attention(mixing.height, x_BCHW.transpose(2, 3)).transpose(2, 3)
        expected = functional.avg_pool2d(plain_line_attention(mixing.width, columns_BCHW), 2)
        torch.testing.assert_close(mixing(x_BCHW), expected)


def test_axial_attention_starts_with_the_spread_of_the_released_code() -> None:
    layer = LineAttention(256, 28, groups=32)
    layer.initialize(Draws(0))
    assert float(layer.qkv.weight.detach().std()) == pytest.approx(math.sqrt(1 / 256), rel=0.05)
    assert float(layer.offset_Od.detach().std()) == pytest.approx(math.sqrt(AXIAL_HEADS / 256), rel=0.05)


# --------------------------------------------------------------------------------------------------------- kernels


def test_the_gradient_of_a_wide_group_norm_is_the_numerical_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalization, "_PIECE", 60)  # so that there is more than one piece
    x_BCHW = torch.randn(3, 6, 3, 2, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weight_C, bias_C = torch.randn(2, 6, dtype=torch.float64).unbind(0)
    inputs = [tensor.detach().requires_grad_() for tensor in (x_BCHW, weight_C, bias_C)]
    assert torch.autograd.gradcheck(lambda x, w, b: normalization.group_norm(x, w, b, 3, 1e-5), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_group_norm_of_a_wide_map_is_torchs_in_value_and_gradient(dtype: torch.dtype) -> None:
    norm, torchs = GroupNorm(4, 16), nn.GroupNorm(4, 16)
    for name, parameter in norm.named_parameters():
        Draws(0).normal(name, parameter, std=1.0)
    torchs.load_state_dict(norm.state_dict())
    x_BCHW, grad_BCHW = torch.randn(2, 5, 16, 32, 33).to(dtype).unbind(0)
    found: list[tuple[Tensor, ...]] = []
    for layer, layout in ((norm, torch.channels_last), (torchs, torch.contiguous_format)):
        leaf = x_BCHW.contiguous(memory_format=layout).requires_grad_()
        out = layer(leaf)
        found.append((out, *torch.autograd.grad(out, (leaf, layer.weight, layer.bias), grad_BCHW)))
    ulp = torch.finfo(dtype).eps
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=4 * ulp, atol=4 * ulp * float(theirs.detach().abs().max()))


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("channels", "kernel", "stride"), [(24, 1, 1), (24, 1, 2), (512, 3, 1), (512, 3, 2)])
def test_a_convolution_by_a_matrix_product_is_a_convolution(
    channels: int, kernel: int, stride: int, dtype: torch.dtype, share: float
) -> None:
    x_BCHW = torch.randn(2, channels, 7, 6).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    filter_FCkk = (torch.randn(8, channels, kernel, kernel) / channels**0.5).to(dtype).requires_grad_()
    ours = convolve(x_BCHW, filter_FCkk, stride=stride, padding=(kernel // 2, kernel // 2))
    leaves = (x_BCHW.detach().double().requires_grad_(), filter_FCkk.detach().double().requires_grad_())
    theirs = functional.conv2d(leaves[0], leaves[1], None, stride, kernel // 2)
    grad = torch.randn_like(theirs).to(dtype)
    found = (ours, *torch.autograd.grad(ours, (x_BCHW, filter_FCkk), grad))
    expected = (theirs, *torch.autograd.grad(theirs, leaves, grad.double()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=share * float(other.detach().abs().max()))


def test_standardized_filters_have_the_gradient_of_their_definition() -> None:
    for layer, inside, outside in ((StandardizedConv2d(3, 4, 3), 1e-10, 0.0), (SameConv2d(3, 4, 3), 0.0, 1e-5)):
        weight = layer.double().weight
        variance, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
        expected = (weight - mean) / (torch.sqrt(variance + inside) + outside)
        grad = torch.randn_like(expected)
        torch.testing.assert_close(layer.filters(), expected)
        (ours,) = torch.autograd.grad(layer.filters(), weight, grad)
        torch.testing.assert_close(ours, *torch.autograd.grad(expected, weight, grad))


def test_a_constant_filter_has_a_finite_gradient() -> None:
    for layer in (StandardizedConv2d(3, 4, 3), SameConv2d(3, 4, 3)):
        nn.init.ones_(layer.weight)
        layer(torch.randn(2, 3, 6, 6)).sum().backward()
        assert layer.weight.grad is not None
        assert bool(layer.weight.grad.isfinite().all())


# -------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_learns_a_fixed_batch(name: str, precision: str) -> None:
    network, (image_BCHW, label_B) = small(name, (8, 6)), batch((8, 6))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits_BK = network(image_BCHW)
        loss = functional.cross_entropy(logits_BK.float(), label_B)
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 10


@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_is_exported_and_gives_the_same_logits(name: str) -> None:
    network, (image_BCHW, _) = small(name).eval(), batch()
    draw_head(network)
    exported = torch.export.export(network, (image_BCHW,)).module()
    torch.testing.assert_close(exported(image_BCHW), network(image_BCHW))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_compiles_as_one_graph_with_the_same_gradients(name: str, precision: str) -> None:
    size = (32, 34)  # wide enough for the gradient of our own
    network = small(name, size)
    draw_head(network)
    image_BCHW, label_B = (tensor[:2] for tensor in batch(size))
    gradients = []
    for forward in (network, torch.compile(network, fullgraph=True, dynamic=False, backend="aot_eager")):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits_BK = forward(image_BCHW)
        loss = functional.cross_entropy(logits_BK.float(), label_B)
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    near = 1e-3 if precision == "fp32" else 0.2
    for eager, compiled in zip(*gradients, strict=True):
        assert float((eager - compiled).norm()) <= near * float(eager.norm()) + 1e-5


def draw_head(network: nn.Module) -> None:
    """A classifier off its zeros, through which gradients pass."""
    head = network.get_submodule("head")
    assert isinstance(head, nn.Linear)
    Draws(3).normal("head", head.weight, std=0.1)
