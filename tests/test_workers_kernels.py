"""Each path that rules.py may choose equals the plain formula, forward and backward, and repeats its bits."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.devices import Device
from workers.kernels import activation, allocator, attention, products
from workers.kernels.rules import Linear, attend, describe, gelu


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def with_gradients(function: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
    """The function's value, and the gradient of every tensor for the same gradient of the value."""
    value = function(*tensors)
    grad = numbers(*value.shape, dtype=value.dtype, seed=99).detach()
    return value.detach(), *torch.autograd.grad(value, tensors, grad)


def assert_close(ours: tuple[Tensor, ...], exact: tuple[Tensor, ...], tolerance: float) -> None:
    """Every number within `tolerance` of the largest of its tensor."""
    for our, their in zip(ours, exact, strict=True):
        assert our.shape == their.shape
        assert float((our - their).abs().max() / their.abs().max()) < tolerance


def doubled(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def last_function(tensor: Tensor) -> str:
    """What autograd calls the function that a tensor came from."""
    assert tensor.grad_fn is not None
    return tensor.grad_fn.name()


class TestLinear:
    def test_onednn_gives_torchs_numbers_and_gradients_to_float32_rounding(self) -> None:
        tensors = numbers(4, 7, 96), numbers(160, 96, seed=1), numbers(160, seed=2)
        exact = with_gradients(functional.linear, *doubled(*tensors))
        assert_close(with_gradients(products.linear, *tensors), exact, 1e-6)

    def test_onednn_takes_a_layer_without_a_bias_and_a_single_row(self) -> None:
        tensors = numbers(96), numbers(160, 96, seed=1)
        exact = with_gradients(functional.linear, *doubled(*tensors))
        assert_close(with_gradients(lambda x, w: products.linear(x, w, None), *tensors), exact, 1e-6)

    def test_onednn_takes_the_gradient_of_a_sum_and_a_transposed_input(self) -> None:
        in_RI, weight_OI = numbers(96, 50), numbers(160, 96, seed=1)
        products.linear(in_RI.mT, weight_OI, None).sum().backward()  # type: ignore[no-untyped-call]
        assert in_RI.grad is not None
        torch.testing.assert_close(in_RI.grad, weight_OI.sum(dim=0).unsqueeze(1).expand(96, 50), rtol=1e-4, atol=1e-4)

    def test_onednn_computes_only_the_gradients_that_are_asked_for(self) -> None:
        in_RI, weight_OI = numbers(50, 96).detach(), numbers(160, 96, seed=1)
        products.linear(in_RI, weight_OI, None).sum().backward()  # type: ignore[no-untyped-call]
        assert in_RI.grad is None
        assert weight_OI.grad is not None

    def test_under_autocast_a_layer_computes_in_bf16_and_its_weight_stays_float32(self) -> None:
        layer = Linear(96, 160)
        with Device(torch.device("cpu")).autocast("bf16"):
            out = layer(numbers(5, 96))
        out.float().sum().backward()
        assert out.dtype == torch.bfloat16
        assert layer.weight.grad is not None
        assert layer.weight.grad.dtype == torch.float32

    def test_a_layer_is_torchs_where_it_is_small_and_on_another_processor_than_amds(self) -> None:
        layer = Linear(96, 160)
        small, large = (last_function(layer(numbers(rows, 96))) for rows in (100, 200))
        assert small == "AddmmBackward0"
        assert large == ("_LinearBackward" if "linear=onednn" in describe("cpu") else "AddmmBackward0")


class TestGelu:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-7)])
    def test_it_is_the_tanh_form(self, dtype: torch.dtype, tolerance: float) -> None:
        x_E = (numbers(5, 60_000, dtype=dtype).detach() * 4).requires_grad_()  # more than one piece
        exact = with_gradients(lambda x: functional.gelu(x, approximate="tanh"), *doubled(x_E))
        assert_close(with_gradients(activation.gelu, x_E), exact, tolerance)

    def test_ours_computes_where_there_is_enough_to_compute(self) -> None:
        names = [last_function(gelu(numbers(count), "tanh")) for count in (2**15 - 1, 2**15)]
        assert names == ["GeluBackward0", "_GeluBackward"]

    def test_it_is_the_tanh_form_where_it_is_small_and_at_the_ends_of_float32(self) -> None:
        x_E = torch.tensor([-3e38, -1e20, -300.0, -5.0, -1e-20, -0.0, 0.0, 1e-20, 5.0, 1e20, torch.inf, torch.nan])
        torch.testing.assert_close(gelu(x_E, "tanh"), functional.gelu(x_E, approximate="tanh"), equal_nan=True)

    def test_the_exact_form_is_torchs_own_and_another_function(self) -> None:
        x_E = numbers(40).detach()
        assert torch.equal(gelu(x_E, "exact"), functional.gelu(x_E))
        assert float((gelu(x_E, "exact") - gelu(x_E, "tanh")).abs().max()) > 1e-5

    def test_it_takes_transposed_and_empty_tensors_and_keeps_the_shape(self) -> None:
        x_E = numbers(30, 40)
        torch.testing.assert_close(gelu(x_E.mT, "tanh"), functional.gelu(x_E.mT, approximate="tanh"))
        assert gelu(torch.empty(0, 3), "tanh").shape == (0, 3)


class TestAllocator:
    PROGRAM = """
import resource, torch
from studies.architectures import named
from workers.models.build import build

torch.set_num_threads(1)
network = build(named("ViT-Ti/4"), image_size=32, channels=3, classes=10, seed=0)

def steps(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        network(torch.ones(8, 3, 32, 32)).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

steps(2)
print(steps(3))
"""

    def faults(self, variables: dict[str, str]) -> int:
        program = [sys.executable, "-c", self.PROGRAM]
        environment = {name: value for name, value in os.environ.items() if name not in allocator.ENVIRONMENT}
        done = subprocess.run(program, check=True, capture_output=True, text=True, env=environment | variables)
        return int(done.stdout)

    def test_a_step_takes_the_memory_of_the_one_before(self) -> None:
        assert self.faults(allocator.ENVIRONMENT) < self.faults({}) / 5


class TestAttention:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.015)])
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("asking", [9, 1])
    def test_it_is_the_plain_formula(self, dtype: torch.dtype, tolerance: float, bias: bool, asking: int) -> None:
        shapes = [(2, 3, asking, 16), (2, 3, 9, 16), (2, 3, 9, 16), *([(3, asking, 9)] if bias else [])]
        tensors = [numbers(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]
        assert_close(with_gradients(attend, *tensors), with_gradients(plain_attention, *doubled(*tensors)), tolerance)

    def test_queries_keys_and_values_may_lie_side_by_side_in_memory(self) -> None:
        qkv_BT3D = numbers(2, 9, 3 * 48, dtype=torch.bfloat16)

        def mixed(attend: Callable[..., Tensor], qkv_BT3D: Tensor) -> Tensor:
            return attend(*qkv_BT3D.view(2, 9, 3, 3, 16).permute(2, 0, 3, 1, 4).unbind(0))

        exact = with_gradients(lambda x: mixed(plain_attention, x), *doubled(qkv_BT3D))
        assert_close(with_gradients(lambda x: mixed(attention.attend, x), qkv_BT3D), exact, 0.015)


def plain_attention(q_BNTd: Tensor, k_BNSd: Tensor, v_BNSd: Tensor, bias_BNTS: Tensor | float = 0.0) -> Tensor:
    logit_BNTS = torch.einsum("bntd,bnsd->bnts", q_BNTd, k_BNSd) / q_BNTd.shape[-1] ** 0.5 + bias_BNTS
    return torch.einsum("bnts,bnsd->bntd", logit_BNTS.exp() / logit_BNTS.exp().sum(dim=-1, keepdim=True), v_BNSd)


class EachKernel(nn.Module):
    """A linear layer, GELU and attention among its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(16, 16)

    def forward(self, x_BNTd: Tensor) -> Tensor:
        x_BNTd = gelu(self.linear(x_BNTd), "tanh")
        return attend(x_BNTd, x_BNTd, x_BNTd)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
class TestAllOfThem:
    def test_they_give_the_same_bits_again(self, precision: str) -> None:
        network, in_BNTd = EachKernel(), numbers(4, 3, 65, 16)

        def once() -> tuple[Tensor, ...]:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                return with_gradients(network, in_BNTd)

        for first, second in zip(once(), once(), strict=True):
            assert torch.equal(first, second)

    def test_they_compile_and_export_as_one_graph_to_the_same_numbers(self, precision: str) -> None:
        network, in_BNTd = EachKernel(), numbers(4, 3, 65, 16)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            plain = with_gradients(network, in_BNTd)
            compiled = with_gradients(
                torch.compile(network, fullgraph=True, dynamic=False, backend="aot_eager"), in_BNTd
            )
            exported = torch.export.export(network, (in_BNTd,)).module()(in_BNTd)
        assert_close(compiled, plain, 0.02)
        assert_close((exported.detach(),), plain[:1], 0.02)

    def test_they_work_without_memory(self, precision: str) -> None:
        with torch.device("meta"), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            assert EachKernel()(torch.empty(4, 3, 65, 16)).shape == (4, 3, 65, 16)

    def test_they_work_on_tensors_that_only_pretend_to_be_on_a_cpu(self, precision: str) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            network, in_BNTd = EachKernel(), torch.empty(4, 3, 65, 16, requires_grad=True)
            network(in_BNTd).float().sum().backward()
            assert in_BNTd.grad is not None
            assert in_BNTd.grad.shape == in_BNTd.shape


def test_the_numerics_class_of_a_cpu_names_what_was_chosen_and_others_have_nothing_to_name() -> None:
    assert describe("cuda") == ""
    assert describe("cpu").split()[0] in ("linear=onednn", "linear=torch")
    assert describe("cpu") in Device(torch.device("cpu")).numerics
