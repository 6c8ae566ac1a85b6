"""Draws the images of `studies/procedural.py`: any row of a split, alone or among others, the same on every machine.

Whole numbers alone, and tables that are computed once: a fingerprint promises bytes, and fast floating-point sines
differ in their last bits from one processor to the next.
Lengths count 1/8192 of half an image, so that coordinates go from -8192 to 8192; angles count 1/4096 of a turn, and
shares 1/1024.
B = images, H, W = pixels, C = color channels, K = classes, A = attributes of a class, M = members of a bank,
P = numbers that make a member, T = directions, N = words.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from studies.permutation import permuted
from studies.procedural import SPLIT_ROWS, Shapes
from workers.data.draws import below, draws

Rows = NDArray[np.int64]
Numbers = NDArray[np.int32]
Bytes = NDArray[np.uint8]

_ONE = 8192
_TURN = 4096
_QUARTER = _TURN // 4
_DIRECTIONS = 512
"""Directions in which an outline has a radius."""
_CELLS, _CELL = 512, 64
"""Seen from a shape's centre, all of a cell of 64 x 64 (half a pixel of 256) lies in one direction."""
_WORDS = 80
"""Random words that place and colour a scene: more than are taken."""
_CHUNK_PIXELS = 1 << 15
"""As many at a time as stay in a core's cache with all that is computed of them."""


def render(shapes: Shapes, split: str, row_B: Rows) -> tuple[Bytes, Rows]:
    """Images (B, H, W, 3) and labels (B,) of some rows, in their order.

    Both are functions of the split's fingerprint and the row alone. What is needed beside them does not grow with B.
    Raises ValueError for an unknown split and for a row outside it.
    """
    shapes.fingerprint(split)
    outside = row_B[(row_B < 0) | (row_B >= SPLIT_ROWS[split])]
    if len(outside):
        raise ValueError(f"row {outside[0]} is outside the {split} split: it has {SPLIT_ROWS[split]:,} rows")
    size = shapes.image_size
    image_BHWC = np.empty((len(row_B), size, size, 3), dtype=np.uint8)
    label_B = np.empty(len(row_B), dtype=np.int64)
    step = max(1, _CHUNK_PIXELS // size**2)
    for start in range(0, len(row_B), step):
        chunk = slice(start, start + step)
        label_B[chunk] = _draw(shapes, split, row_B[chunk], image_BHWC[chunk])
    return image_BHWC, label_B


def _draw(shapes: Shapes, split: str, row_B: Rows, image_BHWC: Bytes) -> Rows:
    """Write the images of a few rows; their labels."""
    chance = _Chance(shapes, split, row_B)
    label_B = chance.below(shapes.classes)
    bank = _bank(shapes.classes, shapes.seed, chance.difficulty)
    size = shapes.image_size
    place_H = ((2 * np.arange(size) + 1 - size) * _ONE // size).astype(np.int32)
    image_CBHW = _ground(bank, chance, place_H)
    for layer in _layers(bank, chance, label_B):
        _paint(image_CBHW, layer, place_H)
    _occlude(image_CBHW, chance, place_H)
    image_CBHW += _noise(shapes, split, row_B, chance.graded(16, 192))
    image_BHWC[...] = np.clip(image_CBHW, 0, 255, out=image_CBHW).transpose(1, 2, 3, 0)
    # Dark becomes bright in half of all images, or else a template for bright pixels would do.
    inverted_B = chance.below(1024) < min(chance.difficulty, 512)
    image_BHWC ^= np.where(inverted_B, 255, 0).astype(np.uint8)[:, None, None, None]
    return label_B.astype(np.int64)


# ---------------------------------------------------------------------------------------------------------- chance


class _Chance:
    """The random numbers of each row, in an order that is part of the set's definition.

    Neither size nor difficulty has a part in them: a row shows the same scene, larger or in more disorder.
    """

    def __init__(self, shapes: Shapes, split: str, row_B: Rows) -> None:
        self.difficulty = round(shapes.difficulty * 1024)
        self.word_BN = draws(row_B, _WORDS, shapes.seed, f"shapes/{split}/scene")
        self.taken = 0

    def below(self, bound: int) -> Numbers:
        """Uniform in [0, bound), (B,)."""
        self.taken += 1
        return below(self.word_BN[:, self.taken - 1], bound).astype(np.int32)

    def between(self, low: int, high: int) -> Numbers:
        """Uniform in [low, high], (B,)."""
        return low + self.below(high - low + 1)

    def around(self, easy: int, hard: int) -> Numbers:
        """Uniform between minus and plus the graded width, (B,)."""
        width = self.graded(easy, hard)
        return self.between(-width, width)

    def color(self, low: int, high: int) -> Numbers:
        """Each channel uniform in [low, high], (C, B)."""
        return np.stack([self.between(low, high) for _ in range(3)])

    def graded(self, easy: int, hard: int) -> int:
        """The number for this difficulty: the square of it on the way from `easy` to `hard`."""
        return easy + (hard - easy) * self.difficulty**2 // 1024**2


# --------------------------------------------------------------------------------------------------------- classes

_WAVES = (2, 3, 5)
"""Bulges that the three numbers of an outline stand for."""


@dataclass(frozen=True)
class _Bank:
    """What classes are made of: each takes a member of every bank, and no two take the same four."""

    member_KA: Rows
    """Which outline, texture, outline of the smaller shape, and place of it."""
    outline_MP: Numbers
    """Heights of the bulges, in shares of the radius."""
    texture_MP: Numbers
    """Angle of the first wave to the shape's axis, its number a length of 8 (8192 / 1024), angle of the second wave to
    the first, and share of the second."""
    small_outline_MP: Numbers
    place_M: Numbers
    """Direction of the smaller shape from the larger one, to that one's axis."""


@lru_cache(maxsize=8)
def _bank(classes: int, seed: int, difficulty: int) -> _Bank:
    # About half of all combinations are classes, so that no attribute can be left unread.
    members = next(m for m in range(2, classes + 2) if m**4 >= 2 * classes)
    code_K = permuted(np.arange(classes, dtype=np.int64), members**4, "shapes", seed)

    def levels(name: str, low: int, high: int) -> Numbers:
        """Evenly spaced in [low, high] in an order of their own; a harder set has them closer to the middle."""
        rank_M = permuted(np.arange(members, dtype=np.int64), members, "shapes", seed, name)
        off_M = ((2 * rank_M + 1 - members) * (high - low) // (2 * members)) * (8 * 1024**2 - 3 * difficulty**2)
        return ((low + high) // 2 + off_M // (8 * 1024**2)).astype(np.int32)

    texture = (("angle", 0, _TURN // 2), ("waves", 1700, 4000), ("crossing", 512, 1536), ("share", 128, 896))
    return _Bank(
        np.stack([code_K // members**attribute % members for attribute in range(4)], axis=1),
        np.stack([levels(f"outline {waves}", -300, 300) for waves in _WAVES], axis=1),
        np.stack([levels(*each) for each in texture], axis=1),
        np.stack([levels(f"small outline {waves}", -300, 300) for waves in _WAVES], axis=1),
        levels("place", 0, _TURN),
    )


# ---------------------------------------------------------------------------------------------------------- scenes


@dataclass(frozen=True)
class _Texture:
    """Two crossing waves, and how far they move a colour."""

    right_2B: Numbers
    """Angle by which the phase of each wave grows over a length of 256 to the right."""
    down_2B: Numbers
    start_2B: Numbers
    """Phases at the centre."""
    share_2B: Numbers
    swing_CB: Numbers


@dataclass(frozen=True)
class _Layer:
    """A shape of each image."""

    x_B: Numbers
    y_B: Numbers
    """Of the centre."""
    radius_BT: Numbers
    color_CB: Numbers
    texture: _Texture | None


def _layers(bank: _Bank, chance: _Chance, label_B: Numbers) -> Iterator[_Layer]:
    """The shapes of each image, back to front: two that tell nothing, then the two that make the class."""
    for _ in range(2):
        yield _distractor(bank, chance)
    outline_B, texture_B, small_outline_B, place_B = bank.member_KA[label_B].T
    zoom_B = 1024 - chance.between(0, chance.graded(60, 400))
    axis_B = chance.around(60, 680)
    apart_B = (5000 + chance.around(50, 500)) * zoom_B // 1024
    right_B, down_B = _turned(apart_B, axis_B + bank.place_M[place_B] + chance.around(30, 200))
    # The pair is centred before it is moved, or else the place of either shape in the image told of the class.
    x_B = chance.around(200, 2600) - right_B // 2
    y_B = chance.around(200, 2600) - down_B // 2
    radius_B = (3700 + chance.around(100, 500)) * zoom_B // 1024
    radius_BT = _outline(bank.outline_MP[outline_B], radius_B, axis_B, chance)
    start_2B = np.stack([_QUARTER + chance.around(64, 1408) for _ in range(2)])
    texture = _texture(bank.texture_MP[texture_B], zoom_B, axis_B, start_2B, chance)
    yield _Layer(x_B, y_B, radius_BT, _bright(chance), texture)
    radius_B = (2100 + chance.around(50, 300)) * zoom_B // 1024
    radius_BT = _outline(bank.small_outline_MP[small_outline_B], radius_B, axis_B + chance.around(30, 200), chance)
    yield _Layer(x_B + right_B, y_B + down_B, radius_BT, _bright(chance), None)


def _distractor(bank: _Bank, chance: _Chance) -> _Layer:
    """A shape of any outline and place, without texture and mostly smaller than those of the class."""
    outline_BP = bank.small_outline_MP[chance.below(len(bank.place_M))]
    radius_B = chance.between(0, chance.graded(200, 2000))
    radius_BT = _outline(outline_BP, radius_B, chance.below(_TURN), chance)
    return _Layer(chance.between(-_ONE, _ONE), chance.between(-_ONE, _ONE), radius_BT, _bright(chance), None)


def _bright(chance: _Chance) -> Numbers:
    return chance.color(chance.graded(150, 60), chance.graded(200, 220))


def _outline(height_BP: Numbers, radius_B: Numbers, axis_B: Numbers, chance: _Chance) -> Numbers:
    """How far the outline is from the centre in each direction, (B, T)."""
    angle_BT = np.arange(_DIRECTIONS, dtype=np.int32) * (_TURN // _DIRECTIONS) - axis_B[:, None]
    share_BT = np.full(angle_BT.shape, 1024, dtype=np.int32)
    for p, waves in enumerate(_WAVES):
        height_B = height_BP[:, p] + chance.around(20, 420)
        share_BT += height_B[:, None] * _sine(waves * angle_BT + _QUARTER) >> 14
    return np.maximum(share_BT, 256) * radius_B[:, None] >> 10


def _texture(kind_BP: Numbers, zoom_B: Numbers, axis_B: Numbers, start_2B: Numbers, chance: _Chance) -> _Texture:
    angle_B = axis_B + kind_BP[:, 0] + chance.around(20, 150)
    waves_B = kind_BP[:, 1] * (1024 + chance.around(20, 150)) // zoom_B
    steps = [_turned(waves_B, angle) for angle in (angle_B, angle_B + kind_BP[:, 2])]
    contrast = chance.graded(110, 70)
    return _Texture(
        # A wave in 8192 is a phase of 4096 / 8192 * 256 in 256, and numbers of waves count 1/1024.
        np.stack([right for right, _ in steps]) >> 3,
        np.stack([down for _, down in steps]) >> 3,
        start_2B,
        np.stack([1024 - kind_BP[:, 3], kind_BP[:, 3]]),
        chance.color(contrast // 2, contrast),
    )


def _turned(length_B: Numbers, angle_B: Numbers) -> tuple[Numbers, Numbers]:
    """A length in a direction: how far to the right and how far down."""
    return length_B * _sine(angle_B + _QUARTER) >> 14, length_B * _sine(angle_B) >> 14


# ---------------------------------------------------------------------------------------------------------- pixels


def _ground(bank: _Bank, chance: _Chance, place_H: Numbers) -> Numbers:
    """What lies behind all shapes: a colour, with a texture of any class and angle."""
    color_CB = chance.color(40, chance.graded(90, 200))
    kind_BP = bank.texture_MP[chance.below(len(bank.place_M))]
    zoom_B = np.full(len(kind_BP), 1024, dtype=np.int32)
    start_2B = np.stack([chance.below(_TURN) for _ in range(2)])
    texture = _texture(kind_BP, zoom_B, chance.below(_TURN), start_2B, chance)
    swing_CB = texture.swing_CB * chance.graded(0, 700) // 1024
    place_BH = np.broadcast_to(place_H, (len(kind_BP), len(place_H)))
    wave_BHW = _waves(texture, place_BH, place_BH)
    return color_CB[:, :, None, None] + (swing_CB[:, :, None, None] * wave_BHW >> 10)


def _waves(texture: _Texture, x_BW: Numbers, y_BH: Numbers) -> Numbers:
    """The texture at each pixel, in [-1024, 1024]; x and y from its centre."""
    total_BHW = np.zeros((len(x_BW), y_BH.shape[1], x_BW.shape[1]), dtype=np.int32)
    for wave in range(2):
        across_BW = texture.right_2B[wave][:, None] * x_BW >> 8
        along_BH = (texture.down_2B[wave][:, None] * y_BH >> 8) + texture.start_2B[wave][:, None]
        phase_BHW = along_BH[:, :, None] + across_BW[:, None, :]
        total_BHW += _sine(phase_BHW) * texture.share_2B[wave][:, None, None] >> 14
    return total_BHW


def _paint(image_CBHW: Numbers, layer: _Layer, place_H: Numbers) -> None:
    """Lay a shape over each image, its edge as soft as a pixel is wide."""
    x_BW, y_BH = place_H - layer.x_B[:, None], place_H - layer.y_B[:, None]
    square_BHW = (y_BH**2)[:, :, None] + (x_BW**2)[:, None, :]
    # The whole number below the root, on any machine: of numbers below 2**52, IEEE's root does not reach the next one.
    away_BHW = np.sqrt(square_BHW.astype(np.float64)).astype(np.int32)
    column_BW, line_BH = x_BW // _CELL + _CELLS // 2, (y_BH // _CELL + _CELLS // 2) * _CELLS
    direction_BHW = _directions()[line_BH[:, :, None] + column_BW[:, None, :]]
    direction_BHW += (np.arange(len(x_BW), dtype=np.int32) * _DIRECTIONS)[:, None, None]
    edge_BHW = layer.radius_BT.reshape(-1)[direction_BHW]
    cover_BHW = np.clip(((edge_BHW - away_BHW) * len(place_H) >> 6) + 128, 0, 256)
    wave_BHW = None if layer.texture is None else _waves(layer.texture, x_BW, y_BH)
    for c, color_B in enumerate(layer.color_CB):
        color_BHW = color_B[:, None, None]
        if layer.texture is not None and wave_BHW is not None:
            color_BHW = color_BHW + (layer.texture.swing_CB[c][:, None, None] * wave_BHW >> 10)
        image_CBHW[c] += (color_BHW - image_CBHW[c]) * cover_BHW >> 8


def _occlude(image_CBHW: Numbers, chance: _Chance, place_H: Numbers) -> None:
    """Lay a bar of one colour across each image."""
    angle_B = chance.below(_TURN)
    right_B, down_B = _turned(np.full(len(angle_B), 1024, dtype=np.int32), angle_B)
    off_B, half_B = chance.between(-7000, 7000), chance.between(0, chance.graded(0, 1400))
    across_BW = right_B[:, None] * place_H >> 10
    along_BH = (down_B[:, None] * place_H >> 10) - off_B[:, None]
    inside_BHW = half_B[:, None, None] - np.abs(along_BH[:, :, None] + across_BW[:, None, :])
    cover_BHW = np.clip(inside_BHW * len(place_H) >> 6, 0, 256)
    for c, color_B in enumerate(_bright(chance)):
        image_CBHW[c] += (color_B[:, None, None] - image_CBHW[c]) * cover_BHW >> 8


def _noise(shapes: Shapes, split: str, row_B: Rows, strength: int) -> Numbers:
    """Differences of two random bytes times strength / 512, (C, B, H, W)."""
    values = 3 * shapes.image_size**2
    word_BN = draws(row_B, -(-values // 4), shapes.seed, f"shapes/{split}/noise")
    byte_BN = word_BN.astype("<u8", copy=False).view(np.uint8)[:, : 2 * values].astype(np.int16)
    noise_BN = (byte_BN[:, :values] - byte_BN[:, values:]).astype(np.int32) * strength >> 9
    return noise_BN.reshape(len(row_B), 3, shapes.image_size, shapes.image_size).swapaxes(0, 1)


# ---------------------------------------------------------------------------------------------------------- tables


def _sine(angle: Numbers) -> Numbers:
    """16384 times the sine; any shape."""
    sine: Numbers = _sines()[angle & (_TURN - 1)]
    return sine


@cache
def _sines() -> Numbers:
    return np.array([round(16384 * math.sin(2 * math.pi * angle / _TURN)) for angle in range(_TURN)], dtype=np.int32)


@cache
def _directions() -> Numbers:
    """The direction of each cell from the middle of all, (cells * cells,)."""
    middle = (_CELLS - 1) / 2
    upper = [
        round(math.atan2(y - middle, x - middle) * _DIRECTIONS / (2 * math.pi)) % _DIRECTIONS
        for y in range(_CELLS // 2)
        for x in range(_CELLS)
    ]
    lower = [(direction + _DIRECTIONS // 2) % _DIRECTIONS for direction in reversed(upper)]
    return np.array(upper + lower, dtype=np.int32)
