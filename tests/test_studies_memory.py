"""Memory of a training step against what autograd keeps in the built networks, and against sums by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from studies.architectures import named
from studies.cost import ImageSize, grid, parameters, sides
from studies.definitions import SGD, Adafactor, AdamW, Recipe
from studies.devices import GIB, device_facts
from studies.memory import Keeping, Precision, recipe_memory, training_memory
from studies.models import AnyModel, Hybrid, MaskedPatch, ResNet, ViT
from studies.planner import DEPTHS, WIDTHS, shape, shapes_that_fit
from studies.schedules import Linear
from workers.averaging import Average
from workers.models.build import build
from workers.models.masked import MaskedPatchNetwork, corruption_of
from workers.optimization import Optimizer

CLASSES, CHANNELS, BATCH = 16, 3, 2
SHAPE: dict[str, Any] = {"patch": 4, "width": 64, "depth": 2, "mlp": 256, "heads": 4}
ROWS = ResNet(blocks=(1, 2), width=32)
RECIPE = Recipe(lr_peak=1e-3, schedule=Linear(), warmup_steps=0, weight_decay=0.0, batch=BATCH)

MEMBERS: dict[str, tuple[AnyModel, ImageSize]] = {
    "token": (ViT(**SHAPE, head="token"), 32),
    "token-tanh": (ViT(**SHAPE, head="token-tanh", position_at="layers"), 32),
    "gap": (ViT(**SHAPE, head="gap", position="sincos-2d", gelu="exact"), (16, 40)),
    "map": (ViT(**SHAPE, head="map", position="learned-2d", position_at="shared"), 32),
    "relative": (ViT(**SHAPE, head="token", position="relative"), 24),
    "axial": (ViT(**SHAPE, head="gap", attention="axial"), (16, 40)),
    "mean-color": (MaskedPatch(vit=ViT(**SHAPE, head="token")), 32),
    "pixels": (MaskedPatch(vit=ViT(**SHAPE, head="token"), target="pixels"), 32),
    "pre-activation": (ROWS, 64),
    "post-activation": (ROWS.model_copy(update={"form": "post-activation"}), 64),
    "odd post-activation": (ROWS.model_copy(update={"form": "post-activation", "root": "3x3"}), 33),
    "small images": (ROWS.model_copy(update={"root": "3x3"}), 16),
    "axial ResNet": (ROWS.model_copy(update={"mixing": "axial"}), 64),
    "hybrid": (Hybrid(body=ROWS, vit=ViT(**{**SHAPE, "patch": 1})), 64),
    "post-activation hybrid": (
        Hybrid(body=ROWS.model_copy(update={"form": "post-activation"}), vit=ViT(**{**SHAPE, "patch": 1})),
        64,
    ),
    "root": (Hybrid(body=ResNet(blocks=(), width=32), vit=ViT(**{**SHAPE, "patch": 2})), 32),
}


def kept_bytes(model: AnyModel, image_size: ImageSize, batch: int, *, autocast: bool, dropout: float = 0.0) -> int:
    """Bytes of the storages, each once, that autograd keeps from images to loss; parameters not among them."""
    network = build(model, image_size=image_size, channels=CHANNELS, classes=CLASSES, dropout=dropout, seed=0).train()
    own = {each.untyped_storage().data_ptr() for each in [*network.parameters(), *network.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    image_BCHW = torch.rand(batch, CHANNELS, *sides(image_size))
    autocasting = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        if isinstance(network, MaskedPatchNetwork):
            rows, columns = grid(network.model, image_size)
            corruption = corruption_of(0, 0, batch=batch, patches=rows * columns, share=network.model.corrupted)
            with autocasting:
                predicted = network(image_BCHW, corruption)
            network.loss(predicted, network.targets(image_BCHW, corruption))
        else:
            with autocasting:
                logits_BK = network(image_BCHW)
            functional.cross_entropy(logits_BK.float(), torch.zeros(batch, dtype=torch.int64))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MEMBERS)
def test_activations_are_those_that_autograd_keeps(name: str, precision: Precision) -> None:
    model, size = MEMBERS[name]
    # With two images or more: of a single one, some copies are views.
    few, many = (kept_bytes(model, size, batch, autocast=precision == "bf16") for batch in (2, 4))
    per_image = (many - few) / 2
    formula = training_memory(model, size, CHANNELS, CLASSES, precision=precision, kind="cpu")
    assert formula.per_image == pytest.approx(per_image, rel=0.05)
    assert formula.copies == pytest.approx(few - 2 * per_image, rel=0.02, abs=300)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dropout_keeps_its_masks(precision: Precision) -> None:
    model = ViT(**SHAPE)
    few, many = (kept_bytes(model, 32, batch, autocast=precision == "bf16", dropout=0.1) for batch in (2, 4))
    formula = training_memory(model, 32, CHANNELS, CLASSES, precision=precision, kind="cpu", dropout=True)
    assert formula.per_image == pytest.approx((many - few) / 2, rel=0.02)


def test_autograd_keeps_a_layer_s_tensors_as_counted_by_hand() -> None:
    thin, thick = (ViT(**{**SHAPE, "depth": depth}, head="gap") for depth in (1, 2))
    one, two = (training_memory(each, 32, CHANNELS, CLASSES, precision="bf16", kind="gpu") for each in (thin, thick))
    tokens, width, mlp, heads = 64, 64, 256, 4
    in_float = 2 * width + 2 * 2 + heads  # two residual streams, their statistics, a sum of each row of weights
    in_half = 6 * width + 2 * mlp  # two normal streams, queries, keys, values, what they mix; before and after GELU
    assert two.per_image - one.per_image == tokens * (4 * in_float + 2 * in_half)
    assert two.copies - one.copies == 2 * (4 * width * width + 2 * width * mlp)


def test_a_tpu_pads_tokens_and_keeps_the_weights_of_attention() -> None:
    model = ViT(**SHAPE, head="token")  # 257 tokens at 64 pixels, 384 with padding
    padded = training_memory(model, 64, CHANNELS, CLASSES, precision="bf16", kind="tpu", token_multiple=128)
    full = training_memory(
        model.model_copy(update={"head": "gap"}), (4, 4 * 384), CHANNELS, CLASSES, precision="bf16", kind="tpu"
    )
    assert padded.per_image == pytest.approx(full.per_image, rel=0.01)


def test_optimizers_keep_what_the_second_paper_says() -> None:
    model = named("ViT-B/16", head="map")
    count = parameters(model, 224, 3, 1000)

    def state(optimizer: Keeping) -> float:
        return training_memory(model, 224, 3, 1000, optimizer=optimizer).optimizer / count

    assert state("adam") == 8
    assert state("adam-bf16") == 6
    assert state("sgd") == 4
    assert state("sgd-bf16") == 2
    assert state("none") == 0
    # Two bytes a parameter and little else: the embedding of patches alone, with sides of 16, is not factored.
    unfactored = 4 * 768 * 3 * 16 * 16
    assert unfactored < (state("adafactor") - 2) * count < unfactored + 0.02 * 4 * count


@pytest.mark.parametrize("name", MEMBERS)
def test_an_optimizer_s_state_is_as_large_as_the_one_that_trains(name: str) -> None:
    model, size = MEMBERS[name]
    network = build(model, image_size=size, channels=CHANNELS, classes=CLASSES, seed=0)
    for optimizer in (
        AdamW(),
        AdamW(momentum_precision="bf16"),
        SGD(),
        SGD(momentum_precision="bf16"),
        SGD(momentum=0.0),
        Adafactor(),
        Adafactor(factored_from=16),
        Adafactor(factored_from=1000),
    ):
        recipe = RECIPE.model_copy(update={"optimizer": optimizer})
        state = Optimizer(network, recipe).state().values()
        memory = recipe_memory(model, size, CHANNELS, CLASSES, recipe, device_facts("cpu"))
        assert memory.optimizer == sum(tensor.nbytes for tensor in state), optimizer


def test_an_average_of_the_weights_is_as_large_as_they_are() -> None:
    model = ViT(**SHAPE)
    network = build(model, image_size=32, channels=CHANNELS, classes=CLASSES, seed=0)
    plain, averaged = (
        recipe_memory(model, 32, CHANNELS, CLASSES, recipe, device_facts("cpu"))
        for recipe in (RECIPE, RECIPE.model_copy(update={"polyak": 0.999}))
    )
    assert plain.average == 0
    assert averaged.average == sum(tensor.nbytes for tensor in Average(network, 0.999).weights.values())
    assert averaged.fixed - plain.fixed == averaged.average


def test_adafactor_keeps_a_row_and_a_column_of_a_matrix() -> None:
    one, two = (training_memory(ViT(**{**SHAPE, "depth": depth}), 32, 3, 16, optimizer="adafactor") for depth in (1, 2))
    width, mlp = 64, 256
    rows_and_columns = (3 * width + width) + (width + width) + 2 * (width + mlp)
    vectors = 4 * width + 3 * width + width + mlp + width  # two norms and the biases
    matrices = 4 * width * width + 2 * width * mlp
    assert two.optimizer - one.optimizer == 2 * (matrices + vectors) + 4 * (rows_and_columns + vectors)


def test_the_largest_batch_is_the_last_that_fits() -> None:
    memory = training_memory(named("ViT-B/16"), 224, 3, 1000)
    largest = memory.largest_batch(80 * GIB)
    assert memory.at(largest) <= 80 * GIB < memory.at(largest + 1)
    assert memory.largest_batch(memory.fixed - 1) == 0


def test_more_shapes_fit_where_the_optimizer_keeps_less() -> None:
    found = shapes_that_fit(
        DEPTHS, WIDTHS, device_bytes=16 * GIB, batch=1, patch=14, image_size=224, classes=1000, token_multiple=128
    )
    fitting = {
        optimizer: {(each.depth, each.width) for each in found if each.fits and each.optimizer == optimizer}
        for optimizer in ("adam", "adam-bf16", "adafactor")
    }
    assert fitting["adam"] < fitting["adam-bf16"] < fitting["adafactor"]


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="a width of 100 is no multiple of a head's 64; the nearest that are: 64, 128"):
        shape(12, 100, 16)
