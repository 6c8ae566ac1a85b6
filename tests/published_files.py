"""Files of public checkpoints by their conventions' own names, and small forward passes that run them as they are.

The arrays of google-research/vision_transformer and big_transfer are spelled out and run in their own layout; the files
of timm and Hugging Face are made of them as those projects' converters do, name by name. B = images, C = channels,
H, W = pixels, T = tokens, D = width, N = heads, d = width of a head; layouts end in them, as in kernel_hwIO.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from studies.models import Hybrid, ResNet, ViT

Shapes = dict[str, tuple[int, ...]]
Arrays = dict[str, np.ndarray]

CLASSES = 7
SIZE = 16


# -------------------------------------------------------------------------------------- the files of google-research


def google_vit(model: ViT, tokens: int, inputs: int = 3, classes: int = CLASSES) -> Shapes:
    """What `vit_jax` keeps of a vision transformer."""
    width, heads = model.width, model.heads
    shapes: Shapes = {
        "embedding/kernel": (model.patch, model.patch, inputs, width),
        "embedding/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (1, tokens, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, classes),
        "head/bias": (classes,),
    }
    if model.has_token:
        shapes["cls"] = (1, 1, width)
    if model.head == "token-tanh":
        shapes |= {"pre_logits/kernel": (width, width), "pre_logits/bias": (width,)}
    for block in range(model.depth):
        at = f"Transformer/encoderblock_{block}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{at}/{norm}/scale": (width,), f"{at}/{norm}/bias": (width,)}
        attention = f"{at}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            shapes[f"{attention}/{name}/kernel"] = (width, heads, width // heads)
            shapes[f"{attention}/{name}/bias"] = (heads, width // heads)
        shapes |= {f"{attention}/out/kernel": (heads, width // heads, width), f"{attention}/out/bias": (width,)}
        shapes |= {f"{at}/MlpBlock_3/Dense_0/kernel": (width, model.mlp), f"{at}/MlpBlock_3/Dense_0/bias": (model.mlp,)}
        shapes |= {f"{at}/MlpBlock_3/Dense_1/kernel": (model.mlp, width), f"{at}/MlpBlock_3/Dense_1/bias": (width,)}
    return shapes


def google_hybrid(model: Hybrid, tokens: int, classes: int = CLASSES) -> Shapes:
    """What `vit_jax` keeps of a hybrid; scales as the flax of that time wrote them."""
    body, width = model.body, model.body.width
    shapes = google_vit(model.vit, tokens, inputs=body.channels, classes=classes)
    shapes |= {"conv_root/kernel": (7, 7, 3, width)}
    shapes |= {"gn_root/scale": (1, 1, 1, width), "gn_root/bias": (1, 1, 1, width)}
    inputs = width
    for stage, count in enumerate(body.blocks):
        inner, outputs = width * 2**stage, 4 * width * 2**stage
        for unit in range(count):
            at = f"block{stage + 1}/unit{unit + 1}"
            shapes[f"{at}/conv1/kernel"] = (1, 1, inputs, inner)
            shapes[f"{at}/conv2/kernel"] = (3, 3, inner, inner)
            shapes[f"{at}/conv3/kernel"] = (1, 1, inner, outputs)
            norms = {"gn1": inner, "gn2": inner, "gn3": outputs}
            if unit == 0:
                shapes[f"{at}/conv_proj/kernel"] = (1, 1, inputs, outputs)
                norms["gn_proj"] = outputs
            for name, channels in norms.items():
                shapes |= {f"{at}/{name}/scale": (1, 1, 1, channels), f"{at}/{name}/bias": (1, 1, 1, channels)}
            inputs = outputs
    return shapes


def big_transfer(model: ResNet, classes: int = CLASSES) -> Shapes:
    """What the BiT files hold."""
    width = model.width
    shapes: Shapes = {"resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, width)}
    inputs = width
    for stage, count in enumerate(model.blocks):
        inner, outputs = width * 2**stage, 4 * width * 2**stage
        for unit in range(count):
            at = f"resnet/block{stage + 1}/unit{unit + 1:02d}"
            shapes[f"{at}/a/standardized_conv2d/kernel"] = (1, 1, inputs, inner)
            shapes[f"{at}/b/standardized_conv2d/kernel"] = (3, 3, inner, inner)
            shapes[f"{at}/c/standardized_conv2d/kernel"] = (1, 1, inner, outputs)
            for name, channels in (("a", inputs), ("b", inner), ("c", inner)):
                shapes |= {f"{at}/{name}/group_norm/{each}": (channels,) for each in ("gamma", "beta")}
            if unit == 0:
                shapes[f"{at}/a/proj/standardized_conv2d/kernel"] = (1, 1, inputs, outputs)
            inputs = outputs
    shapes |= {"resnet/group_norm/gamma": (inputs,), "resnet/group_norm/beta": (inputs,)}
    shapes |= {"resnet/head/conv2d/kernel": (1, 1, inputs, classes), "resnet/head/conv2d/bias": (classes,)}
    return shapes


def filled(shapes: Shapes, seed: int = 0) -> Arrays:
    """Random numbers, scaled so that signals neither vanish nor explode, and no two arrays alike."""
    stream = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        values = stream.standard_normal(shape)
        if name.endswith("kernel"):
            inputs = math.prod(shape[:-1]) if "/out/" in name or len(shape) != 3 else shape[0]
            values = values / math.sqrt(inputs)
        else:
            values = 0.3 * values + (1.0 if name.endswith(("scale", "gamma")) else 0.0)
        arrays[name] = values.astype(np.float32)
    return arrays


def normalized(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    normal: np.ndarray = (x - mean) / np.sqrt(variance + 1e-6) * scale + bias
    return normal


def gelu(x: np.ndarray) -> np.ndarray:
    value: np.ndarray = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return value


def run_google_vit(arrays: Arrays, image_BHWC: np.ndarray, model: ViT) -> np.ndarray:
    """Logits by einsum in flax's own layouts, as `vit_jax/models_vit.py` has it."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}
    images, height, width, channels = image_BHWC.shape
    p = model.patch
    patches = image_BHWC.reshape(images, height // p, p, width // p, p, channels)
    x = np.einsum("bhiwjc,ijcd->bhwd", patches, a["embedding/kernel"]) + a["embedding/bias"]
    x = x.reshape(images, -1, x.shape[-1])
    if "cls" in a:
        x = np.concatenate([np.tile(a["cls"], (images, 1, 1)), x], axis=1)
    x = x + a["Transformer/posembed_input/pos_embedding"]
    for block in range(model.depth):
        at = f"Transformer/encoderblock_{block}/"
        y = normalized(x, a[f"{at}LayerNorm_0/scale"], a[f"{at}LayerNorm_0/bias"])
        mha = f"{at}MultiHeadDotProductAttention_1/"
        q, k, v = (
            np.einsum("btD,Dnd->btnd", y, a[f"{mha}{name}/kernel"]) + a[f"{mha}{name}/bias"]
            for name in ("query", "key", "value")
        )
        logits = np.einsum("bqnd,bknd->bnqk", q, k) / math.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("bnqk,bknd->bqnd", weights, v)
        x = x + np.einsum("bqnd,ndD->bqD", mixed, a[f"{mha}out/kernel"]) + a[f"{mha}out/bias"]
        y = normalized(x, a[f"{at}LayerNorm_2/scale"], a[f"{at}LayerNorm_2/bias"])
        y = gelu(y @ a[f"{at}MlpBlock_3/Dense_0/kernel"] + a[f"{at}MlpBlock_3/Dense_0/bias"])
        x = x + y @ a[f"{at}MlpBlock_3/Dense_1/kernel"] + a[f"{at}MlpBlock_3/Dense_1/bias"]
    x = normalized(x, a["Transformer/encoder_norm/scale"], a["Transformer/encoder_norm/bias"])
    pooled = x[:, 0] if "cls" in a else x.mean(axis=1)
    if "pre_logits/kernel" in a:
        pooled = np.tanh(pooled @ a["pre_logits/kernel"] + a["pre_logits/bias"])
    answer: np.ndarray = pooled @ a["head/kernel"] + a["head/bias"]
    return answer


def convolved(x_BCHW: Tensor, kernel_hwIO: np.ndarray, stride: int, pads: tuple[int, int]) -> Tensor:
    """A convolution with standardized filters; `pads` stand before and after along both sides."""
    filters = torch.from_numpy(kernel_hwIO).double()
    filters = filters - filters.mean(dim=(0, 1, 2))
    filters = filters / (filters.std(dim=(0, 1, 2), correction=0) + 1e-5)
    return functional.conv2d(functional.pad(x_BCHW, (*pads, *pads)), filters.permute(3, 2, 0, 1), stride=stride)


def group_normalized(x_BCHW: Tensor, scale: np.ndarray, bias: np.ndarray) -> Tensor:
    weight, shift = (torch.from_numpy(array).double().flatten() for array in (scale, bias))
    return functional.group_norm(x_BCHW, 32, weight, shift, eps=1e-5)


def run_google_hybrid(a: Arrays, image_BHWC: np.ndarray, model: Hybrid) -> np.ndarray:
    """Logits as `vit_jax/models_resnet.py` has it: post-activation, padding SAME."""

    def norm(x: Tensor, name: str) -> Tensor:
        return group_normalized(x, a[f"{name}/scale"], a[f"{name}/bias"])

    x = torch.from_numpy(image_BHWC).double().permute(0, 3, 1, 2)
    x = norm(convolved(x, a["conv_root/kernel"], 2, (2, 3)), "gn_root").relu()
    x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2)
    for stage, count in enumerate(model.body.blocks):
        for unit in range(count):
            at, stride = f"block{stage + 1}/unit{unit + 1}", 2 if stage and not unit else 1
            shortcut = x
            if unit == 0:
                shortcut = norm(convolved(x, a[f"{at}/conv_proj/kernel"], stride, (0, 0)), f"{at}/gn_proj")
            y = norm(convolved(x, a[f"{at}/conv1/kernel"], 1, (0, 0)), f"{at}/gn1").relu()
            y = norm(convolved(y, a[f"{at}/conv2/kernel"], stride, (0, 1) if stride == 2 else (1, 1)), f"{at}/gn2")
            y = norm(convolved(y.relu(), a[f"{at}/conv3/kernel"], 1, (0, 0)), f"{at}/gn3")
            x = (shortcut + y).relu()
    return run_google_vit(a, x.permute(0, 2, 3, 1).numpy(), model.vit)


def run_big_transfer(a: Arrays, image_BHWC: np.ndarray, model: ResNet) -> np.ndarray:
    """Logits as `bit_pytorch/models.py` has it: pre-activation, padding even, a pool over zeros."""

    def active(x: Tensor, name: str) -> Tensor:
        return group_normalized(x, a[f"{name}/group_norm/gamma"], a[f"{name}/group_norm/beta"]).relu()

    def conv(x: Tensor, name: str, stride: int = 1, pad: int = 0) -> Tensor:
        return convolved(x, a[f"{name}/standardized_conv2d/kernel"], stride, (pad, pad))

    x = torch.from_numpy(image_BHWC).double().permute(0, 3, 1, 2)
    x = functional.max_pool2d(functional.pad(conv(x, "resnet/root_block", 2, 3), (1, 1, 1, 1)), 3, 2)
    for stage, count in enumerate(model.blocks):
        for unit in range(count):
            at, stride = f"resnet/block{stage + 1}/unit{unit + 1:02d}", 2 if stage and not unit else 1
            y = active(x, f"{at}/a")
            shortcut = conv(y, f"{at}/a/proj", stride) if unit == 0 else x
            y = active(conv(y, f"{at}/a"), f"{at}/b")
            y = active(conv(y, f"{at}/b", stride, 1), f"{at}/c")
            x = conv(y, f"{at}/c") + shortcut
    pooled = active(x, "resnet").mean(dim=(2, 3)).numpy()
    answer: np.ndarray = pooled @ a["resnet/head/conv2d/kernel"][0, 0] + a["resnet/head/conv2d/bias"]
    return answer


# ------------------------------------------------------------------------------------ the same in other conventions


def timm_of_google(a: Mapping[str, np.ndarray], depth: int) -> dict[str, Tensor]:
    """timm's tensors of a transformer, as its `_load_weights` makes them."""
    made = {
        "pos_embed": a["Transformer/posembed_input/pos_embedding"],
        "patch_embed.proj.weight": a["embedding/kernel"].transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": a["embedding/bias"],
        "norm.weight": a["Transformer/encoder_norm/scale"],
        "norm.bias": a["Transformer/encoder_norm/bias"],
        "head.weight": a["head/kernel"].T,
        "head.bias": a["head/bias"],
    }
    if "cls" in a:
        made["cls_token"] = a["cls"]
    for block in range(depth):
        at, mha = (
            f"Transformer/encoderblock_{block}/",
            f"Transformer/encoderblock_{block}/MultiHeadDotProductAttention_1/",
        )
        width = a[f"{mha}query/kernel"].shape[0]
        parts = ("query", "key", "value")
        made[f"blocks.{block}.norm1.weight"] = a[f"{at}LayerNorm_0/scale"]
        made[f"blocks.{block}.norm1.bias"] = a[f"{at}LayerNorm_0/bias"]
        made[f"blocks.{block}.attn.qkv.weight"] = np.concatenate(
            [a[f"{mha}{part}/kernel"].reshape(width, width).T for part in parts]
        )
        made[f"blocks.{block}.attn.qkv.bias"] = np.concatenate([a[f"{mha}{part}/bias"].reshape(-1) for part in parts])
        made[f"blocks.{block}.attn.proj.weight"] = a[f"{mha}out/kernel"].reshape(width, width).T
        made[f"blocks.{block}.attn.proj.bias"] = a[f"{mha}out/bias"]
        made[f"blocks.{block}.norm2.weight"] = a[f"{at}LayerNorm_2/scale"]
        made[f"blocks.{block}.norm2.bias"] = a[f"{at}LayerNorm_2/bias"]
        made[f"blocks.{block}.mlp.fc1.weight"] = a[f"{at}MlpBlock_3/Dense_0/kernel"].T
        made[f"blocks.{block}.mlp.fc1.bias"] = a[f"{at}MlpBlock_3/Dense_0/bias"]
        made[f"blocks.{block}.mlp.fc2.weight"] = a[f"{at}MlpBlock_3/Dense_1/kernel"].T
        made[f"blocks.{block}.mlp.fc2.bias"] = a[f"{at}MlpBlock_3/Dense_1/bias"]
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in made.items()}


def huggingface_of_timm(timm: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Hugging Face's tensors of a transformer, as its `convert_vit_timm_to_pytorch` renames them."""
    made = {
        "vit.embeddings.cls_token": timm["cls_token"],
        "vit.embeddings.position_embeddings": timm["pos_embed"],
        "vit.embeddings.patch_embeddings.projection.weight": timm["patch_embed.proj.weight"],
        "vit.embeddings.patch_embeddings.projection.bias": timm["patch_embed.proj.bias"],
        "vit.layernorm.weight": timm["norm.weight"],
        "vit.layernorm.bias": timm["norm.bias"],
        "classifier.weight": timm["head.weight"],
        "classifier.bias": timm["head.bias"],
    }
    for block in range(depth):
        for end in ("weight", "bias"):
            at = f"vit.encoder.layer.{block}"
            qkv = timm[f"blocks.{block}.attn.qkv.{end}"].chunk(3)
            for name, part in zip(("query", "key", "value"), qkv, strict=True):
                made[f"{at}.attention.attention.{name}.{end}"] = part.clone()
            made[f"{at}.attention.output.dense.{end}"] = timm[f"blocks.{block}.attn.proj.{end}"]
            made[f"{at}.layernorm_before.{end}"] = timm[f"blocks.{block}.norm1.{end}"]
            made[f"{at}.layernorm_after.{end}"] = timm[f"blocks.{block}.norm2.{end}"]
            made[f"{at}.intermediate.dense.{end}"] = timm[f"blocks.{block}.mlp.fc1.{end}"]
            made[f"{at}.output.dense.{end}"] = timm[f"blocks.{block}.mlp.fc2.{end}"]
    return made


def timm_of_big_transfer(a: Arrays, model: ResNet) -> dict[str, Tensor]:
    """timm's tensors of a BiT, as its `_load_weights` makes them."""
    made = {
        "stem.conv.weight": a["resnet/root_block/standardized_conv2d/kernel"].transpose(3, 2, 0, 1),
        "norm.weight": a["resnet/group_norm/gamma"],
        "norm.bias": a["resnet/group_norm/beta"],
        "head.fc.weight": a["resnet/head/conv2d/kernel"].transpose(3, 2, 0, 1),
        "head.fc.bias": a["resnet/head/conv2d/bias"],
    }
    for stage, count in enumerate(model.blocks):
        for unit in range(count):
            at, of = f"stages.{stage}.blocks.{unit}", f"resnet/block{stage + 1}/unit{unit + 1:02d}"
            for number, letter in enumerate("abc", start=1):
                kernel = a[f"{of}/{letter}/standardized_conv2d/kernel"]
                made[f"{at}.conv{number}.weight"] = kernel.transpose(3, 2, 0, 1)
                made[f"{at}.norm{number}.weight"] = a[f"{of}/{letter}/group_norm/gamma"]
                made[f"{at}.norm{number}.bias"] = a[f"{of}/{letter}/group_norm/beta"]
            if unit == 0:
                kernel = a[f"{of}/a/proj/standardized_conv2d/kernel"]
                made[f"{at}.downsample.conv.weight"] = kernel.transpose(3, 2, 0, 1)
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in made.items()}


def timm_of_google_hybrid(a: Arrays, model: Hybrid) -> dict[str, Tensor]:
    """timm's tensors of a hybrid."""
    root = "patch_embed.backbone.stem" if model.body.blocks else "patch_embed.backbone"
    made = {
        f"{root}.conv.weight": a["conv_root/kernel"].transpose(3, 2, 0, 1),
        f"{root}.norm.weight": a["gn_root/scale"].reshape(-1),
        f"{root}.norm.bias": a["gn_root/bias"].reshape(-1),
    }
    for stage, count in enumerate(model.body.blocks):
        for unit in range(count):
            at, of = f"patch_embed.backbone.stages.{stage}.blocks.{unit}", f"block{stage + 1}/unit{unit + 1}"
            for n in (1, 2, 3):
                made[f"{at}.conv{n}.weight"] = a[f"{of}/conv{n}/kernel"].transpose(3, 2, 0, 1)
                made[f"{at}.norm{n}.weight"] = a[f"{of}/gn{n}/scale"].reshape(-1)
                made[f"{at}.norm{n}.bias"] = a[f"{of}/gn{n}/bias"].reshape(-1)
            if unit == 0:
                made[f"{at}.downsample.conv.weight"] = a[f"{of}/conv_proj/kernel"].transpose(3, 2, 0, 1)
                made[f"{at}.downsample.norm.weight"] = a[f"{of}/gn_proj/scale"].reshape(-1)
                made[f"{at}.downsample.norm.bias"] = a[f"{of}/gn_proj/bias"].reshape(-1)
    body = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in made.items()}
    return timm_of_google(a, model.vit.depth) | body


def huggingface_of_timm_hybrid(timm: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Hugging Face's tensors of a hybrid, as its `convert_vit_hybrid_timm_to_pytorch` renames them."""
    made = huggingface_of_timm(timm, depth)
    for name, tensor in timm.items():
        if name.startswith("patch_embed.backbone."):
            rest = name.removeprefix("patch_embed.backbone.")
            rest = rest.replace("stem.conv.", "embedder.convolution.").replace("stem.norm.", "embedder.norm.")
            rest = rest.replace("stages.", "encoder.stages.").replace(".blocks.", ".layers.")
            made[f"vit.embeddings.patch_embeddings.backbone.bit.{rest}"] = tensor
    return made


def huggingface_of_timm_resnet(timm: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's tensors of a BiT, as its `convert_bit_to_pytorch` renames them."""
    made = {}
    for name, tensor in timm.items():
        if name.startswith("stages."):
            made["bit.encoder." + name.replace("blocks", "layers")] = tensor
        elif name.startswith("head.fc"):
            made[name.replace("head.fc", "classifier.1")] = tensor.flatten(1) if tensor.dim() == 4 else tensor
        else:
            made["bit." + name.replace("stem.conv", "embedder.convolution")] = tensor
    return made


def google_arrays(model: ViT | Hybrid, *, size: int = SIZE, classes: int = CLASSES) -> Arrays:
    tile = model.patch if isinstance(model, ViT) else model.vit.patch * model.body.stride
    tokens = (size // tile) ** 2 + (model if isinstance(model, ViT) else model.vit).has_token
    if isinstance(model, ViT):
        return filled(google_vit(model, tokens, classes=classes))
    return filled(google_hybrid(model, tokens, classes))


def huggingface_with_pooler(arrays: Arrays, model: ViT) -> dict[str, Tensor]:
    """Hugging Face's tensors of a transformer and its pre-logits layer, which is called a pooler there."""
    return huggingface_of_timm(timm_of_google(arrays, model.depth), model.depth) | {
        "vit.pooler.dense.weight": torch.from_numpy(arrays["pre_logits/kernel"].T.copy()),
        "vit.pooler.dense.bias": torch.from_numpy(arrays["pre_logits/bias"]),
    }


def images(size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(5).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
