"""Files of public checkpoints, written with each convention's own names, become networks that compute the same."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import zoom
from torch import Tensor
from torch.nn import functional

from studies.architectures import named
from studies.models import Hybrid, ResNet, ViT
from tests.published_files import (
    CLASSES,
    SIZE,
    Shapes,
    big_transfer,
    filled,
    google_arrays,
    google_hybrid,
    google_vit,
    huggingface_of_timm_hybrid,
    huggingface_of_timm_resnet,
    huggingface_with_pooler,
    images,
    run_big_transfer,
    run_google_hybrid,
    run_google_vit,
    timm_of_big_transfer,
    timm_of_google,
    timm_of_google_hybrid,
)
from workers.models.build import blueprint, build
from workers.models.network import Network
from workers.published.files import FormatError, definition_of, describe, load

Model = ViT | ResNet | Hybrid

VIT = ViT(patch=4, width=12, depth=2, mlp=20, heads=3, head="token-tanh")
GAP = VIT.model_copy(update={"head": "gap"})
BIT = ResNet(blocks=(2, 1), width=32)
HYBRID = Hybrid(
    body=ResNet(blocks=(1, 2), width=32, form="post-activation"),
    vit=ViT(patch=1, width=12, depth=1, mlp=20, heads=3, head="token"),
)
ROOT_HYBRID = Hybrid(
    body=ResNet(blocks=(), width=32, form="post-activation"),
    vit=ViT(patch=2, width=12, depth=1, mlp=20, heads=3, head="token"),
)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def file(tmp_path: Path) -> Callable[[Mapping[str, Any]], Path]:
    """Writes tensors as the kind of file they come in."""

    def write(tensors: Mapping[str, Any]) -> Path:
        arrays = {name: t for name, t in tensors.items() if isinstance(t, np.ndarray)}
        path = tmp_path / ("file.npz" if arrays else "file.safetensors")
        if arrays:
            np.savez(path, **arrays)  # type: ignore[arg-type]
        else:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        return path

    return write


Write = Callable[[Mapping[str, Any]], Path]


def network_of(model: Model, *, size: int | tuple[int, int] = SIZE, classes: int = CLASSES) -> Network:
    return build(model, image_size=size, channels=3, classes=classes, seed=1).eval()


def logits(network: Network, image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        answer: np.ndarray = network(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
    return answer


def values(network: Network) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def assert_equal(network: Network, other: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(values(network), dict(other), rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------- conventions


@pytest.mark.parametrize("model", [VIT, VIT.model_copy(update={"head": "token"}), GAP], ids=lambda model: model.head)
def test_a_transformer_of_google_computes_what_its_arrays_say(model: ViT, file: Write) -> None:
    arrays, network = google_arrays(model), network_of(model)
    load(file(arrays), network, model)
    expected = run_google_vit(arrays, images(), model)
    np.testing.assert_allclose(logits(network, images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [HYBRID, ROOT_HYBRID], ids=["units", "root-alone"])
def test_a_hybrid_of_google_computes_what_its_arrays_say(model: Hybrid, file: Write) -> None:
    arrays, network = google_arrays(model), network_of(model)
    load(file(arrays), network, model)
    expected = run_google_hybrid(arrays, images(), model)
    np.testing.assert_allclose(logits(network, images()), expected, rtol=1e-3, atol=1e-4)


def test_a_big_transfer_resnet_computes_what_its_arrays_say(file: Write) -> None:
    arrays, network = filled(big_transfer(BIT)), network_of(BIT)
    load(file(arrays), network, BIT)
    expected = run_big_transfer(arrays, images(), BIT)
    np.testing.assert_allclose(logits(network, images()), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("head", ["token", "gap"])
def test_timm_s_file_of_a_transformer_gives_the_same_bits(head: str, file: Write) -> None:
    model = VIT.model_copy(update={"head": head})
    arrays, google, timm = google_arrays(model), network_of(model), network_of(model)
    load(file(arrays), google, model)
    load(file(timm_of_google(arrays, model.depth)), timm, model)
    assert_equal(timm, values(google))


def test_hugging_face_s_files_of_a_transformer_give_the_same_bits(file: Write) -> None:
    arrays, google = google_arrays(VIT), network_of(VIT)
    load(file(arrays), google, VIT)
    whole = huggingface_with_pooler(arrays, VIT)
    network = network_of(VIT)
    load(file(whole), network, VIT)
    assert_equal(network, values(google))
    # ViTModel has no classifier and no prefix.
    body = {name.removeprefix("vit."): tensor for name, tensor in whole.items() if not name.startswith("classifier")}
    network = network_of(VIT)
    load(file(body), network, VIT, head="drop")
    zeros = {name: torch.zeros_like(values(google)[name]) for name in ("head.weight", "head.bias")}
    assert_equal(network, values(google) | zeros)


@pytest.mark.parametrize("model", [HYBRID, ROOT_HYBRID], ids=["units", "root-alone"])
def test_timm_s_and_hugging_face_s_files_of_a_hybrid_give_the_same_bits(model: Hybrid, file: Write) -> None:
    arrays, google = google_arrays(model), network_of(model)
    load(file(arrays), google, model)
    timm = timm_of_google_hybrid(arrays, model)
    network = network_of(model)
    load(file(timm), network, model)
    assert_equal(network, values(google))
    if model.body.blocks:
        network = network_of(model)
        load(file(huggingface_of_timm_hybrid(timm, model.vit.depth)), network, model)
        assert_equal(network, values(google))


def test_timm_s_and_hugging_face_s_files_of_a_resnet_give_the_same_bits(file: Write) -> None:
    arrays, bit = filled(big_transfer(BIT)), network_of(BIT)
    load(file(arrays), bit, BIT)
    timm = timm_of_big_transfer(arrays, BIT)
    for tensors in (timm, huggingface_of_timm_resnet(timm)):
        network = network_of(BIT)
        load(file(tensors), network, BIT)
        assert_equal(network, values(bit))


def test_timm_s_attention_pool_is_the_map_head(file: Write) -> None:
    model = GAP.model_copy(update={"head": "map"})
    width, stream = model.width, np.random.default_rng(3)
    shapes = {
        "latent": (1, 1, width),
        "q.weight": (width, width),
        "q.bias": (width,),
        "kv.weight": (2 * width, width),
        "kv.bias": (2 * width,),
        "proj.weight": (width, width),
        "proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "mlp.fc1.weight": (model.mlp, width),
        "mlp.fc1.bias": (model.mlp,),
        "mlp.fc2.weight": (width, model.mlp),
        "mlp.fc2.bias": (width,),
    }
    pool = {name: torch.from_numpy(stream.standard_normal(shape) * 0.3).float() for name, shape in shapes.items()}
    tensors = timm_of_google(google_arrays(GAP), model.depth)
    network, gap = network_of(model), network_of(GAP)
    load(file(tensors | {f"attn_pool.{name}": tensor for name, tensor in pool.items()}), network, model)
    load(file(tensors), gap, GAP)

    seen: list[Tensor] = []
    gap.get_submodule("norm").register_forward_hook(lambda _, __, output: seen.append(output))
    logits(gap, images())
    tokens_BTD = seen[0]
    attention = torch.nn.MultiheadAttention(width, model.heads, batch_first=True).eval()
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([pool["q.weight"], pool["kv.weight"]]))
        attention.in_proj_bias.copy_(torch.cat([pool["q.bias"], pool["kv.bias"]]))
        attention.out_proj.weight.copy_(pool["proj.weight"])
        attention.out_proj.bias.copy_(pool["proj.bias"])
        x, _ = attention(pool["latent"].expand(2, -1, -1), tokens_BTD, tokens_BTD)
        y = functional.layer_norm(x, (width,), pool["norm.weight"], pool["norm.bias"], eps=1e-6)
        y = functional.gelu(functional.linear(y, pool["mlp.fc1.weight"], pool["mlp.fc1.bias"]), approximate="tanh")
        x = x + functional.linear(y, pool["mlp.fc2.weight"], pool["mlp.fc2.bias"])
        expected = functional.linear(x[:, 0], tensors["head.weight"], tensors["head.bias"])
    np.testing.assert_allclose(logits(network, images()), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_optimizer_s_prefix_of_older_files_is_no_hindrance(file: Write) -> None:
    arrays, plain, wrapped = google_arrays(VIT), network_of(VIT), network_of(VIT)
    load(file(arrays), plain, VIT)
    load(file({f"opt/target/{name}": array for name, array in arrays.items()}), wrapped, VIT)
    assert_equal(wrapped, values(plain))


# -------------------------------------------------------------------------------------------------------- recognition


PUBLISHED = [
    (named("ViT-Ti/16", "token"), 5_717_416),
    (named("ViT-B/16", "token"), 86_567_656),
    (named("ViT-B/16", "gap"), 86_566_120),
    (named("ViT-H/14", "token"), 632_045_800),
    (named("R50+ViT-B/16", "token"), 98_659_112),
    (named("R26+ViT-S/32", "token"), 36_431_912),
    (named("R+ViT-Ti/16", "token"), 6_337_704),
    (named("R50x1"), 25_549_352),
]


@pytest.mark.parametrize(("model", "parameters"), PUBLISHED)
def test_shapes_alone_tell_a_published_model_and_its_parameters(model: Model, parameters: int) -> None:
    if isinstance(model, Hybrid):
        # The released hybrids, which are post-activation.
        model = model.model_copy(update={"body": model.body.model_copy(update={"form": "post-activation"})})
        side = 224 // (model.vit.patch * model.body.stride)
        shapes = google_hybrid(model, side**2 + 1, 1000)
    elif isinstance(model, ViT):
        shapes = google_vit(model, (224 // model.patch) ** 2 + model.has_token, classes=1000)
    else:
        shapes = big_transfer(model, 1000)
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters
    holding = definition_of(shapes)
    assert (holding.model, holding.classes, holding.channels) == (model, 1000, 3)
    assert holding.image_size == (None if isinstance(model, ResNet) else 224)
    network = blueprint(model, image_size=224, channels=3, classes=1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_attention_heads_that_no_shape_tells_are_those_of_the_published_size_or_of_64(file: Write) -> None:
    def heads_of(width: int, depth: int, mlp: int) -> int:
        shapes: Shapes = {"patch_embed.proj.weight": (width, 3, 16, 16), "blocks.0.mlp.fc1.weight": (mlp, width)}
        shapes |= {f"blocks.{block}.norm1.weight": (width,) for block in range(depth)}
        model = definition_of(shapes).model
        assert isinstance(model, ViT)
        return model.heads

    assert heads_of(1280, 32, 5120) == 16
    assert heads_of(1280, 31, 5120) == 20
    with pytest.raises(FormatError, match="64 does not divide the width 100"):
        heads_of(100, 2, 200)


def _without(start: str, shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"embedding/kernel": (4, 4, 12)}, "embedding/kernel has the shape (4, 4, 12), which no such tensor has"),
        ({"embedding/kernel": (4, 4, 3, 12)}, "what stands for blocks.0.mlp1.weight is not there"),
        (
            google_vit(VIT, 17) | {"Transformer/encoderblock_1000000000/LayerNorm_0/scale": (12,)},
            "it numbers its layers up to 1,000,000,000 and has fewer tensors",
        ),
        (_without("resnet/block1", big_transfer(BIT)), "its shapes make no model"),
        (
            big_transfer(BIT) | {"resnet/root_block/standardized_conv2d/kernel": (5, 5, 3, 32)},
            "its root has filters of 5x5; valid are 7x7 and 3x3",
        ),
    ],
    ids=["shape", "no-blocks", "number", "no-stage", "root"],
)
def test_shapes_that_make_no_model_are_named(shapes: Shapes, message: str) -> None:
    with pytest.raises(FormatError, match=re.escape(message)):
        definition_of(shapes)


def test_a_description_names_convention_model_and_what_is_missing(file: Write) -> None:
    arrays = google_arrays(VIT)
    whole = describe(file(arrays))
    assert (whole.holding.convention.source, whole.holding.model, whole.misfits) == ("vision_transformer", VIT, ())
    assert (whole.holding.image_size, whole.holding.classes) == (SIZE, CLASSES)
    assert whole.numbers == sum(array.size for array in arrays.values())
    del arrays["Transformer/encoder_norm/bias"]
    assert describe(file(arrays)).misfits == ("1 missing: Transformer/encoder_norm/bias (12,)",)


# ------------------------------------------------------------------------------------------------------ what differs


def test_a_file_that_does_not_fit_names_each_tensor_and_leaves_the_network_as_it_was(file: Write) -> None:
    arrays, network = google_arrays(VIT), network_of(VIT)
    before = values(network)
    del arrays["pre_logits/bias"]
    arrays["Transformer/encoderblock_2/LayerNorm_0/scale"] = np.ones(12, np.float32)
    arrays["Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel"] = np.ones((12, 24), np.float32)
    with pytest.raises(FormatError) as caught:
        load(file(arrays), network, VIT)
    message = str(caught.value)
    assert "1 missing: pre_logits/bias (12,)" in message
    assert "1 extra: Transformer/encoderblock_2/LayerNorm_0/scale (12,)" in message
    assert (
        "1 of another shape: Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel is (12, 24) and not (12, 20)"
        in message
    )
    assert_equal(network, before)


def test_missing_tensors_are_named_as_the_file_would_name_them(file: Write) -> None:
    whole = huggingface_with_pooler(google_arrays(VIT), VIT)
    shallow = {name: tensor for name, tensor in whole.items() if "layer.1" not in name}
    with pytest.raises(FormatError, match=r"16 missing: vit\.encoder\.layer\.1\.layernorm_before.* and 8 more"):
        load(file(shallow), network_of(VIT), VIT)
    with pytest.raises(FormatError, match=r"1 missing: classifier\.weight \(7, 12\)"):
        load(file({name: whole[name] for name in whole if name != "classifier.weight"}), network_of(VIT), VIT)


def test_a_head_of_other_classes_is_kept_or_dropped_as_asked_and_never_silently(file: Write) -> None:
    path = file(google_arrays(VIT, classes=21))
    token = VIT.model_copy(update={"head": "token"})
    network = network_of(token)
    with pytest.raises(FormatError, match=r"2 extra: pre_logits.*head/kernel is \(12, 21\) and not \(12, 7\)"):
        load(path, network, token)
    load(path, network, token, head="drop")
    assert not values(network)["head.weight"].any()
    assert not values(network)["head.bias"].any()
    load(path, network := network_of(VIT), VIT, head="drop")
    kernel = google_arrays(VIT, classes=21)["pre_logits/kernel"]
    torch.testing.assert_close(values(network)["pre_logits.weight"], torch.from_numpy(kernel.T.copy()), rtol=0, atol=0)


def test_positions_for_another_resolution_are_interpolated_as_the_released_code_does(file: Write) -> None:
    arrays = google_arrays(VIT, size=16)
    path, network = file(arrays), network_of(VIT, size=(24, 12))
    load(path, network, VIT)
    table_TD = arrays["Transformer/posembed_input/pos_embedding"][0]
    grid = zoom(table_TD[1:].reshape(4, 4, 12), (6 / 4, 3 / 4, 1), order=1).reshape(18, 12)
    found = values(network)["position_TD"].numpy()
    np.testing.assert_allclose(found, np.concatenate([table_TD[:1], grid]), rtol=1e-5, atol=1e-6)


def test_positions_of_a_square_are_no_positions_of_a_strip_with_as_many_patches(file: Write) -> None:
    arrays = google_arrays(VIT, size=16)
    network = network_of(VIT, size=(8, 32))
    load(file(arrays), network, VIT)
    table = torch.from_numpy(arrays["Transformer/posembed_input/pos_embedding"][0])
    assert not torch.equal(values(network)["position_TD"], table)
    load(file(arrays), network, VIT, image_size=(8, 32))
    torch.testing.assert_close(values(network)["position_TD"], table, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (BIT, "it holds a vit by the names of vision_transformer, and not a resnet"),
        (VIT.model_copy(update={"position": "relative"}), "have no place for blocks.0.offset_OD, blocks.1.offset_OD"),
        (VIT.model_copy(update={"position": "sincos-2d"}), "1 extra: Transformer/posembed_input/pos_embedding"),
        (VIT.model_copy(update={"position_at": "shared"}), "have their positions at the stem"),
        (GAP.model_copy(update={"attention": "axial"}), "have no place for blocks.0.rows.norm1.weight"),
    ],
    ids=["resnet", "relative", "sincos", "shared", "axial"],
)
def test_a_network_that_no_such_file_can_fill_is_refused_with_the_reason(
    model: Model, message: str, file: Write
) -> None:
    with pytest.raises(FormatError, match=message):
        load(file(google_arrays(VIT)), network_of(model), model)


def test_other_groups_than_the_published_ones_are_refused(file: Write) -> None:
    model = BIT.model_copy(update={"groups": 16})
    with pytest.raises(FormatError, match="normalize 32 groups of channels, and the network 16"):
        load(file(filled(big_transfer(BIT))), network_of(model), model)


def test_timm_s_norm_after_the_mean_does_not_pass_for_ours_before_it(file: Write) -> None:
    tensors = timm_of_google(google_arrays(GAP), GAP.depth)
    tensors = {name if not name.startswith("norm.") else f"fc_{name}": tensor for name, tensor in tensors.items()}
    with pytest.raises(FormatError, match=r"2 missing: norm\.weight.*2 extra: fc_norm\.bias"):
        load(file(tensors), network_of(GAP), GAP)


# --------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_become_float32(dtype: torch.dtype, file: Write) -> None:
    tensors = timm_of_google(google_arrays(GAP), GAP.depth)
    network = network_of(GAP)
    load(file({name: tensor.to(dtype) for name, tensor in tensors.items()}), network, GAP)
    found = values(network)["norm.weight"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, tensors["norm.weight"].to(dtype).float(), rtol=0, atol=0)


def test_bfloat16_in_npz_is_read(tmp_path: Path) -> None:
    # NumPy keeps two bytes without a type: their bits are the upper half of a float32's.
    arrays = google_arrays(GAP)
    path = tmp_path / "half.npz"
    halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16).view("V2") for name, array in arrays.items()}
    np.savez(path, **halves)  # type: ignore[arg-type]
    network = network_of(GAP)
    load(path, network, GAP)
    expected = (arrays["Transformer/encoder_norm/scale"].view(np.uint32) & 0xFFFF0000).view(np.float32)
    np.testing.assert_array_equal(values(network)["norm.weight"].numpy(), expected)


def _integers(path: Path) -> None:
    np.savez(path, **{"embedding/kernel": np.ones(3, np.int64)})  # type: ignore[arg-type]


def _pickled(path: Path) -> None:
    np.savez(path, **{"embedding/kernel": np.array([{"a": 1}], dtype=object)})  # type: ignore[arg-type]


def _cut_npz(path: Path) -> None:
    np.savez(path, **google_arrays(VIT))  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:-100])


def _cut_safetensors(path: Path) -> None:
    save_file({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def _single(path: Path) -> None:
    with path.open("wb") as opened:
        np.save(opened, np.ones(3))


def _strangers(path: Path) -> None:
    save_file({"layer.weight": torch.ones(3)}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.mkdir(), "is a folder; give a file"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_bytes(b"\x80\x02 something else"), "it may be cut off, or a pickle"),
        (_single, "it is a single array of NumPy"),
        (_integers, "embedding/kernel has the type int64"),
        (_pickled, "no array of numbers"),
        (_cut_npz, "not a whole .npz file"),
        (_cut_safetensors, "not a whole safetensors file"),
        (_strangers, "no known convention: it has layer.weight"),
    ],
)
def test_a_file_that_holds_no_weights_is_named_with_the_reason(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.npz"
    write(path)
    with pytest.raises(FormatError, match=message) as caught:
        load(path, network_of(VIT), VIT)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_without_memory_is_refused(file: Write) -> None:
    network = blueprint(VIT, image_size=SIZE, channels=3, classes=CLASSES)
    with pytest.raises(ValueError, match="materialize it first"):
        load(file(google_arrays(VIT)), network, VIT)
