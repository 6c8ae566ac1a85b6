"""A page that shows pairs of images that were found alike, for a person to judge: one HTML file, pictures included.

`page` draws it, and `images_at` reads what is drawn.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from studies.datasets import Files, Selection
from workers.data.decoding import BadImage, decode
from workers.data.shards import Shards

_SIDE = 200
"""Of the square, in CSS pixels, that a picture is fitted into."""
_SHARPNESS = 1.5
"""Pixels of a picture for each CSS pixel: screens have one to three."""
_QUALITY = 85


@dataclass(frozen=True)
class Shown:
    """One image of a pair."""

    dataset: str
    split: str
    row: int
    file: str
    """The shard that holds it, and its row there."""
    label: str
    encoded: bytes


@dataclass(frozen=True)
class Pair:
    """An image that was dropped, and the one that it is like."""

    reason: str
    """`exact` or `near`."""
    distance: int
    """Bits in which the hashes differ."""
    dropped: Shown
    other: Shown


def images_at(dataset: str, split: str, files: Files, selection: Selection, row: NDArray[np.int64]) -> dict[int, Shown]:
    """The images of some rows of a stored split; each row group that holds any is read once.

    Raises DataError when they cannot be read.
    """
    shards = Shards(files, selection.stored, selection.stored_fingerprint)
    names = shards.index.manifest.class_names
    row = np.unique(row)
    group_of_row = shards.row_groups.groups_of(row)
    found = {}
    for group in np.unique(group_of_row).tolist():
        here = row[group_of_row == group]
        read = shards.read(group, only=here - shards.row_groups.first_row_G[group])
        for number, encoded, labels in zip(here.tolist(), read.images, read.labels, strict=True):
            found[number] = Shown(dataset, split, number, shards.named(number), _label(labels, names), encoded)
    return found


def _label(label: int | Sequence[int], names: Sequence[str]) -> str:
    """A label, or several, by name where the files name their classes."""
    labels = np.atleast_1d(np.asarray(label, dtype=np.int64)).tolist()
    return ", ".join(names[each] if 0 <= each < len(names) else str(each) for each in labels)


def page(title: str, facts: Sequence[tuple[str, str]], pairs: Iterable[Pair], found: int) -> str:
    """The whole page as text.

    facts: names and values that stand above the pairs. found: how many pairs there are, shown or not.
    """
    figures = [_pair(pair) for pair in pairs]
    left = found - len(figures)
    if not found:
        rest = "No image was found alike."
    elif left:
        rest = f"{len(figures):,} of {found:,} pairs are shown; {left:,} are not. {_ADVICE}"
    else:
        rest = f"{f'All {found:,} pairs are' if found > 1 else 'The one pair is'} shown. {_ADVICE}"
    named = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts)
    return _PAGE.format(
        title=html.escape(title), style=_STYLE, facts=named, rest=rest, pairs="\n".join(figures), side=_SIDE
    )


def _pair(pair: Pair) -> str:
    if pair.reason == "exact":
        words = "same bytes"
    else:
        words = {0: "no bit differs", 1: "1 bit differs"}.get(pair.distance, f"{pair.distance} bits differ")
    return (
        f'<article><header class="{html.escape(pair.reason)}"><b>{html.escape(pair.reason)}</b> {words}</header>'
        f'<div class="both">{_image(pair.dropped, "dropped")}{_image(pair.other, "like")}</div></article>'
    )


def _image(shown: Shown, role: str) -> str:
    name = f"{shown.dataset}:{shown.split} row {shown.row:,}"
    picture, size = _picture(shown.encoded, name)
    return (
        f'<figure>{picture}<figcaption><span class="role">{role}</span>'
        f"<b>{html.escape(shown.dataset)}:{html.escape(shown.split)}</b>, row {shown.row:,}<br>"
        f"{size}, {len(shown.encoded):,} bytes, label {html.escape(shown.label)}"
        f'<br><span class="file">{html.escape(shown.file)}</span></figcaption></figure>'
    )


def _picture(encoded: bytes, name: str) -> tuple[str, str]:
    """An HTML element that shows an image, and the image's size in words."""
    try:
        picture = Image.fromarray(decode(encoded, 3))
    except BadImage as error:
        return f'<div class="none">{html.escape(str(error))}</div>', "unreadable"
    size = f"{picture.width} × {picture.height}"
    buffer = io.BytesIO()
    if max(picture.size) <= _SIDE:
        kind = "png"
        picture.save(buffer, "PNG")
    else:
        kind = "jpeg"
        picture.thumbnail((int(_SIDE * _SHARPNESS), int(_SIDE * _SHARPNESS)), Image.Resampling.LANCZOS)
        picture.save(buffer, "JPEG", quality=_QUALITY)
    # A picture of a few pixels is enlarged, and its pixels stay squares.
    style = ' class="small"' if max(picture.size) <= _SIDE // 3 else ""
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return f'<div class="frame"><img{style} alt="{html.escape(name)}" src="{source}"></div>', size


_ADVICE = (
    "The doubtful come first: the more bits differ between two hashes, the likelier are two different pictures,"
    " above all among drawings, writing and images of a few pixels. A lower radius keeps such images."
)

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #667; --line: #dcdfe4; --paper: #fff; --ground: #f5f6f8;
        --near: #d55e00; --exact: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --faint: #9aa0aa; --line: #3a3d44; --paper: #202227; --ground: #16171a;
          --near: #ff9a4d; --exact: #5cb8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 32px 28px 60px; background: var(--ground); color: var(--ink);
       font: 14px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 14px; font-weight: 600; }
dl { display: flex; flex-wrap: wrap; gap: 8px 34px; margin: 0 0 14px; }
dt { color: var(--faint); font-size: 12px; } dd { margin: 0; font-variant-numeric: tabular-nums; }
p { margin: 0 0 20px; color: var(--faint); max-width: 80ch; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(450px, 1fr)); gap: 16px; }
article { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
header { padding: 7px 14px; border-bottom: 1px solid var(--line); }
header.near b { color: var(--near); } header.exact b { color: var(--exact); }
.both { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; padding: 14px; }
figure { margin: 0; min-width: 0; }
.frame, .none { height: SIDEpx; display: flex; align-items: center; justify-content: center; }
.none { color: var(--faint); border: 1px dashed var(--line); border-radius: 4px; padding: 10px; text-align: center; }
img { display: block; max-width: 100%; max-height: SIDEpx; border-radius: 2px;
      outline: 1px solid var(--line); }
img.small { height: 130px; image-rendering: pixelated; }
figcaption { margin-top: 9px; font-size: 12.5px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.role { color: var(--faint); display: block; }
.file { color: var(--faint); font-size: 11.5px; }
""".replace("SIDE", str(_SIDE))

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<h1>{title}</h1>
<dl>{facts}</dl>
<p>{rest}</p>
<main>
{pairs}
</main>
</html>
"""
