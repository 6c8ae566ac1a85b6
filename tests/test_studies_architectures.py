"""Names of architectures: the members of both papers, the shapes behind them, what is said of names that are none."""

import pytest
from pydantic import ValidationError

from studies.architectures import PUBLISHED, Encoder, Shapes, compose, describe, family_of, named
from studies.models import Hybrid, MaskedPatch, ResNet, ViT


@pytest.mark.parametrize(
    ("name", "width", "depth", "mlp", "heads"),
    [
        ("ViT-Ti/16", 192, 12, 768, 3),
        ("ViT-S/32", 384, 12, 1536, 6),
        ("ViT-M/16", 512, 12, 2048, 8),
        ("ViT-B/16", 768, 12, 3072, 12),
        ("ViT-L/16", 1024, 24, 4096, 16),
        ("ViT-H/14", 1280, 32, 5120, 16),
        ("ViT-s/28", 256, 6, 1024, 8),
        ("ViT-g/14", 1408, 40, 6144, 16),
        ("ViT-G/14", 1664, 48, 8192, 16),
        ("ViT-So400m/14", 1152, 27, 4304, 16),
    ],
)
def test_the_sizes_are_those_of_the_papers_and_their_code(
    name: str, width: int, depth: int, mlp: int, heads: int
) -> None:
    patch = int(name.split("/")[1])
    assert named(name) == ViT(patch=patch, width=width, depth=depth, mlp=mlp, heads=heads, head="token-tanh")


def test_a_hybrid_of_half_the_stride_moves_its_last_stage_into_the_one_before() -> None:
    whole, moved = named("R50+ViT-L/32"), named("R50+ViT-L/16")
    assert isinstance(whole, Hybrid)
    assert isinstance(moved, Hybrid)
    assert (whole.body.blocks, whole.body.stride, whole.vit.patch) == ((3, 4, 6, 3), 32, 1)
    assert (moved.body.blocks, moved.body.stride, moved.vit.patch) == ((3, 4, 9), 16, 1)


def test_the_released_r_vit_ti_16_is_a_root_and_patches_of_8_pixels() -> None:
    model = named("R+ViT-Ti/16")
    assert isinstance(model, Hybrid)
    assert (model.body.blocks, model.body.stride, model.body.channels, model.vit.patch) == ((), 4, 64, 8)


def test_axial_members_have_their_names_families_and_no_class_token() -> None:
    vit, resnet = named("Axial-ViT-B/32"), named("AxialResNet-50")
    assert isinstance(vit, ViT)
    assert isinstance(resnet, ResNet)
    assert (vit.attention, vit.head, vit.patch) == ("axial", "gap", 32)
    assert (resnet.mixing, resnet.blocks) == ("axial", (3, 4, 6, 3))
    assert (family_of(vit), family_of(resnet)) == ("Axial-ViT", "AxialResNet")
    assert compose("Axial-ViT", "B", 32) == "Axial-ViT-B/32"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ViT-X/16", "'X' is no ViT size; valid: s, Ti, S, M, B, L, H, So400m, g, G"),
        ("R51x1", "'R51' is no ResNet; did you mean 'R50'?"),
        ("vit-b/16", "'vit-b/16' is no architecture; did you mean 'ViT-"),
        ("R50+ViT-B/8", "the ResNet reduces by 32, so /16 or /32 are valid"),
        ("Rx1", "R has no blocks; it is a part of hybrids, as in R+ViT-Ti/16"),
        ("AxialResNet-51", "'R51' is no ResNet"),
        ("AxialResNet50", "'AxialResNet50' is no architecture; did you mean 'AxialResNet-50'?"),
    ],
)
def test_a_name_that_is_none_is_answered_with_the_valid_ones(name: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the text is the point
        named(name)
    assert said in str(raised.value)


SMALL = {"patch": 4, "width": 36, "depth": 1, "mlp": 8, "heads": 3}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"heads": 5}, "5 heads do not divide the width 36; the nearest that do: 4"),
        ({"depth": 0}, "greater than 0"),
        ({"head": "cls"}, "'token-tanh', 'token', 'gap' or 'map'"),
        ({"width": 38, "heads": 2, "position": "sincos-2d"}, "a width that 4 divides, and 38 is none"),
        ({"width": 37, "heads": 1, "position": "learned-2d"}, "a width that 2 divides, and 37 is none"),
        (
            {"position": "sincos-2d", "position_at": "layers"},
            "position_at: layers is for learned-1d and learned-2d, not for sincos-2d",
        ),
        ({"position": "none", "code": "big-vision"}, "code: big-vision has no effect on none positions"),
        ({"attention": "axial", "head": "token"}, "valid: gap, map"),
        ({"attention": "axial", "head": "gap", "position": "relative"}, "relative positions need global attention"),
    ],
)
def test_an_impossible_transformer_is_refused_with_the_valid_choices(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ViT.model_validate({**SMALL, **fields})
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": 48}, "32 normalization groups do not divide the width 48"),
        ({"blocks": (2, 0)}, "greater than 0"),
        ({"blocks": (), "mixing": "axial"}, "no effect on a ResNet without blocks"),
        ({"form": "post-activation", "mixing": "axial"}, "axial mixing is for the pre-activation form"),
        ({"width": 8, "groups": 4, "mixing": "axial"}, "a width that 16 divides, and 8 is none"),
    ],
)
def test_an_impossible_resnet_is_refused_with_the_reason(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ResNet.model_validate({"blocks": (1, 1), "width": 64, **fields})
    assert said in str(raised.value)


def test_an_axial_resnet_is_no_part_of_a_hybrid() -> None:
    vit = ViT.model_validate({**SMALL, "patch": 1})
    with pytest.raises(ValidationError, match="axial mixing is for a ResNet alone"):
        Hybrid(body=ResNet(blocks=(1,), mixing="axial"), vit=vit)


def test_masked_patches_need_tokens_of_their_own_and_a_patch_that_4_divides() -> None:
    with pytest.raises(ValidationError, match="give the ViT the head token, not gap"):
        MaskedPatch(vit=ViT.model_validate({**SMALL, "head": "gap"}))
    with pytest.raises(ValidationError, match="patches that 4 divides, not of 6 pixels"):
        MaskedPatch(vit=ViT.model_validate({**SMALL, "patch": 6, "head": "token"}), target="small-colors")


def test_a_shape_of_ones_own_is_named_like_the_published_ones_and_cannot_take_their_names() -> None:
    own = Shapes(ViT={"xs": Encoder(width=32, depth=2, mlp=64, heads=2)})
    assert named("ViT-xs/2", shapes=own.with_published()) == ViT(patch=2, width=32, depth=2, mlp=64, heads=2)
    with pytest.raises(ValueError, match="'B' is a published shape"):
        Shapes(ViT={"B": PUBLISHED.ViT["s"]}).with_published()


def test_a_shape_that_was_written_out_is_described_by_its_sizes_and_what_is_unusual_about_it() -> None:
    assert describe(ViT.model_validate(SMALL)) == "vit 36x1 mlp 8 heads 3 /4"
    assert describe(ViT.model_validate({**SMALL, "position": "none"})) == "vit 36x1 mlp 8 heads 3 /4 none"
    assert describe(ResNet(blocks=(1, 2), form="post-activation")) == "resnet 1-2 width 64 post-activation"
