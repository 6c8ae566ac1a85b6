"""Encoded images become uint8 pixels, or a fault with a sentence; what is odd about an image is said on request.

H, W = pixels, C = channels: 1 (grey) or 3 (RGB). JPEGs are decoded by libjpeg-turbo (simplejpeg), everything else and
JPEGs in CMYK by Pillow. Only formats that photographs come in are tried: Pillow knows forty more, and starts other
programs for some.
"""

import io
import re
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from workers.data.headers import (
    BadImage,
    Fault,
    JpegHeader,
    exif_orientation,
    format_of,
    jpeg_header,
    png_header,
    webp_size,
)

__all__ = ["MOST_PIXELS", "BadImage", "Fault", "Inspection", "Oddity", "decode", "inspect"]

MOST_PIXELS = 50_000_000
"""An image that says it has more is refused before it is decoded: it would need 150 MB, and may be a bomb."""

_MOST_SCANS = 200
"""Scans of a progressive JPEG. Encoders write about 10; each takes the time of a whole image and needs but 10 bytes."""


class Oddity(StrEnum):
    """What a person should know about an image that can be shown."""

    GREY = "grey"
    CMYK = "cmyk"
    DEEP = "16-bit"
    PALETTE = "palette"
    ALPHA = "alpha"
    ANIMATED = "animated"
    """More than one frame or page; the first is shown."""
    ROTATED = "exif-rotated"
    """EXIF asks for another orientation, which is not applied."""
    EXTRA_BYTES = "extra-bytes"
    """Bytes that belong to no image, before or after the end of a JPEG."""


@dataclass(frozen=True)
class Inspection:
    """What is known of an image after all of it was decoded."""

    format: str | None
    """jpeg, png, gif, bmp, tiff, ppm or webp; None when it is none of these."""
    width: int
    height: int
    """Pixels; 0 when not even the header could be read."""
    oddities: tuple[str, ...] = ()
    """Values of Oddity, sorted."""
    fault: Fault | None = None
    message: str = ""
    """Of the fault: one sentence."""


def decode(encoded: bytes, channels: int, *, rough: bool = False) -> NDArray[np.uint8]:
    """Pixels (H, W, C), as they lie in the file: EXIF's orientation is not applied (nor is it in TensorFlow).

    Grey becomes RGB by repeating; RGB becomes grey by BT.601's weights, which is what a JPEG's own grey channel is;
    CMYK as ink on white, inverted as Adobe writes it; a palette is looked up; alpha is dropped, so that the colour
    behind a transparent pixel shows; of 16 bits the upper 8 stay; of an animation the first frame.
    JPEGs take the fast DCT and smooth upsampling of colours, as TensorFlow's decoder does, which the papers used.

    rough: colours of JPEGs are repeated instead: 5 % faster, 2 of 255 away on average, for crops scaled by chance.
    Raises BadImage, with the fault and a sentence, for anything that cannot be shown whole.
    """
    return _decoded(encoded, channels, rough).pixels


def inspect(encoded: bytes) -> Inspection:
    """Decode all of an image, and say what it is. Never raises, whatever the bytes are."""
    name, height, width = None, 0, 0
    try:
        name = format_of(encoded)
        height, width = _size_in_header(encoded, name)
        result = _decoded(encoded, 3)
    except BadImage as bad:
        return Inspection(name, width, height, fault=bad.fault, message=str(bad))
    height, width = result.pixels.shape[:2]
    return Inspection(name, width, height, tuple(sorted(result.oddities | _rotation(encoded, name))))


@dataclass(frozen=True, slots=True)
class _Decoded:
    pixels: NDArray[np.uint8]
    oddities: frozenset[str]


def _decoded(encoded: bytes, channels: int, rough: bool = False) -> _Decoded:
    assert channels in (1, 3), channels
    name = format_of(encoded)
    if name == "jpeg":
        return _decoded_jpeg(encoded, channels, rough)
    return _decoded_by_pillow(encoded, name, channels)


def _check_pixels(height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise BadImage(
            Fault.TOO_LARGE, f"the image says it is {width:,} x {height:,} pixels, more than {MOST_PIXELS:,}"
        )


def _size_in_header(encoded: bytes, name: str) -> tuple[int, int]:
    """Height and width where they are known before decoding, else zeros."""
    if name == "jpeg":
        jpeg = jpeg_header(encoded)
        return jpeg.height, jpeg.width
    if name == "png":
        png = png_header(encoded)
        return png.height, png.width
    return webp_size(encoded) if name == "webp" else (0, 0)


def _rotation(encoded: bytes, name: str) -> frozenset[str]:
    exif = b""
    if name == "png":
        exif = png_header(encoded).exif
    elif name == "jpeg":
        for marker, start, end in jpeg_header(encoded).segments:
            if marker == 0xE1 and encoded[start + 4 : start + 10] == b"Exif\0\0":
                exif = encoded[start + 4 : end]
    elif name == "webp" and (at := encoded.find(b"EXIF", 12)) > 0:
        exif = encoded[at + 8 :]
    elif name == "tiff":
        exif = encoded
    return frozenset({Oddity.ROTATED} if exif_orientation(exif) != 1 else ())


# ----------------------------------------------------------------------------------------------------------------- JPEG


def _decoded_jpeg(encoded: bytes, channels: int, rough: bool) -> _Decoded:
    header = jpeg_header(encoded)
    _check_pixels(header.height, header.width)
    if header.progressive and (scans := encoded.count(b"\xff\xda")) > _MOST_SCANS:
        raise BadImage(Fault.CORRUPT, f"the JPEG has {scans:,} scans, as no encoder writes: it would take minutes")
    oddities = frozenset({Oddity.GREY} if header.components == 1 else ())
    if not encoded.endswith(b"\xff\xd9"):
        oddities |= {Oddity.EXTRA_BYTES}
    colorspace = "CMYK" if header.components == 4 else "RGB" if channels == 3 else "GRAY"
    try:
        image_HWC = _by_turbo(encoded, colorspace, rough)
    except ValueError as error:
        found = _EXTRA.match(str(error))
        if not found or int(found[1]) > len(encoded) * _MOST_EXTRA:
            raise _bad_jpeg(encoded, str(error)) from None
        # libjpeg says only the last of its warnings. What is left without these bytes says whether there were others.
        end = encoded.rfind(b"\xff\xd9")
        encoded = encoded[: end - int(found[1])] + encoded[end:]
        header, oddities = jpeg_header(encoded), oddities | {Oddity.EXTRA_BYTES}
        try:
            image_HWC = _by_turbo(encoded, colorspace, rough)
        except ValueError as second:
            raise _bad_jpeg(encoded, str(second)) from None
    except MemoryError:
        raise BadImage(Fault.TOO_LARGE, "the JPEG does not fit into memory") from None
    if header.components == 4:
        # It is whole, but inverted or not as Adobe's marker says, which Pillow knows. Reading its metadata may warn.
        shown = _decoded_by_pillow(_without_metadata(encoded, header), "jpeg", channels)
        return _Decoded(shown.pixels, shown.oddities | oddities)
    return _Decoded(image_HWC, oddities)


def _by_turbo(encoded: bytes, colorspace: str, rough: bool) -> NDArray[np.uint8]:
    # `strict`, the default, makes errors of libjpeg's warnings: a truncated image is only a warning, and grey in part.
    # The fast DCT is 3 % faster, and differs by 1 of 255 at most places.
    image_HWC: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, colorspace, fastdct=True, fastupsample=rough)
    return image_HWC


_EXTRA = re.compile(r"^Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9$")
"""What libjpeg says of bytes between the pixels and the end, which some cameras write."""
_MOST_EXTRA = 0.1
"""Share of the bytes; where more are left over, it is the pixels that went wrong."""


def _bad_jpeg(encoded: bytes, text: str) -> BadImage:
    if "Premature end of JPEG" in text:
        return BadImage(Fault.TRUNCATED, f"the JPEG ends after {len(encoded):,} bytes, within its pixels")
    fault = Fault.UNSUPPORTED if "nsupported" in text else Fault.CORRUPT
    return BadImage(fault, f"the JPEG cannot be decoded ({text.removeprefix('Corrupt JPEG data: ')})")


def _without_metadata(encoded: bytes, header: JpegHeader) -> bytes:
    kept, at = [], 0
    for start, end in header.metadata:
        kept.append(encoded[at:start])
        at = end
    return b"".join([*kept, encoded[at:]])


# --------------------------------------------------------------------------------------------------------------- Pillow

# The plugins themselves, not Image.open: it warns of large images, with limits and filters that are global.
_PLUGINS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
}

_WARNING = threading.Lock()
"""Held while a plugin may warn of odd metadata: Python's filters of warnings are global, so one thread at a time."""

_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
"""Pillow's kinds of pixels that it turns into grey and RGB without losing the picture."""
_ODD_MODES = {"1": Oddity.GREY, "L": Oddity.GREY, "LA": Oddity.GREY, "CMYK": Oddity.CMYK, "P": Oddity.PALETTE}
_ALPHA_MODES = frozenset({"LA", "PA", "RGBA"})
_CUT_OFF = re.compile("truncated|unexpected end|not enough|no more images", re.IGNORECASE)
"""In what Pillow says of an image that lacks its end."""
_BITS = 258
"""TIFF's tag of the bits of each channel."""


def _decoded_by_pillow(encoded: bytes, name: str, channels: int) -> _Decoded:
    oddities: set[str] = set()
    if name == "png":
        header = png_header(encoded)
        _check_pixels(header.height, header.width)
        encoded = header.pixels_only
        found = {Oddity.DEEP: header.bits == 16, Oddity.ALPHA: header.transparent, Oddity.ANIMATED: header.animated}
        oddities = {oddity for oddity, present in found.items() if present}
    elif name == "webp":
        _check_pixels(*webp_size(encoded))
    try:
        if name in ("tiff", "gif"):
            with _WARNING, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _shown(encoded, name, channels, oddities)
        return _shown(encoded, name, channels, oddities)
    except BadImage:
        raise
    except (MemoryError, Image.DecompressionBombError):
        raise BadImage(Fault.TOO_LARGE, f"the {name.upper()} does not fit into memory") from None
    except Exception as error:  # Pillow promises nothing of what its plugins raise, and new kinds are found every year
        text = " ".join(str(error).split()) or type(error).__name__
        fault = Fault.TRUNCATED if isinstance(error, EOFError) or _CUT_OFF.search(text) else Fault.CORRUPT
        raise BadImage(fault, f"the {name.upper()} cannot be decoded ({text})") from None


def _shown(encoded: bytes, name: str, channels: int, oddities: set[str]) -> _Decoded:
    with _PLUGINS[name](io.BytesIO(encoded)) as picture:
        width, height = picture.size
        _check_pixels(height, width)
        picture.load()
        if picture.mode in _ODD_MODES:
            oddities.add(_ODD_MODES[picture.mode])
        # A colour that counts as transparent would be treated when pixels are converted, and may warn.
        if picture.info.pop("transparency", None) is not None or picture.mode in _ALPHA_MODES:
            oddities.add(Oddity.ALPHA)
        if isinstance(picture, TiffImagePlugin.TiffImageFile) and max(picture.tag_v2.get(_BITS, (1,))) > 8:
            oddities.add(Oddity.DEEP)
        if picture.mode.startswith("I;16") or (picture.mode == "I" and name == "ppm"):
            oddities |= {Oddity.GREY, Oddity.DEEP}
            grey_HW1 = (np.asarray(picture) >> 8).astype(np.uint8)[..., None]
            image_HWC = np.repeat(grey_HW1, channels, axis=-1)
        elif picture.mode in _MODES:
            shown = picture.convert("L" if channels == 1 else "RGB")
            image_HWC = np.array(shown).reshape(height, width, channels)
        else:
            raise BadImage(
                Fault.UNSUPPORTED, f"a {name.upper()} with pixels of kind {picture.mode} has no certain range of values"
            )
        # Asked last, because a GIF must look for its second frame, which may be broken while the first is good.
        with suppress(Exception):
            if getattr(picture, "is_animated", False):
                oddities.add(Oddity.ANIMATED)
        return _Decoded(image_HWC, frozenset(oddities))
