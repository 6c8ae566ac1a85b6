"""How figures look: colours, marks, lines and type, chosen so that they can be told apart without colour too."""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

COLOURS = {
    "ViT": "#0072B2",
    "ResNet": "#D55E00",
    "Hybrid": "#009E73",
    "Axial-ViT": "#56B4E9",
    "AxialResNet": "#E69F00",
    "Masked-ViT": "#CC79A7",
}
"""Okabe and Ito's colours, told apart by colour-blind readers too. Shapes tell families apart without any colour."""
MARKERS = {"ViT": "o", "ResNet": "s", "Hybrid": "D", "Axial-ViT": "^", "AxialResNet": "P", "Masked-ViT": "v"}
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
"""Lines of the networks of a family, in the order of their size."""
INK = "#333333"
FAINT = "#8a8a8a"
STYLE: Any = {
    "svg.hashsalt": "vitscale",  # the same rows give the same file: a figure can be compared and committed
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # journals refuse the other kind
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}
_FOREIGN_COLOURS = ("#000000", "#8B6914", "#6A3D9A", "#7F7F7F")
_FOREIGN_MARKERS = ("X", "<", ">", "p", "h", "*", "d", "8")


@dataclass(frozen=True)
class Look:
    """Colour and shape of a family's marks."""

    colour: str
    marker: str


def looks_of(families: Iterable[str]) -> dict[str, Look]:
    """A look for each family, ours in their order and then foreign ones by name: equal names give equal looks."""
    wanted = set(families)
    looks = {family: Look(COLOURS[family], MARKERS[family]) for family in COLOURS if family in wanted}
    for place, family in enumerate(sorted(wanted - COLOURS.keys())):
        colour = _FOREIGN_COLOURS[place % len(_FOREIGN_COLOURS)]
        looks[family] = Look(colour, _FOREIGN_MARKERS[place % len(_FOREIGN_MARKERS)])
    return looks


def shade(colour: str, place: int, of: int) -> str:
    """A family's colour for the network in this place of so many, the smallest the lightest."""
    if of < 2:
        return colour
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    light, dark = min(0.68, lightness + 0.26), lightness * 0.72
    mixed = colorsys.hls_to_rgb(hue, light + (dark - light) * place / (of - 1), saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in mixed)
