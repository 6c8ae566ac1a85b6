"""Parameters and multiply-adds of transformers on a grid of rows x columns patches; `cost.py` is the way in.

Sources: arXiv:2010.11929v2, section 3.1, D.3 (heads), D.4 (positions) and D.6 (axial); arXiv:2106.04560v2, section 3.2
(attention pooling); B.1.2 of the former for masked patches.
"""

from studies.models import MaskedPatch, ViT

COLORS = 8
"""Levels of a channel in a predicted colour: 3 bits, so 512 colours of three channels."""
SMALL_COLORS = 16
"""Colours of a patch that was reduced to 4x4."""


def parameters(model: ViT, rows: int, columns: int, channels: int, classes: int) -> int:
    """Trainable parameters, classifier included."""
    width = model.width
    pooling = 0
    if model.head == "token-tanh":
        pooling = _linear(width, width)
    elif model.head == "map":
        probe, norm = width, 2 * width
        pooling = probe + 4 * _linear(width, width) + norm + _mlp(width, model.mlp)
    return _encoder(model, rows, columns, channels) + pooling + _linear(width, classes)


def masked_parameters(model: MaskedPatch, rows: int, columns: int, channels: int) -> int:
    """Trainable parameters: no classifier, but the mask's embedding and a layer that predicts."""
    vit = model.vit
    mask = vit.width
    return _encoder(vit, rows, columns, channels) + mask + _linear(vit.width, predictions(model, channels))


def macs(model: ViT, rows: int, columns: int, channels: int, classes: int) -> int:
    """Multiply-adds of one image, classifier included."""
    width, tokens = model.width, rows * columns + model.has_token
    pooling = 0
    if model.head == "token-tanh":
        pooling = width * width
    elif model.head == "map":
        queries_and_output, keys_and_values = 2 * width * width, 2 * tokens * width * width
        pooling = queries_and_output + keys_and_values + 2 * tokens * width + 2 * width * model.mlp
    return _encoder_macs(model, rows, columns, channels) + pooling + width * classes


def masked_macs(model: MaskedPatch, rows: int, columns: int, channels: int) -> int:
    """Multiply-adds of one image: predictions are made at corrupted patches only."""
    vit = model.vit
    predict = corrupted(model.corrupted, rows * columns) * vit.width * predictions(model, channels)
    return _encoder_macs(vit, rows, columns, channels) + predict


def corrupted(share: float, patches: int) -> int:
    """Of so many patches of an image those that are corrupted and predicted."""
    return round(share * patches)


def predictions(model: MaskedPatch, channels: int) -> int:
    """Outputs at each corrupted patch: logits of colours, or the values of pixels."""
    if model.target == "pixels":
        return channels * model.vit.patch * model.vit.patch
    colors: int = COLORS**channels
    return colors * (SMALL_COLORS if model.target == "small-colors" else 1)


# --------------------------------------------------------------------------------------------------------- the encoder


def _encoder(model: ViT, rows: int, columns: int, channels: int) -> int:
    """Parameters up to the last normalization."""
    width = model.width
    token = width if model.has_token else 0
    norm = 2 * width
    block = 2 * norm + 4 * _linear(width, width) + _mlp(width, model.mlp)
    if model.attention == "axial":
        block *= 2
    embed = _linear(channels * model.patch**2, width)
    return embed + token + _positions(model, rows, columns) + model.depth * block + norm


def _positions(model: ViT, rows: int, columns: int) -> int:
    patches = rows * columns
    if model.position == "learned-1d":
        table = (patches + (model.has_token and model.code == "vision-transformer")) * model.width
    elif model.position == "learned-2d":
        table = (rows + columns) * (model.width // 2)
    elif model.position == "relative":
        return model.depth * (2 * (patches + model.has_token) - 1) * model.width
    else:
        return 0
    return table * (model.depth if model.position_at == "layers" else 1)


def _encoder_macs(model: ViT, rows: int, columns: int, channels: int) -> int:
    width, patches = model.width, rows * columns
    tokens = patches + model.has_token
    linears = tokens * (4 * width * width + 2 * width * model.mlp)
    if model.attention == "axial":
        block = 2 * linears + 2 * patches * (rows + columns) * width
    else:
        block = linears + 2 * tokens * tokens * width
        if model.position == "relative":
            block += tokens * (2 * tokens - 1) * width
    embed = patches * channels * model.patch**2 * width
    return embed + model.depth * block


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def _mlp(width: int, hidden: int) -> int:
    return _linear(width, hidden) + _linear(hidden, width)
