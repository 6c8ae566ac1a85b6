"""The networks of other libraries that ours are measured beside: timm's and vit-pytorch's, from our definitions."""

import torch
from torch import nn

from studies.architectures import named
from studies.models import ResNet, ViT

# timm imports torchvision, and torchvision says at import how two of its own operators work on the meta device. Where
# its library with the operators does not load, as one built for CUDA beside the CPU build of torch, they must be
# declared first, and where it does they must not. No network here calls them.
try:
    import torchvision  # noqa: F401
except RuntimeError:
    _OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for _name in ("nms", "qnms"):
        schema = f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _OPERATORS.define(schema)  # type: ignore[no-untyped-call]

import timm
import vit_pytorch
from timm.models.vision_transformer import VisionTransformer


def of_timm(model: ViT | ResNet, *, image_size: int, classes: int) -> nn.Module:
    """timm's network of the same shape and with as many parameters, for images with three channels.

    Raises ValueError for a ResNet other than R50x1 and for a transformer other than the first paper's.
    """
    if isinstance(model, ViT):
        _check_is_plain(model)
        transformer: nn.Module = VisionTransformer(
            img_size=image_size,
            patch_size=model.patch,
            embed_dim=model.width,
            depth=model.depth,
            num_heads=model.heads,
            mlp_ratio=model.mlp / model.width,
            num_classes=classes,
        )
        return transformer
    if model != named("R50x1"):
        raise ValueError("of ResNets only R50x1 is compared with timm's")
    network: nn.Module = timm.create_model("resnetv2_50x1_bit", num_classes=classes)
    return network


def of_vit_pytorch(model: ViT, *, image_size: int, classes: int) -> nn.Module:
    """vit-pytorch's network of the same shape, for images with three channels.

    It has two normalizations around the patch embedding more than ours, and no biases of queries, keys and values.
    """
    _check_is_plain(model)
    network: nn.Module = vit_pytorch.ViT(
        image_size=image_size,
        patch_size=model.patch,
        num_classes=classes,
        dim=model.width,
        depth=model.depth,
        heads=model.heads,
        mlp_dim=model.mlp,
        dim_head=model.width // model.heads,
    )
    return network


def _check_is_plain(model: ViT) -> None:
    if (model.head, model.position, model.position_at, model.attention) != ("token", "learned-1d", "stem", "global"):
        raise ValueError(f"{model} is not the plain transformer with a class token that the others have too")
