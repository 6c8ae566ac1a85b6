"""Draws examples of a data set into one picture: a row for each class. It chooses and reads nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")

TILE = 104
GAP = 6
MARGIN = 28
_NAMES = 190
"""Most that the column of class names is wide, the gap behind it included."""
_NAMES_GAP = 20
_INK, _FAINT, _GROUND, _TILE_GROUND, _BAD_GROUND, _BAD_INK = (
    "#222222", "#777777", "#ffffff", "#f1f1f1", "#fbe3dc", "#b03a10"
)  # fmt: skip
_MOST_ENLARGED = 64
"""Smaller images show their own pixels, enlarged by a whole number."""


@dataclass(frozen=True)
class Row:
    """A line of the sheet."""

    name: str
    note: str
    """Below the name: how many images there are."""
    images: Sequence[NDArray[np.uint8] | str]
    """Each (H, W, 1) or (H, W, 3), or what is wrong with it."""


def check_ending(path: Path) -> None:
    """Raise ValueError unless the file's ending is one that a sheet can be written in."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"'{path.name}' names no picture; valid endings: {', '.join(ENDINGS)}")


def draw(path: Path, title: str, subtitle: str, rows: Sequence[Row]) -> None:
    """Write the picture. An image keeps its aspect ratio; small ones are enlarged and keep their pixels.

    Raises OSError when the file cannot be written.
    """
    assert rows
    columns = max(len(row.images) for row in rows)
    top = MARGIN + 62
    names = _width_of_names(rows)
    width = max(2 * MARGIN + names + columns * (TILE + GAP) - GAP, 560)
    sheet = Image.new("RGB", (width, top + len(rows) * (TILE + GAP) - GAP + MARGIN), _GROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text(
        (MARGIN, MARGIN - 4), _fitted(pen, title, _font(22, bold=True), width - 2 * MARGIN), _INK, _font(22, bold=True)
    )
    pen.text((MARGIN, MARGIN + 28), _fitted(pen, subtitle, _font(13), width - 2 * MARGIN), _FAINT, _font(13))
    for index, row in enumerate(rows):
        y = top + index * (TILE + GAP)
        if names:
            _write_name(pen, row, y)
        for column, image in enumerate(row.images):
            x = MARGIN + names + column * (TILE + GAP)
            if isinstance(image, str):
                _write_fault(pen, image, x, y)
            else:
                tile = _tile(image)
                if tile.width != tile.height:
                    pen.rectangle((x, y, x + TILE - 1, y + TILE - 1), _TILE_GROUND)
                sheet.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
    sheet.save(path)


def _width_of_names(rows: Sequence[Row]) -> int:
    widest = max(_font(14).getlength(row.name) for row in rows)
    widest = max(widest, *(_font(12).getlength(row.note) for row in rows))
    return min(_NAMES, round(widest) + _NAMES_GAP) if widest else 0


def _tile(image_HWC: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(image_HWC[..., 0] if image_HWC.shape[2] == 1 else image_HWC).convert("RGB")
    longer = max(image.size)
    if longer <= _MOST_ENLARGED:
        times = TILE // longer
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * TILE / longer)), max(1, round(image.height * TILE / longer)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _write_name(pen: ImageDraw.ImageDraw, row: Row, y: int) -> None:
    lines = _wrapped(pen, row.name, _font(14), _NAMES - _NAMES_GAP, most=3)
    height = 19 * len(lines) + (18 if row.note else 0)
    at = y + (TILE - height) // 2
    for line in lines:
        pen.text((MARGIN, at), line, _INK, _font(14))
        at += 19
    pen.text((MARGIN, at + 1), row.note, _FAINT, _font(12))


def _write_fault(pen: ImageDraw.ImageDraw, fault: str, x: int, y: int) -> None:
    pen.rectangle((x, y, x + TILE - 1, y + TILE - 1), _BAD_GROUND)
    lines = _wrapped(pen, fault, _font(12), TILE - 16, most=4)
    for number, line in enumerate(lines):
        place = (x + TILE // 2, y + TILE // 2 + round((number - (len(lines) - 1) / 2) * 16))
        pen.text(place, line, _BAD_INK, _font(12), anchor="mm")


def _wrapped(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Lines of at most this width; where there are too many, the last one ends with dots."""
    lines: list[str] = []
    for word in text.replace("_", " ").split():
        if lines and pen.textlength(f"{lines[-1]} {word}", font) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [_fitted(pen, line, font, width) for line in lines]


def _fitted(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(f"{text}…", font) > width:
        text = text[:-1]
    return f"{text.rstrip(' ,')}…"


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu, which knows most scripts, and comes with Matplotlib: a system may have no font at all."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts/ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(file), size)
