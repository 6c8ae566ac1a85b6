"""Losses, decay and updates against their formulas in float64, and what optimizers keep."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from studies.definitions import SGD, Adafactor, AdamW, Recipe
from studies.models import Hybrid, MaskedPatch, ResNet, ViT
from studies.schedules import Cosine
from workers.adafactor import factored_dims
from workers.averaging import Average
from workers.models.build import build
from workers.optimization import Optimizer, kernels_of, loss_of

Array = NDArray[np.float64]

VIT = ViT(patch=4, width=16, depth=1, mlp=32, heads=2)
RESNET = ResNet(blocks=(1,), width=8, root="3x3", groups=4)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: build(VIT, image_size=8, channels=1, classes=10, seed=0),
    "map": lambda: build(VIT.model_copy(update={"head": "map"}), image_size=8, channels=1, classes=10, seed=0),
    "resnet": lambda: build(RESNET, image_size=8, channels=1, classes=10, seed=0),
    "hybrid": lambda: build(Hybrid(body=RESNET, vit=VIT), image_size=8, channels=1, classes=10, seed=0),
    "masked patches": lambda: build(
        MaskedPatch(vit=VIT.model_copy(update={"head": "token"})), image_size=8, channels=1, classes=10, seed=0
    ),
}
HEADS = {"hybrid": "vit.head.weight", "masked patches": "predict.weight"}
RECIPE = Recipe(lr_peak=1e-2, schedule=Cosine(), warmup_steps=2, weight_decay=0.1, batch=20, clip_norm=1.0)


def gradients_of(network: nn.Module, step: int) -> dict[str, torch.Tensor]:
    """Of every parameter, none of them small."""
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(parameter.shape, generator=generator) for name, parameter in network.named_parameters()}


def updated(optimizer: Optimizer, gradients: Mapping[str, torch.Tensor], lr: float) -> None:
    for name, parameter in optimizer.parameters.items():
        # With the strides of the parameter, as autograd leaves gradients: torch's fused optimizers rely on it.
        parameter.grad = torch.empty_like(parameter).copy_(gradients[name])
    optimizer.update(lr)


def values_of(network: nn.Module) -> dict[str, Array]:
    return {name: parameter.detach().double().numpy().copy() for name, parameter in network.named_parameters()}


# ------------------------------------------------------------------------------------------------------- reference


def in_bf16(values: Array) -> Array:
    """The nearest numbers with 8 bits, of two equally near the even one."""
    fraction, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(fraction * 256), exponent - 8))


def kept(values: Array, precision: str) -> Array:
    return in_bf16(values) if precision == "bf16" else values


def second_moment(rows_and_columns: Array) -> Array:
    """Of a matrix the product of its row means and column means, over the mean of all."""
    rows, columns = rows_and_columns.mean(axis=1), rows_and_columns.mean(axis=0)
    return np.asarray(np.outer(rows, columns) / rows_and_columns.mean())


class Reference:
    """One parameter in float64. The means of Adafactor are taken of an average of whole squares, not averaged."""

    def __init__(self, chosen: AdamW | SGD | Adafactor, shape: tuple[int, ...]) -> None:
        self.chosen = chosen
        self.first, self.second = np.zeros(shape), np.zeros(shape)

    def change(self, gradient: Array, step: int) -> Array:
        chosen = self.chosen
        if isinstance(chosen, SGD):
            moment = chosen.momentum * self.first + gradient
            self.first = kept(moment, chosen.momentum_precision)
            return moment
        if isinstance(chosen, AdamW):
            moment = chosen.beta1 * self.first + (1 - chosen.beta1) * gradient
            self.first = kept(moment, chosen.momentum_precision)
            self.second = chosen.beta2 * self.second + (1 - chosen.beta2) * gradient**2
            root = np.sqrt(self.second / (1 - chosen.beta2**step)) + 1e-8
            return np.asarray(moment / (1 - chosen.beta1**step) / root)
        decay = min(chosen.decay_most, 1 - step**-chosen.decay_exponent)
        self.second = decay * self.second + (1 - decay) * (gradient**2 + 1e-30)
        moment = chosen.beta1 * self.first + (1 - chosen.beta1) * gradient / np.sqrt(self.estimate())
        self.first = in_bf16(moment)
        return moment

    def estimate(self) -> Array:
        """Adafactor's second moment: matrix by matrix along the two largest sides, where these are large enough."""
        assert isinstance(self.chosen, Adafactor)
        sides = sorted(self.second.shape)
        if len(sides) < 2 or sides[-2] < self.chosen.factored_from:
            return self.second
        last_two = np.argsort(self.second.shape, kind="stable")[-2:]
        moved = np.moveaxis(self.second, last_two, (-2, -1))
        found = np.empty_like(moved)
        for place in np.ndindex(moved.shape[:-2]):
            found[place] = second_moment(moved[place])
        return np.moveaxis(found, (-2, -1), last_two)


def expected(network: nn.Module, recipe: Recipe, lrs: list[float], head: str) -> dict[str, Array]:
    """The parameters after so many updates with `gradients_of`."""
    values = values_of(network)
    references = {name: Reference(recipe.optimizer, value.shape) for name, value in values.items()}
    for step, lr in enumerate(lrs, start=1):
        gradients = {name: tensor.double().numpy() for name, tensor in gradients_of(network, step).items()}
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        assert recipe.clip_norm is not None
        for name, value in values.items():
            is_kernel = value.ndim >= 2 and name.endswith(".weight")
            weight_decay = recipe.head_weight_decay if name == head else recipe.weight_decay
            assert weight_decay is not None
            change = references[name].change(gradients[name] * min(1.0, recipe.clip_norm / norm), step)
            values[name] = value - lr * (change + (weight_decay if is_kernel else 0.0) * value)
    return values


OPTIMIZERS: dict[str, AdamW | SGD | Adafactor] = {
    "adamw": AdamW(beta1=0.8, beta2=0.95),
    "adamw bf16": AdamW(beta1=0.8, beta2=0.95, momentum_precision="bf16"),
    "sgd": SGD(momentum=0.7),
    "sgd bf16": SGD(momentum=0.7, momentum_precision="bf16"),
    "sgd without momentum": SGD(momentum=0.0),
    "adafactor": Adafactor(beta1=0.8, factored_from=8),
    "adafactor, nothing factored": Adafactor(),
    "adafactor, soon at its cap": Adafactor(decay_most=0.4, decay_exponent=1.0, factored_from=3),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_the_papers_formula(name: str, kind: str, compiled: bool) -> None:
    recipe = RECIPE.model_copy(
        update={"optimizer": OPTIMIZERS[name], "clip_norm": 10.0, "weight_decay": 0.3, "head_weight_decay": 2.0}
    )
    network = NETWORKS[kind]()
    lrs = [0.1 / step for step in range(1, 7)]
    wanted = expected(network, recipe, lrs, "head.weight")
    optimizer = Optimizer(network, recipe, compiled=compiled)
    for step, lr in enumerate(lrs, start=1):
        updated(optimizer, gradients_of(network, step), lr)
    found = values_of(network)
    assert found.keys() == wanted.keys()
    for parameter, value in found.items():
        np.testing.assert_allclose(value, wanted[parameter], atol=2e-6, rtol=1e-5, err_msg=parameter)


# ----------------------------------------------------------------------------------------------------------- decay


def test_decay_touches_kernels_alone() -> None:
    network = NETWORKS["hybrid"]()
    names = set(kernels_of(network))
    parameters = dict(network.named_parameters())
    others = {name.rsplit(".", 1)[-1] for name in parameters if name not in names}
    assert {name.rsplit(".", 1)[-1] for name in names} == {"weight"}
    assert all(parameters[name].ndim >= 2 for name in names)
    assert {"cls_1D", "position_TD", "bias", "weight"} == others
    assert all(parameters[name].ndim == 1 for name in parameters if name not in names and name.endswith("weight"))


@pytest.mark.parametrize("optimizer", [AdamW(), SGD(), Adafactor()], ids=["adamw", "sgd", "adafactor"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_head_has_a_decay_of_its_own_in_every_kind_of_network(kind: str, optimizer: Any) -> None:
    network = NETWORKS[kind]()
    head = HEADS.get(kind, "head.weight")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "weight_decay": 0.1, "head_weight_decay": 3.0})
    kernels = kernels_of(network)
    nothing = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    updated(Optimizer(network, recipe), nothing, lr=0.1)
    for name, value in values_of(network).items():
        left = 0.7 if name == head else 0.99 if name in kernels else 1.0
        np.testing.assert_allclose(value, left, rtol=1e-6, err_msg=name)


def test_a_head_without_a_decay_of_its_own_decays_as_the_body_does() -> None:
    values = []
    for head_weight_decay in (None, RECIPE.weight_decay):
        network = NETWORKS["vit"]()
        recipe = RECIPE.model_copy(update={"head_weight_decay": head_weight_decay})
        updated(Optimizer(network, recipe), gradients_of(network, 1), lr=0.1)
        values.append(values_of(network))
    for name, value in values[0].items():
        np.testing.assert_array_equal(value, values[1][name])


# --------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((768,), None),
        ((768, 3, 16, 16), None),  # the embedding of patches: its second largest side is 16
        ((768, 32), (1, 0)),
        ((768, 31), None),
        ((2304, 768), (1, 0)),
        ((768, 3072), (0, 1)),
        ((64, 64, 3, 3), (0, 1)),
        ((1, 1, 768), None),
    ],
)
def test_the_two_largest_dims_are_factored_where_the_smaller_has_32_numbers(
    shape: tuple[int, ...], dims: tuple[int, int] | None
) -> None:
    assert factored_dims(shape, 32) == dims


def test_adafactor_keeps_a_bf16_moment_a_row_and_a_column_of_a_kernel() -> None:
    network = nn.Sequential(nn.Linear(40, 50))
    optimizer = Optimizer(network, RECIPE.model_copy(update={"optimizer": Adafactor()}))
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in optimizer.state().items()}
    assert found == {
        "exp_avg.0.weight": ((50, 40), torch.bfloat16),
        "exp_avg_sq_row.0.weight": ((1, 40), torch.float32),
        "exp_avg_sq_column.0.weight": ((50, 1), torch.float32),
        "exp_avg.0.bias": ((50,), torch.bfloat16),
        "exp_avg_sq.0.bias": ((50,), torch.float32),
    }


@pytest.mark.parametrize("name", ["adafactor", "adafactor, nothing factored"])
def test_adafactor_changes_nothing_where_no_gradient_came(name: str) -> None:
    network = NETWORKS["vit"]()
    before = values_of(network)
    nothing = {key: torch.zeros_like(parameter) for key, parameter in network.named_parameters()}
    optimizer = Optimizer(network, RECIPE.model_copy(update={"optimizer": OPTIMIZERS[name], "weight_decay": 0.0}))
    for _ in range(3):
        updated(optimizer, nothing, lr=1.0)
    for key, value in values_of(network).items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("compiled", [False, True])
def test_a_moment_in_bf16_is_rounded_to_the_nearest_even_after_it_was_used(compiled: bool) -> None:
    network = nn.Sequential(nn.Linear(3, 1, bias=False))
    ulp = 2.0**-7  # of bfloat16 between 1 and 2
    first = {"0.weight": torch.tensor([[1 + 0.5 * ulp, 1 + 1.5 * ulp, 1 + 1.75 * ulp]])}
    with torch.no_grad():
        network[0].get_parameter("weight").fill_(0.0)
    optimizer = SGD(momentum=0.5, momentum_precision="bf16")
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "clip_norm": None, "weight_decay": 0.0})
    optimizer_of_network = Optimizer(network, recipe, compiled=compiled)
    updated(optimizer_of_network, first, lr=1.0)
    kept_moment = optimizer_of_network.state()["momentum_buffer.0.weight"]
    assert kept_moment.dtype == torch.bfloat16
    assert kept_moment.float().tolist() == [[1.0, 1 + 2 * ulp, 1 + 2 * ulp]]
    assert torch.equal(network[0].get_parameter("weight"), -first["0.weight"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_is_there_and_zero_from_the_start_and_never_moves_elsewhere(name: str) -> None:
    network = NETWORKS["vit"]()
    optimizer = Optimizer(network, RECIPE.model_copy(update={"optimizer": OPTIMIZERS[name]}))
    before = optimizer.state()
    assert not any(bool(tensor.any()) for tensor in before.values())
    updated(optimizer, gradients_of(network, 1), lr=0.1)
    after = optimizer.state()
    assert {key: tensor.data_ptr() for key, tensor in after.items()} == {
        key: tensor.data_ptr() for key, tensor in before.items()
    }
    assert all(bool(tensor.any()) for tensor in after.values())


def test_an_average_begins_with_the_first_weights_and_moves_by_what_the_decay_leaves() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False))
    weight = network[0].get_parameter("weight")
    with torch.no_grad():
        weight.fill_(8.0)
    average = Average(network, 0.75)
    found = []
    for value in (0.0, 0.0, 16.0):
        with torch.no_grad():
            weight.fill_(value)
        average.update()
        found.append(float(average.weights["0.weight"]))
    assert found == [6.0, 4.5, 7.375]


# ---------------------------------------------------------------------------------------------------------- losses


def test_losses_are_those_of_their_definition() -> None:
    logits, label = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([2])
    target = torch.tensor([[0.1, 0.1, 0.8]])
    smooth = RECIPE.model_copy(update={"label_smoothing": 0.3})
    softmax = -(target * logits.log_softmax(-1)).sum()
    assert float(loss_of(logits, label, smooth)) == pytest.approx(float(softmax))
    sigmoid = -(target * logits.sigmoid().log() + (1 - target) * (-logits).sigmoid().log()).sum()
    found = loss_of(logits, label, smooth.model_copy(update={"loss": "sigmoid"}))
    assert float(found) == pytest.approx(float(sigmoid))
    for loss in ("softmax", "sigmoid"):  # shares of classes mean what labels do
        chosen = smooth.model_copy(update={"loss": loss})
        of_shares = loss_of(logits, torch.nn.functional.one_hot(label, 3).float(), chosen)
        assert float(of_shares) == pytest.approx(float(loss_of(logits, label, chosen)), rel=1e-6)
