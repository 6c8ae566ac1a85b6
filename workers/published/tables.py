"""The names of published weights, one table for each convention and kind of model, and which one a file has.

Sources: google-research/vision_transformer (vit_jax/models_vit.py, models_resnet.py), google-research/big_transfer
(bit_pytorch/models.py), timm 1.0 (vision_transformer.py, resnetv2.py, vision_transformer_hybrid.py), and Hugging Face
transformers (modeling_vit.py, modeling_bit.py, convert_vit_hybrid_timm_to_pytorch.py).
"""

from collections.abc import Collection

from workers.published import layouts
from workers.published.conventions import Convention, FormatError, Row, Table
from workers.published.layouts import Leaves


def _below(prefix: str, table: Table) -> Table:
    return {f"{prefix}{ours}": row for ours, row in table.items()}


def _unit_table(
    place: str, convs: tuple[str, str, str], norms: tuple[str, str, str], conv: Leaves, norm: Leaves
) -> dict[str, Row]:
    """The three convolutions and normalizations of a bottleneck."""
    rows: dict[str, Row] = {}
    for number, (conv_name, norm_name) in enumerate(zip(convs, norms, strict=True), start=1):
        rows[f"body.units.{{unit}}.conv{number}"] = (place + conv_name, conv)
        rows[f"body.units.{{unit}}.norm{number}"] = (place + norm_name, norm)
    return rows


_BLOCK = "Transformer/encoderblock_{block}/"
_ATTENTION = f"{_BLOCK}MultiHeadDotProductAttention_1/"
_GOOGLE_VIT: Table = {
    "embed": ("embedding", layouts.FLAX_CONV),
    "cls_1D": ("cls", layouts.WITH_BATCH),
    "position_TD": ("Transformer/posembed_input/pos_embedding", layouts.WITH_BATCH),
    "blocks.{block}.norm1": (f"{_BLOCK}LayerNorm_0", layouts.FLAX_NORM),
    "blocks.{block}.qkv": (
        (f"{_ATTENTION}query", f"{_ATTENTION}key", f"{_ATTENTION}value"),
        layouts.FLAX_TO_HEADS,
    ),
    "blocks.{block}.out": (f"{_ATTENTION}out", layouts.FLAX_FROM_HEADS),
    "blocks.{block}.norm2": (f"{_BLOCK}LayerNorm_2", layouts.FLAX_NORM),
    "blocks.{block}.mlp1": (f"{_BLOCK}MlpBlock_3/Dense_0", layouts.FLAX_DENSE),
    "blocks.{block}.mlp2": (f"{_BLOCK}MlpBlock_3/Dense_1", layouts.FLAX_DENSE),
    "norm": ("Transformer/encoder_norm", layouts.FLAX_NORM),
    "pre_logits": ("pre_logits", layouts.FLAX_DENSE),
    "head": ("head", layouts.FLAX_DENSE),
}

_GOOGLE_UNIT = "block{stage1}/unit{unit1}/"
_GOOGLE_HYBRID: Table = {
    **_below("vit.", _GOOGLE_VIT),
    "body.root": ("conv_root", layouts.FLAX_CONV),
    "body.root_norm": ("gn_root", layouts.FLAX_NORM),
    **_unit_table(
        _GOOGLE_UNIT, ("conv1", "conv2", "conv3"), ("gn1", "gn2", "gn3"), layouts.FLAX_CONV, layouts.FLAX_NORM
    ),
    "body.units.{unit}.project": (f"{_GOOGLE_UNIT}conv_proj", layouts.FLAX_CONV),
    "body.units.{unit}.project_norm": (f"{_GOOGLE_UNIT}gn_proj", layouts.FLAX_NORM),
}

_BIT_UNIT = "resnet/block{stage1}/unit{unit1:02d}/"
_BIT: Table = {
    "body.root": ("resnet/root_block", layouts.BIT_CONV),
    **_unit_table(_BIT_UNIT, ("a", "b", "c"), ("a", "b", "c"), layouts.BIT_CONV, layouts.BIT_NORM),
    "body.units.{unit}.project": (f"{_BIT_UNIT}a/proj", layouts.BIT_CONV),
    "body.norm": ("resnet", layouts.BIT_NORM),
    "head": ("resnet/head", layouts.BIT_HEAD),
}

_TIMM_VIT: Table = {
    "embed": ("patch_embed.proj", layouts.AS_TORCH),
    "cls_1D": ("cls_token", layouts.WITH_BATCH),
    "position_TD": ("pos_embed", layouts.WITH_BATCH),
    "blocks.{block}.norm1": ("blocks.{block}.norm1", layouts.AS_TORCH),
    "blocks.{block}.qkv": ("blocks.{block}.attn.qkv", layouts.AS_TORCH),
    "blocks.{block}.out": ("blocks.{block}.attn.proj", layouts.AS_TORCH),
    "blocks.{block}.norm2": ("blocks.{block}.norm2", layouts.AS_TORCH),
    "blocks.{block}.mlp1": ("blocks.{block}.mlp.fc1", layouts.AS_TORCH),
    "blocks.{block}.mlp2": ("blocks.{block}.mlp.fc2", layouts.AS_TORCH),
    "norm": ("norm", layouts.AS_TORCH),
    "pool.probe_1D": ("attn_pool.latent", layouts.WITH_BATCH),
    "pool.q": ("attn_pool.q", layouts.AS_TORCH),
    "pool.kv": ("attn_pool.kv", layouts.AS_TORCH),
    "pool.out": ("attn_pool.proj", layouts.AS_TORCH),
    "pool.norm": ("attn_pool.norm", layouts.AS_TORCH),
    "pool.mlp1": ("attn_pool.mlp.fc1", layouts.AS_TORCH),
    "pool.mlp2": ("attn_pool.mlp.fc2", layouts.AS_TORCH),
    "head": ("head", layouts.AS_TORCH),
}


def _torch_body(root: str, root_norm: str, unit: str) -> Table:
    """A ResNet of either form, as timm and Hugging Face name the tensors of its units."""
    convs, norms = ("conv1", "conv2", "conv3"), ("norm1", "norm2", "norm3")
    return {
        "body.root": (root, layouts.AS_TORCH),
        "body.root_norm": (root_norm, layouts.AS_TORCH),
        **_unit_table(unit, convs, norms, layouts.AS_TORCH, layouts.AS_TORCH),
        "body.units.{unit}.project": (f"{unit}downsample.conv", layouts.AS_TORCH),
        "body.units.{unit}.project_norm": (f"{unit}downsample.norm", layouts.AS_TORCH),
    }


_TIMM_RESNET: Table = {
    **_torch_body("stem.conv", "stem.norm", "stages.{stage}.blocks.{unit}."),
    "body.norm": ("norm", layouts.AS_TORCH),
    "head": ("head.fc", layouts.AS_TORCH_1X1),
}
_TIMM_BACKBONE = "patch_embed.backbone."
_TIMM_HYBRID: Table = {
    **_below("vit.", _TIMM_VIT),
    **_torch_body(
        f"{_TIMM_BACKBONE}stem.conv",
        f"{_TIMM_BACKBONE}stem.norm",
        _TIMM_BACKBONE + "stages.{stage}.blocks.{unit}.",
    ),
}
_TIMM_ROOT_HYBRID: Table = {
    **_below("vit.", _TIMM_VIT),
    "body.root": (f"{_TIMM_BACKBONE}conv", layouts.AS_TORCH),
    "body.root_norm": (f"{_TIMM_BACKBONE}norm", layouts.AS_TORCH),
}

_LAYER = "encoder.layer.{block}."
_HF_ATTENTION = f"{_LAYER}attention.attention."
_HF_VIT: Table = {
    "embed": ("embeddings.patch_embeddings.projection", layouts.AS_TORCH),
    "cls_1D": ("embeddings.cls_token", layouts.WITH_BATCH),
    "position_TD": ("embeddings.position_embeddings", layouts.WITH_BATCH),
    "blocks.{block}.norm1": (f"{_LAYER}layernorm_before", layouts.AS_TORCH),
    "blocks.{block}.qkv": (
        (f"{_HF_ATTENTION}query", f"{_HF_ATTENTION}key", f"{_HF_ATTENTION}value"),
        layouts.AS_TORCH,
    ),
    "blocks.{block}.out": (f"{_LAYER}attention.output.dense", layouts.AS_TORCH),
    "blocks.{block}.norm2": (f"{_LAYER}layernorm_after", layouts.AS_TORCH),
    "blocks.{block}.mlp1": (f"{_LAYER}intermediate.dense", layouts.AS_TORCH),
    "blocks.{block}.mlp2": (f"{_LAYER}output.dense", layouts.AS_TORCH),
    "norm": ("layernorm", layouts.AS_TORCH),
    "pre_logits": ("pooler.dense", layouts.AS_TORCH),
    "head": ("classifier", layouts.AS_TORCH),
}
_HF_RESNET: Table = {
    **_torch_body("embedder.convolution", "embedder.norm", "encoder.stages.{stage}.layers.{unit}."),
    "body.norm": ("norm", layouts.AS_TORCH),
    "head": ("classifier.1", layouts.AS_TORCH),
}
_HF_BACKBONE = "embeddings.patch_embeddings.backbone.bit."
_HF_HYBRID: Table = {
    **_below("vit.", _HF_VIT),
    **_torch_body(
        f"{_HF_BACKBONE}embedder.convolution",
        f"{_HF_BACKBONE}embedder.norm",
        _HF_BACKBONE + "encoder.stages.{stage}.layers.{unit}.",
    ),
}

# Older files of vision_transformer keep the optimizer's tree around the weights.
_GOOGLE_PREFIXES = ("", "opt/target/")


def _google(kind: str, signature: str, table: Table) -> Convention:
    return Convention("vision_transformer", kind, signature, table, _GOOGLE_PREFIXES)


def _timm(kind: str, signature: str, table: Table) -> Convention:
    return Convention("timm", kind, signature, table)


def _huggingface(kind: str, prefix: str, signature: str, table: Table) -> Convention:
    return Convention("huggingface", kind, signature, table, ("", prefix), ("classifier",))


TIMM_VIT = _timm("vit", "patch_embed.proj.weight", _TIMM_VIT)
TIMM_RESNET = _timm("resnet", "stem.conv.weight", _TIMM_RESNET)
TIMM_HYBRID = _timm("hybrid", f"{_TIMM_BACKBONE}stem.conv.weight", _TIMM_HYBRID)
TIMM_ROOT_HYBRID = _timm("hybrid", f"{_TIMM_BACKBONE}conv.weight", _TIMM_ROOT_HYBRID)

CONVENTIONS = (  # a hybrid has its transformer's names too, and so comes before it
    _google("hybrid", "conv_root/kernel", _GOOGLE_HYBRID),
    _google("vit", "embedding/kernel", _GOOGLE_VIT),
    Convention("big_transfer", "resnet", "resnet/root_block/standardized_conv2d/kernel", _BIT),
    TIMM_HYBRID,
    TIMM_ROOT_HYBRID,
    TIMM_VIT,
    TIMM_RESNET,
    _huggingface("hybrid", "vit.", f"{_HF_BACKBONE}embedder.convolution.weight", _HF_HYBRID),
    _huggingface("vit", "vit.", "embeddings.patch_embeddings.projection.weight", _HF_VIT),
    _huggingface("resnet", "bit.", "embedder.convolution.weight", _HF_RESNET),
)


def recognized(names: Collection[str]) -> tuple[Convention, str]:
    """The convention of these names, and what stands before each.

    Raises FormatError when no convention has such names.
    """
    for convention in CONVENTIONS:
        prefix = convention.prefix_in(names)
        if prefix is not None:
            return convention, prefix
    listed = ", ".join(sorted(names)[:4]) or "none at all"
    signatures = ", ".join(dict.fromkeys(each.signature for each in CONVENTIONS))
    raise FormatError(f"its names are of no known convention: it has {listed}; known ones have one of {signatures}")
