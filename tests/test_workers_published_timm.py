"""Our weights are written as files that timm loads, or the cure is named; a written file reads back bit for bit.

That timm's own networks then compute the same is proved where timm can be imported, in test_timm_parity.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from studies.architectures import named
from studies.definitions import Train, canonical, key_of
from studies.models import Hybrid, ResNet, ViT
from tests import builders
from workers.checkpoints import Facts, save
from workers.models.build import blueprint, build
from workers.models.network import Network
from workers.models.positions import sincos
from workers.published.files import definition_of, describe, load, save_timm
from workers.published.timm_files import ARCHITECTURE, ARGUMENTS, timm_model, timm_tensors
from workers.published.trained import export
from workers.supervision import CheckpointError

Model = ViT | ResNet | Hybrid

VIT = ViT(patch=4, width=12, depth=2, mlp=20, heads=3, head="token")
POST = ResNet(blocks=(2, 2, 2, 2), form="post-activation")
HYBRID = Hybrid(body=POST, vit=VIT.model_copy(update={"patch": 1}))


def changed(**fields: Any) -> ViT:
    return VIT.model_validate(VIT.model_dump() | fields)


def network_of(model: Model, size: int | tuple[int, int] = 16, seed: int = 0) -> Network:
    """A network in which no two parameters are alike, as after a training."""
    network = build(model, image_size=size, channels=3, classes=7, seed=seed).eval()
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return network


def written(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (VIT, 16),
        (VIT, (8, 24)),
        (VIT, (12, 20)),
        (changed(head="gap"), 16),
        (changed(head="map"), 16),
        (changed(code="big-vision"), 16),
        (changed(position="none"), 16),
        (HYBRID, 64),
        (HYBRID.model_copy(update={"body": POST.model_copy(update={"blocks": ()})}), 16),
    ],
    ids=[
        "token",
        "wide",
        "wide-and-a-square-with-its-token",
        "gap",
        "map",
        "big-vision",
        "no-positions",
        "hybrid",
        "root-hybrid",
    ],
)
def test_what_is_written_reads_back_bit_for_bit_and_tells_its_model(
    model: Model, size: int | tuple[int, int], tmp_path: Path
) -> None:
    path, network, other = tmp_path / "model.safetensors", network_of(model, size), network_of(model, size, seed=9)
    save_timm(path, network, model)
    load(path, other, model)
    torch.testing.assert_close(dict(other.named_parameters()), dict(network.named_parameters()), rtol=0, atol=0)
    described = describe(path)
    assert described.misfits == ()
    assert (described.holding.model, described.holding.classes) == (model, 7)
    assert described.numbers == sum(parameter.numel() for parameter in network.parameters())
    assert [item.name for item in tmp_path.iterdir()] == ["model.safetensors"]


def test_names_and_shapes_are_those_of_timm() -> None:
    model = named("ViT-B/16", "token")
    assert isinstance(model, ViT)
    model = model.model_copy(update={"depth": 1})
    network = blueprint(model, image_size=224, channels=3, classes=1000)
    assert {name: tuple(tensor.shape) for name, tensor in timm_tensors(network, model).items()} == {
        "cls_token": (1, 1, 768),
        "pos_embed": (1, 197, 768),
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "patch_embed.proj.bias": (768,),
        "blocks.0.norm1.weight": (768,),
        "blocks.0.norm1.bias": (768,),
        "blocks.0.attn.qkv.weight": (2304, 768),
        "blocks.0.attn.qkv.bias": (2304,),
        "blocks.0.attn.proj.weight": (768, 768),
        "blocks.0.attn.proj.bias": (768,),
        "blocks.0.norm2.weight": (768,),
        "blocks.0.norm2.bias": (768,),
        "blocks.0.mlp.fc1.weight": (3072, 768),
        "blocks.0.mlp.fc1.bias": (3072,),
        "blocks.0.mlp.fc2.weight": (768, 3072),
        "blocks.0.mlp.fc2.bias": (768,),
        "norm.weight": (768,),
        "norm.bias": (768,),
        "head.weight": (1000, 768),
        "head.bias": (1000,),
    }


def test_a_resnet_has_timm_s_name_and_shapes() -> None:
    model = named("R50x1")
    network = blueprint(model, image_size=224, channels=3, classes=1000)
    tensors = timm_tensors(network, model)
    assert sum(tensor.numel() for tensor in tensors.values()) == 25_549_352
    assert tensors["head.fc.weight"].shape == (1000, 2048, 1, 1)
    assert tensors["stages.3.blocks.2.conv2.weight"].shape == (512, 512, 3, 3)
    assert tensors["stages.1.blocks.0.downsample.conv.weight"].shape == (512, 256, 1, 1)
    assert timm_model(network, model) == ("resnetv2_50x1_bit", {"num_classes": 1000, "in_chans": 3})
    assert definition_of({name: tuple(tensor.shape) for name, tensor in tensors.items()}).model == model


def test_the_file_says_with_which_arguments_timm_makes_the_model(tmp_path: Path) -> None:
    model = changed(head="map", mlp=17)
    save_timm(tmp_path / "model.safetensors", network_of(model, (8, 24)), model)
    _, facts = written(tmp_path / "model.safetensors")
    arguments = json.loads(facts[ARGUMENTS])
    ratio = arguments.pop("mlp_ratio")
    assert int(12 * ratio) == 17, "timm cuts the product down"
    assert (facts["format"], facts[ARCHITECTURE]) == ("pt", "vit_base_patch16_224")
    assert arguments == {
        "num_classes": 7,
        "in_chans": 3,
        "img_size": [8, 24],
        "patch_size": 4,
        "embed_dim": 12,
        "depth": 2,
        "num_heads": 3,
        "class_token": False,
        "no_embed_class": False,
        "global_pool": "map",
        "fc_norm": False,
        "pos_embed": "learn",
        "act_layer": "gelu_tanh",
    }


@pytest.mark.parametrize(("gelu", "layer"), [("exact", "gelu"), ("tanh", "gelu_tanh")])
def test_the_form_of_gelu_is_written_and_read(gelu: str, layer: str, tmp_path: Path) -> None:
    model = changed(gelu=gelu, head="gap")
    save_timm(tmp_path / "model.safetensors", network_of(model, (8, 24)), model)
    tensors, facts = written(tmp_path / "model.safetensors")
    assert json.loads(facts[ARGUMENTS])["act_layer"] == layer
    assert describe(tmp_path / "model.safetensors").holding.model == model
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    told_nothing = definition_of(shapes, heads=3).model
    assert isinstance(told_nothing, ViT)
    assert told_nothing.gelu == "exact", "timm's own models compute the exact form"


@pytest.mark.parametrize("position", ["learned-2d", "sincos-2d"])
def test_two_part_and_fixed_positions_become_one_table_beside_the_class_token(position: str, tmp_path: Path) -> None:
    model = changed(position=position)
    network = network_of(model, (8, 12))
    save_timm(tmp_path / "model.safetensors", network, model)
    tensors, facts = written(tmp_path / "model.safetensors")
    assert json.loads(facts[ARGUMENTS])["no_embed_class"] is True
    parameters = dict(network.named_parameters())
    for row in range(2):
        for column in range(3):
            if position == "learned-2d":
                pair = parameters["position_row_Hd"][row], parameters["position_col_Wd"][column]
                expected = torch.cat(pair).detach()
            else:
                expected = sincos((2, 3), 12)[3 * row + column]
            torch.testing.assert_close(tensors["pos_embed"][0, 3 * row + column], expected, rtol=0, atol=0)


def test_the_body_of_a_model_with_a_tanh_layer_is_written_without_its_head(tmp_path: Path) -> None:
    model, token = changed(head="token-tanh"), VIT
    network, other = network_of(model), network_of(token, seed=9)
    path = tmp_path / "body.safetensors"
    save_timm(path, network, model, head=False)
    tensors, facts = written(path)
    assert not any(name.startswith(("head", "pre_logits")) for name in tensors)
    assert json.loads(facts[ARGUMENTS])["num_classes"] == 0
    assert describe(path).holding.classes is None
    load(path, other, token, head="drop")
    ours = dict(network.named_parameters())
    for name, parameter in other.named_parameters():
        expected = torch.zeros_like(parameter) if name.startswith("head.") else ours[name]
        torch.testing.assert_close(parameter, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (changed(head="token-tanh"), "no tanh layer before the classifier: write the body alone"),
        (changed(head="gap", attention="axial"), "no axial attention"),
        (changed(position="relative"), "no such relative positions"),
        (changed(position_at="layers"), "at the stem alone, and this model at its layers"),
        (HYBRID.model_copy(update={"body": ResNet(blocks=(2, 2, 2, 2))}), "in hybrids have the form post-activation"),
        (POST, "alone have the form pre-activation"),
        (ResNet(blocks=(1, 1), width=64), "no ResNet with blocks 1, 1 and width 64; it has resnetv2_50x1_bit"),
        (ResNet(blocks=(3, 4, 6, 3), root="3x3"), "and this one a 3x3 root"),
        (ResNet(blocks=(3, 4, 6, 3), groups=16), "a 7x7 root and 16"),
        (ResNet(blocks=(1,), mixing="axial"), "only those that mix by convolution"),
        (
            HYBRID.model_copy(update={"body": POST.model_copy(update={"blocks": (1, 1)})}),
            "no hybrid around a ResNet with blocks 1, 1 and width 64; it has those of width 64 with blocks none; 2, 2",
        ),
    ],
)
def test_what_timm_cannot_make_is_refused_and_nothing_is_written(model: Model, message: str, tmp_path: Path) -> None:
    network = blueprint(model, image_size=64, channels=3, classes=7)
    with pytest.raises(ValueError, match=message):
        save_timm(tmp_path / "model.safetensors", network, model)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_written_over_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_timm(path, network_of(VIT), VIT)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="is there already"):
        save_timm(path, network_of(VIT, seed=1), VIT)
    assert path.read_bytes() == before
    save_timm(path, network_of(VIT, seed=1), VIT, overwrite=True)
    assert path.read_bytes() != before


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_timm(tmp_path / "nowhere" / "model.safetensors", network_of(VIT), VIT)


# ---------------------------------------------------------------------------------------------------------- trainings


def checkpoint(folder: Path, training: Train, tensors: dict[str, Tensor], step: int) -> Path:
    facts = Facts(
        run=key_of(training), training=canonical(training), step=step, numerics="cpu-avx2-1", mixed_numerics=False
    )
    save(folder, tensors, facts)
    return folder


def test_the_end_of_a_training_is_written_with_every_digit(tmp_path: Path) -> None:
    model = changed(head="gap")
    training = Train.model_validate({**builders.training().run.model_dump(), "model": model})
    network = build(training.model, image_size=8, channels=1, classes=10, seed=3)
    tensors = {f"model.{name}": parameter.detach() for name, parameter in network.named_parameters()}
    folder = checkpoint(tmp_path / "final", training, tensors, training.steps)
    assert export(folder, tmp_path / "model.safetensors") == "vit_base_patch16_224"
    other = build(model, image_size=8, channels=1, classes=10, seed=4)
    load(tmp_path / "model.safetensors", other, model)
    torch.testing.assert_close(dict(other.named_parameters()), dict(network.named_parameters()), rtol=0, atol=0)

    early = checkpoint(tmp_path / "early", training, tensors, training.steps - 1)
    with pytest.raises(CheckpointError, match="is at step 39 and not at the end of its training"):
        export(early, tmp_path / "early.safetensors")
    torn = checkpoint(tmp_path / "torn", training, {"model.norm.weight": tensors["model.norm.weight"]}, training.steps)
    with pytest.raises(CheckpointError, match="does not fit its own definition"):
        export(torn, tmp_path / "torn.safetensors")
    assert not list(tmp_path.glob("early.*")) + list(tmp_path.glob("torn.*"))
