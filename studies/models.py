"""Networks as definitions: transformers, residual networks, hybrids, and which shapes of them can be.

Everything here decides numbers and so is hashed (`studies/definitions.py`). Names are in `studies/architectures.py`.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from pydantic import model_validator as validator

from studies.frozen import Frozen, Listed, Share

Head = Literal["token-tanh", "token", "gap", "map"]
Gelu = Literal["tanh", "exact"]
Position = Literal["learned-1d", "learned-2d", "sincos-2d", "relative", "none"]


class ViT(Frozen):
    """A vision transformer (arXiv:2010.11929v2, section 3.1), with the choices that the two papers compare."""

    kind: Literal["vit"] = "vit"
    patch: PositiveInt
    """Side of a square patch in pixels of the image, or of the feature map in a hybrid."""
    width: PositiveInt
    depth: PositiveInt
    mlp: PositiveInt
    heads: PositiveInt
    head: Head = "token-tanh"
    """`token-tanh`: class token, tanh pre-logits layer of the body's width, linear layer (the first paper's
    pre-training head); `token`: class token and one linear layer; `gap`: mean over patches, no class token; `map`:
    multi-head attention pooling over patches, no class token (arXiv:2106.04560v2, section 3.2)."""
    position: Position = "learned-1d"
    """How tokens know their place (appendix D.4). `learned-1d`: a table with a row a token in raster order;
    `learned-2d`: a table for rows and one for columns, half the width each, concatenated; `sincos-2d`: fixed sines and
    cosines; `relative`: keys for the offset between two tokens, in every layer; `none`: a bag of patches. A class token
    has a row in `learned-1d` alone."""
    position_at: Literal["stem", "layers", "shared"] = "stem"
    """Where a learned table is added: before the first layer; before every layer, each with its own; before every
    layer, one for all."""
    attention: Literal["global", "axial"] = "global"
    """`axial`: every block is attention within rows and an MLP, then attention within columns and an MLP (D.6)."""
    gelu: Gelu = "tanh"
    """`tanh`: the approximation that the released code takes by flax's default; `exact`: x times the normal
    distribution, as the paper writes it and as timm and Hugging Face compute it."""
    code: Literal["vision-transformer", "big-vision"] = "vision-transformer"
    """Which released code `learned-1d` follows where the two differ. vision_transformer, as the paper, has a row for
    the class token and starts with a standard deviation of 0.02; big_vision has none and starts with width ** -0.5."""

    @property
    def has_token(self) -> bool:
        """Whether a class token stands before the patches."""
        return self.head in ("token-tanh", "token")

    @validator(mode="after")
    def _is_possible(self) -> "ViT":
        if self.width % self.heads:
            valid = [n for n in range(1, self.width + 1) if self.width % n == 0]
            nearest = min(valid, key=lambda n: abs(n - self.heads))
            raise ValueError(f"{self.heads} heads do not divide the width {self.width}; the nearest that do: {nearest}")
        if self.attention == "axial":
            if self.has_token:
                raise ValueError(f"axial attention has no class token: the head {self.head} cannot be; valid: gap, map")
            if self.position == "relative":
                raise ValueError(
                    "relative positions need global attention; beside axial attention valid are learned-1d, learned-2d,"
                    " sincos-2d and none"
                )
        part = {"learned-2d": 2, "sincos-2d": 4}.get(self.position, 1)
        if self.width % part:
            raise ValueError(f"{self.position} positions need a width that {part} divides, and {self.width} is none")
        if self.position_at != "stem" and not self.position.startswith("learned"):
            raise ValueError(
                f"position_at: {self.position_at} is for learned-1d and learned-2d, not for {self.position}"
            )
        if self.code != "vision-transformer" and self.position != "learned-1d":
            raise ValueError(f"code: {self.code} has no effect on {self.position} positions, only on learned-1d")
        return self


class ResNet(Frozen):
    """A ResNet with group normalization and weight standardization (Big Transfer, arXiv:1912.11370v3)."""

    kind: Literal["resnet"] = "resnet"
    blocks: Listed[PositiveInt]
    """Bottleneck units in each stage; every stage but the first halves the resolution. No stage: the root alone."""
    width: PositiveInt = 64
    """Channels of the root. Stage s has width * 2**s inside its bottlenecks and four times that at its end."""
    root: Literal["7x7", "3x3"] = "7x7"
    """`7x7`: stride 2 and a stride-2 max pool, as published; `3x3`: stride 1, no pool, for images of a few pixels."""
    groups: PositiveInt = 32
    form: Literal["pre-activation", "post-activation"] = "pre-activation"
    """`pre-activation`: ResNet-v2, as in Big Transfer; `post-activation`: ResNet-v1, as in the hybrids that
    vision_transformer and big_vision released."""
    mixing: Literal["convolution", "axial"] = "convolution"
    """What mixes pixels inside a bottleneck: a 3x3 convolution, or attention within columns and then within rows with
    relative positions (arXiv:2003.07853, as in arXiv:2010.11929v2, D.6)."""

    @validator(mode="after")
    def _is_possible(self) -> "ResNet":
        if self.width % self.groups:
            raise ValueError(f"{self.groups} normalization groups do not divide the width {self.width}")
        if self.mixing == "axial":
            if not self.blocks:
                raise ValueError("axial mixing has no effect on a ResNet without blocks")
            if self.form == "post-activation":
                raise ValueError("axial mixing is for the pre-activation form")
            if self.width % (2 * AXIAL_HEADS):
                raise ValueError(f"axial mixing needs a width that {2 * AXIAL_HEADS} divides, and {self.width} is none")
        return self

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of the feature map, along one side."""
        return (4 if self.root == "7x7" else 1) << max(0, len(self.blocks) - 1)

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return 4 * self.width << (len(self.blocks) - 1) if self.blocks else self.width


AXIAL_HEADS = 8
"""Heads of the axial attention inside a ResNet's bottleneck (axial-deeplab's `groups`)."""


class Hybrid(Frozen):
    """A ResNet whose feature map, cut into patches, is the input of a ViT (arXiv:2010.11929v2, section 3.1)."""

    kind: Literal["hybrid"] = "hybrid"
    body: ResNet
    vit: ViT

    @validator(mode="after")
    def _is_possible(self) -> "Hybrid":
        if self.body.mixing == "axial":
            raise ValueError("a hybrid's ResNet mixes by convolution; axial mixing is for a ResNet alone")
        return self


class MaskedPatch(Frozen):
    """A ViT that predicts what was under corrupted patches (arXiv:2010.11929v2, section 4.6 and B.1.2).

    Of the corrupted patches 80 % become a learned embedding, 10 % another random patch's, and 10 % stay.
    """

    kind: Literal["masked-patch"] = "masked-patch"
    vit: ViT
    target: Literal["mean-color", "small-colors", "pixels"] = "mean-color"
    """`mean-color`: one of 512, the patch's mean with 3 bits a channel; `small-colors`: 16 such, for the patch reduced
    to 4x4; `pixels`: the values themselves, by squared error."""
    corrupted: Share = 0.5
    """Share of the patches that are corrupted and predicted."""

    @validator(mode="after")
    def _is_possible(self) -> "MaskedPatch":
        if self.target == "small-colors" and self.vit.patch % 4:
            raise ValueError(f"small-colors needs patches that 4 divides, not of {self.vit.patch} pixels")
        if self.vit.head != "token":
            raise ValueError(
                f"masked patches are read from their own tokens: give the ViT the head token, not {self.vit.head}"
            )
        return self


Classifier = Annotated[ViT | ResNet | Hybrid, Field(discriminator="kind")]
Model = Annotated[ViT | ResNet | Hybrid | MaskedPatch, Field(discriminator="kind")]
AnyModel = ViT | ResNet | Hybrid | MaskedPatch


def transformer_of(model: ViT | Hybrid | MaskedPatch) -> ViT:
    """The transformer of a model that has one."""
    return model if isinstance(model, ViT) else model.vit


def fine_tuned(model: AnyModel) -> ViT | ResNet | Hybrid:
    """The model that is fine-tuned after the pre-training of this one: without the tanh layer, where it has one."""
    if isinstance(model, MaskedPatch):
        return model.vit
    if isinstance(model, Hybrid):
        return model.model_copy(update={"vit": fine_tuned(model.vit)})
    if isinstance(model, ViT) and model.head == "token-tanh":
        return model.model_copy(update={"head": "token"})
    return model


def check_fits(model: AnyModel, image_size: int) -> None:
    """Raise ValueError when the model's patches do not tile a square image of this size."""
    if isinstance(model, ResNet):
        return
    if isinstance(model, MaskedPatch):
        model = model.vit
    body = model.body if isinstance(model, Hybrid) else None
    patch = model.vit.patch if isinstance(model, Hybrid) else model.patch
    side = image_size // body.stride if body else image_size
    if body and image_size % body.stride:
        raise ValueError(f"the ResNet's total stride of {body.stride} does not divide the image of {image_size} pixels")
    if side % patch:
        what = f"the feature map of {side} pixels" if body else f"the image of {image_size} pixels"
        valid = [n for n in range(1, side + 1) if side % n == 0]
        raise ValueError(f"patches of {patch} pixels do not divide {what}; these do: {', '.join(map(str, valid))}")
