"""Our weights as safetensors that timm loads, under the names and arguments of its own models.

D = width, T = tokens.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_safetensors
from torch import Tensor

from studies.models import Hybrid, ResNet, ViT
from workers import durable
from workers.models.network import Network
from workers.models.positions import Positioned
from workers.published.conventions import Convention, links
from workers.published.matching import GROUPS
from workers.published.tables import TIMM_HYBRID, TIMM_RESNET, TIMM_ROOT_HYBRID, TIMM_VIT

ARCHITECTURE = "timm_architecture"
"""Under this name a file says what `timm.create_model` is to make."""
ARGUMENTS = "timm_arguments"
"""And under this one with which arguments, as JSON."""

_HYBRIDS: dict[tuple[int, ...], str] = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
"""timm's hybrids by the blocks of the ResNet inside; all else of them is an argument."""
_RESNETS: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 4, 6, 3), 1): "resnetv2_50x1_bit",
    ((3, 4, 6, 3), 3): "resnetv2_50x3_bit",
    ((3, 4, 23, 3), 1): "resnetv2_101x1_bit",
    ((3, 4, 23, 3), 3): "resnetv2_101x3_bit",
    ((3, 8, 36, 3), 2): "resnetv2_152x2_bit",
    ((3, 8, 36, 3), 4): "resnetv2_152x4_bit",
}
"""timm's BiT models by blocks and width factor, neither of which is an argument."""
_POOLS = {"token": "token", "gap": "avg", "map": "map"}


def save_timm(
    path: Path, network: Network, model: ViT | ResNet | Hybrid, *, head: bool = True, overwrite: bool = False
) -> None:
    """Write a network as safetensors with timm's names, shapes and arguments; the file is there whole or not at all.

    head: whether the classifier goes along. Without it, a pre-logits layer stays behind too, and what timm makes of the
    file gives the pooled token.
    Raises ValueError, with the cure, for what timm has no counterpart for; FileExistsError for a file that is there,
    unless `overwrite`; OSError as it comes, with nothing left behind.
    """
    tensors = timm_tensors(network, model, head=head)
    architecture, arguments = timm_model(network, model, head=head)
    facts = {"format": "pt", ARCHITECTURE: architecture, ARGUMENTS: json.dumps(arguments)}
    content = to_safetensors({name: t.detach().cpu().float().contiguous() for name, t in tensors.items()}, facts)
    _write(path, content, overwrite=overwrite)


def timm_tensors(network: Network, model: ViT | ResNet | Hybrid, *, head: bool = True) -> dict[str, Tensor]:
    """The network's parameters by timm's names and in its shapes; fixed and two-part positions as one table.

    Raises ValueError for what timm has no counterpart for.
    """
    convention = _convention(model, head=head)
    parameters = dict(network.named_parameters())
    left_out = () if head else ("head", "pre_logits")
    tensors = {
        link.theirs: link.write(parameters[link.ours], 1)
        for link in links(convention, network, model, beside=("position_row_Hd", "position_col_Wd", *left_out))
    }
    if not isinstance(model, ResNet):
        table_TD = _encoder(network).table()
        if table_TD is not None:
            tensors["pos_embed"] = table_TD[None]
    return tensors


def timm_model(network: Network, model: ViT | ResNet | Hybrid, *, head: bool = True) -> tuple[str, dict[str, Any]]:
    """What `timm.create_model` makes this network of: a name and arguments.

    Raises ValueError for what timm has no counterpart for.
    """
    _convention(model, head=head)
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    ending = "" if isinstance(model, ViT | ResNet) else "vit."
    arguments: dict[str, Any] = {
        "num_classes": shapes[f"{ending}head.weight"][0] if head else 0,
        "in_chans": shapes["embed.weight" if isinstance(model, ViT) else "body.root.weight"][1],
    }
    if isinstance(model, ResNet):
        return _RESNETS[model.blocks, model.width // 64], arguments
    vit, stride = (model.vit, model.body.stride) if isinstance(model, Hybrid) else (model, 1)
    encoder = _encoder(network)
    assert encoder.grid is not None
    arguments |= {
        "img_size": [side * vit.patch * stride for side in encoder.grid],
        "patch_size": vit.patch,
        "embed_dim": vit.width,
        "depth": vit.depth,
        "num_heads": vit.heads,
        "mlp_ratio": _ratio(vit),
        "class_token": vit.has_token,
        "no_embed_class": encoder.token_without_row,
        "global_pool": _POOLS["token" if vit.has_token else vit.head],
        "fc_norm": False,  # ours is before the mean over patches, in big_vision's order
        "pos_embed": "none" if vit.position == "none" else "learn",
        "act_layer": "gelu" if vit.gelu == "exact" else "gelu_tanh",
    }
    name = _HYBRIDS[model.body.blocks] if isinstance(model, Hybrid) else "vit_base_patch16_224"
    return name, arguments


def _convention(model: ViT | ResNet | Hybrid, *, head: bool) -> Convention:
    """timm's names for such a model. Raises ValueError, with the cure, when it has no such model."""
    body = model if isinstance(model, ResNet) else model.body if isinstance(model, Hybrid) else None
    if body is not None:
        _check_body(body, alone=isinstance(model, ResNet))
    if isinstance(model, ResNet):
        return TIMM_RESNET
    vit = model.vit if isinstance(model, Hybrid) else model
    if vit.head == "token-tanh" and head:
        raise ValueError(
            "timm has no tanh layer before the classifier: write the body alone, without the head, or fine-tune the"
            " model first, which replaces both layers by one (head: token)"
        )
    if vit.attention == "axial":
        raise ValueError("timm has no axial attention: only models with global attention can be written for it")
    if vit.position == "relative":
        raise ValueError("timm has no such relative positions: only learned, sincos-2d and none can be written for it")
    if vit.position_at != "stem":
        raise ValueError(f"timm adds positions at the stem alone, and this model at its {vit.position_at}")
    if isinstance(model, ViT):
        return TIMM_VIT
    return TIMM_HYBRID if model.body.blocks else TIMM_ROOT_HYBRID


def _check_body(body: ResNet, *, alone: bool) -> None:
    wanted = "pre-activation" if alone else "post-activation"
    if body.form != wanted:
        where = "alone" if alone else "in hybrids"
        raise ValueError(f"timm's ResNets {where} have the form {wanted}, and this one is {body.form}")
    if body.mixing == "axial":
        raise ValueError("timm has no axial attention in ResNets: only those that mix by convolution can be written")
    if body.root != "7x7" or body.groups != GROUPS:
        raise ValueError(
            f"timm's ResNets have a 7x7 root and {GROUPS} groups, and this one a {body.root} root and {body.groups}"
        )
    if alone and (body.width % 64 or (body.blocks, body.width // 64) not in _RESNETS):
        valid = ", ".join(name for name in _RESNETS.values())
        raise ValueError(f"timm has no ResNet with blocks {_words(body.blocks)} and width {body.width}; it has {valid}")
    if not alone and (body.blocks not in _HYBRIDS or body.width != 64):
        valid = "; ".join(_words(blocks) for blocks in _HYBRIDS)
        raise ValueError(
            f"timm has no hybrid around a ResNet with blocks {_words(body.blocks)} and width {body.width}; it has those"
            f" of width 64 with blocks {valid}"
        )


def _words(blocks: tuple[int, ...]) -> str:
    return ", ".join(map(str, blocks)) or "none"


def _ratio(vit: ViT) -> float:
    """The ratio that timm cuts down to our MLP's width after it has multiplied it by the encoder's."""
    exact = vit.mlp / vit.width
    return exact if int(vit.width * exact) == vit.mlp else (vit.mlp + 0.5) / vit.width


def _encoder(network: Network) -> Positioned:
    return next(module for module in network.modules() if isinstance(module, Positioned))


def _write(path: Path, content: bytes, *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already, and is not written over unless that is asked for")
    writing = path.with_name(f"{path.name}.writing")
    try:
        durable.write(writing, content)
        writing.replace(path)
    except BaseException:
        writing.unlink(missing_ok=True)
        raise
