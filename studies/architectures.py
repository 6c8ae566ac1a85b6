"""Named architectures: `ViT-B/16`, `R50x1`, `R50+ViT-B/16`, `Axial-ViT-B/16` and the shapes behind them.

Sources: arXiv:2010.11929v2 Table 1, sections 4.1 and D.6, arXiv:2106.04560v2 Table 2 (s, g, G), and the sizes released
with both (Ti, S, M, So400m). A study may add shapes of its own; they are then named in the same way.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from pydantic import Field, PositiveInt

from studies.frozen import Frozen, Listed
from studies.models import AnyModel, Head, Hybrid, MaskedPatch, ResNet, ViT


class Encoder(Frozen):
    """A transformer's shape without its patch size: what `B` means in `ViT-B/16`."""

    width: PositiveInt
    depth: PositiveInt
    mlp: PositiveInt
    heads: PositiveInt


class Body(Frozen):
    """A ResNet's shape without its width factor: what `R50` means in `R50x1`."""

    blocks: Listed[PositiveInt]
    width: PositiveInt = 64
    root: Literal["7x7", "3x3"] = "7x7"
    groups: PositiveInt = 32


class Shapes(Frozen):
    """Shapes by name."""

    ViT: Mapping[str, Encoder] = Field(default_factory=dict)
    ResNet: Mapping[str, Body] = Field(default_factory=dict)

    def with_published(self) -> "Shapes":
        """These shapes and the published ones; a published name keeps its meaning."""
        for name in sorted((self.ViT.keys() & PUBLISHED.ViT.keys()) | (self.ResNet.keys() & PUBLISHED.ResNet.keys())):
            raise ValueError(f"'{name}' is a published shape; choose another name for your own")
        return Shapes(ViT={**PUBLISHED.ViT, **self.ViT}, ResNet={**PUBLISHED.ResNet, **self.ResNet})


def _encoder(width: int, depth: int, mlp: int, heads: int) -> Encoder:
    return Encoder(width=width, depth=depth, mlp=mlp, heads=heads)


PUBLISHED = Shapes(
    ViT={
        "s": _encoder(256, 6, 1024, 8),
        "Ti": _encoder(192, 12, 768, 3),
        "S": _encoder(384, 12, 1536, 6),
        "M": _encoder(512, 12, 2048, 8),
        "B": _encoder(768, 12, 3072, 12),
        "L": _encoder(1024, 24, 4096, 16),
        "H": _encoder(1280, 32, 5120, 16),
        "So400m": _encoder(1152, 27, 4304, 16),
        "g": _encoder(1408, 40, 6144, 16),
        "G": _encoder(1664, 48, 8192, 16),
    },
    ResNet={
        "R": Body(blocks=()),  # the root alone, as in R+ViT-Ti/16
        "R26": Body(blocks=(2, 2, 2, 2)),
        "R50": Body(blocks=(3, 4, 6, 3)),
        "R101": Body(blocks=(3, 4, 23, 3)),
        "R152": Body(blocks=(3, 8, 36, 3)),
        "R200": Body(blocks=(3, 24, 36, 3)),
    },
)

ShapeT = TypeVar("ShapeT", Encoder, Body)

_VIT = re.compile(r"^(?P<axial>Axial-)?ViT-(?P<size>[A-Za-z][\w.]*)/(?P<patch>[1-9]\d*)$")
_RESNET = re.compile(r"^(?P<body>[A-Za-z][\w.]*?)x(?P<factor>[1-9]\d*)$")
_AXIAL_RESNET = re.compile(r"^AxialResNet-(?P<depth>[1-9]\d*)$")
_HYBRID = re.compile(r"^(?P<body>[A-Za-z][\w.]*)\+ViT-(?P<size>[A-Za-z][\w.]*)/(?P<total>[1-9]\d*)$")
_TRANSFORMERS = ("ViT", "Axial-ViT")


def compose(architecture: str, size: str | None, patch: int | None) -> str:
    """The name that the parts make: `ViT`, `B`, 16 -> `ViT-B/16`; `R50`, `x2`, None -> `R50x2`.

    Raises ValueError when one that the architecture needs is missing, or one is given that it does not have.
    """
    if architecture in _TRANSFORMERS or architecture.endswith("+ViT"):
        if size is None or patch is None:
            raise ValueError(f"'{architecture}' needs a size and a patch, as in {architecture}-B/16")
        return f"{architecture}-{size}/{patch}"
    if size is None:
        raise ValueError(f"'{architecture}' needs a width factor as its size, as in size: x1")
    if patch is not None:
        raise ValueError(f"'{architecture}' is a ResNet and has no patch size")
    return f"{architecture}{size}"


def named(name: str, head: Head | None = None, shapes: Shapes = PUBLISHED) -> ViT | ResNet | Hybrid:
    """The model behind a name.

    head: the head of a transformer, by default that of the first paper; a ResNet has none to choose.
    shapes: what the parts of names mean.
    Raises ValueError with the nearest valid name when there is no such model.
    """
    if match := _HYBRID.match(name):
        body = ResNet(**_pick(shapes.ResNet, match["body"], "ResNet").model_dump())
        encoder = _pick(shapes.ViT, match["size"], "ViT size")
        body, patch = _with_total_stride(body, int(match["total"]), name)
        return Hybrid(body=body, vit=ViT(patch=patch, head=head or "token-tanh", **encoder.model_dump()))
    if match := _VIT.match(name):
        encoder = _pick(shapes.ViT, match["size"], "ViT size")
        # Axial-ViT has no class token: so the FLOPs of the paper's Figure 13 are met within 0.1 %.
        usual: Head = "gap" if match["axial"] else "token-tanh"
        return ViT(
            patch=int(match["patch"]),
            head=head or usual,
            attention="axial" if match["axial"] else "global",
            **encoder.model_dump(),
        )
    if match := _AXIAL_RESNET.match(name):
        fields = _pick(shapes.ResNet, f"R{match['depth']}", "ResNet").model_dump()
        return ResNet(**fields, mixing="axial")
    if match := _RESNET.match(name):
        fields = _pick(shapes.ResNet, match["body"], "ResNet").model_dump()
        if not fields["blocks"]:
            raise ValueError(f"'{name}': {match['body']} has no blocks; it is a part of hybrids, as in R+ViT-Ti/16")
        return ResNet(**{**fields, "width": fields["width"] * int(match["factor"])})
    raise ValueError(f"'{name}' is no architecture{nearest(name, _examples(shapes))}")


def altered_fields(model: ViT | ResNet | Hybrid, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The model's fields with some replaced: `{"position": "none"}`, or in a hybrid `{"vit": {"head": "map"}}`."""
    return _merged(model.model_dump(), fields)


Family = Literal["ViT", "ResNet", "Hybrid", "Axial-ViT", "AxialResNet", "Masked-ViT"]


def family_of(model: AnyModel) -> Family:
    """The family whose frontier the model is on, as the first paper names them."""
    if isinstance(model, MaskedPatch):
        return "Masked-ViT"
    if isinstance(model, ViT):
        return "ViT" if model.attention == "global" else "Axial-ViT"
    if isinstance(model, ResNet):
        return "ResNet" if model.mixing == "convolution" else "AxialResNet"
    return "Hybrid"


def describe(model: AnyModel) -> str:
    """A short name for a shape that was written out: `vit 64x4 mlp 256 heads 4 /2`."""
    if isinstance(model, MaskedPatch):
        return f"{describe(model.vit)} masked={model.target}"
    if isinstance(model, ViT):
        name = f"vit {model.width}x{model.depth} mlp {model.mlp} heads {model.heads} /{model.patch}"
        return name + _choices(model, ("attention", "position", "position_at", "gelu", "code"))
    if isinstance(model, ResNet):
        name = f"resnet {'-'.join(map(str, model.blocks)) or 'root'} width {model.width}"
        return name + _choices(model, ("form", "mixing"))
    return f"{describe(model.body)} + {describe(model.vit)}"


def describe_alterations(fields: Mapping[str, Any]) -> str:
    """What was replaced, as the tail of a name: ` head=map position=none`."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return "".join(f" {name}={value}" for name, value in sorted(flat.items()))


def nearest(wrong: str, valid: Mapping[str, object] | list[str]) -> str:
    """The tail of an error message that offers the nearest valid name, or all when none is near and they are few."""
    names = list(valid)
    lower = {name.lower(): name for name in reversed(names)}
    near = get_close_matches(wrong, names, n=1, cutoff=0.5) or [
        lower[name] for name in get_close_matches(wrong.lower(), lower, n=1, cutoff=0.5)
    ]
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; valid: {', '.join(names)}" if len(names) <= 16 else ""


def _pick(table: Mapping[str, ShapeT], name: str, what: str) -> ShapeT:
    if name not in table:
        raise ValueError(f"'{name}' is no {what}{nearest(name, list(table))}")
    return table[name]


def _merged(fields: Mapping[str, Any], replaced: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(fields)
    for name, value in replaced.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _choices(model: ViT | ResNet, names: tuple[str, ...]) -> str:
    """Those of the fields that are not as usual."""
    given = {name: getattr(model, name) for name in names}
    usual = type(model).model_fields
    return "".join(f" {value}" for name, value in given.items() if value != usual[name].default)


def _with_total_stride(body: ResNet, total: int, name: str) -> tuple[ResNet, int]:
    """The body and the patch size that together reduce the resolution by `total` (the number in a hybrid's name).

    At half the body's stride, the last stage goes and its units join the stage before it (section 4.1).
    """
    if not body.blocks and total == 16:
        # R+ViT-Ti/16 was released under this name with 8x8 patches of a root of stride 4: a reduction by 32.
        return body, 8
    if total % body.stride == 0:
        return body, total // body.stride
    if total * 2 == body.stride and len(body.blocks) > 1:
        *head, before, last = body.blocks
        return body.model_copy(update={"blocks": (*head, before + last)}), 1
    raise ValueError(
        f"'{name}': the ResNet reduces by {body.stride}, so /{body.stride // 2} or /{body.stride} are valid"
    )


def _examples(shapes: Shapes) -> list[str]:
    vits = [f"{kind}-{size}/{patch}" for kind in _TRANSFORMERS for size in shapes.ViT for patch in (14, 16, 32)]
    resnets = [f"{body}x{factor}" for body in shapes.ResNet for factor in (1, 2)]
    axial = [f"AxialResNet-{body[1:]}" for body in PUBLISHED.ResNet if body[1:]]
    return (
        vits
        + resnets
        + axial
        + [f"{body}+ViT-{size}/{total}" for body in shapes.ResNet for size in shapes.ViT for total in (16, 32)]
    )
