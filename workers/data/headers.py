"""What the first bytes of an encoded image say: its format, its size, what its pixels are made of. Nothing is decoded.

Only what decoding needs before it may trust a library with the bytes: ITU-T T.81 (JPEG), the PNG specification,
RFC 9649 (WebP), TIFF 6.0 (the orientation inside EXIF).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """Why an image cannot be shown."""

    EMPTY = "empty"
    UNKNOWN = "unknown-format"
    """Not an image, or of a format that we do not read."""
    UNSUPPORTED = "unsupported"
    """A known format with pixels that we cannot show as 8 bits without guessing."""
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_LARGE = "too-large"


class BadImage(ValueError):
    """These bytes cannot be shown as an image; the text is one sentence."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


FORMATS = (
    ("jpeg", b"\xff\xd8\xff"),
    ("png", b"\x89PNG\r\n\x1a\n"),
    ("gif", b"GIF87a"),
    ("gif", b"GIF89a"),
    ("bmp", b"BM"),
    ("tiff", b"II*\0"),
    ("tiff", b"MM\0*"),
    ("ppm", b"P4"),
    ("ppm", b"P5"),
    ("ppm", b"P6"),
)
"""Formats that we read, by their first bytes; WebP besides, whose mark lies further in."""

_OTHERS = (
    ("an HTML page", (b"<!doctype html", b"<html")),
    ("an SVG drawing", (b"<svg", b"<?xml")),
    ("a PDF file", (b"%pdf",)),
    ("a gzip file", (b"\x1f\x8b",)),
    ("a zip file", (b"pk\x03\x04",)),
    ("an icon (ICO)", (b"\0\0\1\0",)),
    ("an AVIF or HEIC image, or a film", (b"\0\0\0\x18ftyp", b"\0\0\0\x1cftyp", b"\0\0\0\x20ftyp")),
    ("a JPEG 2000 image", (b"\0\0\0\x0cjp", b"\xff\x4f\xff\x51")),
    ("a JPEG XL image", (b"\0\0\0\x0cjxl", b"\xff\x0a")),
)


def format_of(encoded: bytes) -> str:
    """jpeg, png, gif, bmp, tiff, ppm or webp. Raises BadImage when it is none of these, saying what it looks like."""
    for name, mark in FORMATS:
        if encoded.startswith(mark):
            return name
    if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        return "webp"
    if not encoded:
        raise BadImage(Fault.EMPTY, "the image has no bytes")
    if any(len(encoded) < len(mark) and mark.startswith(encoded) for _, mark in FORMATS):
        raise BadImage(Fault.TRUNCATED, "the image ends within its first bytes")
    start = encoded[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for name, marks in _OTHERS:
        if start.startswith(marks):
            raise BadImage(Fault.UNKNOWN, f"this is {name}, not an image of a format that is read here")
    raise BadImage(Fault.UNKNOWN, f"the bytes begin with {encoded[:8]!r}, as no image does that is read here")


# ----------------------------------------------------------------------------------------------------------------- JPEG

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a frame header; those left out define tables."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""
_READ_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
"""Baseline, extended and progressive, by Huffman or arithmetic coding; not the lossless and hierarchical ones."""
_PROGRESSIVE = frozenset({0xC2, 0xCA})


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What stands before a JPEG's first scan."""

    height: int
    width: int
    components: int
    progressive: bool
    segments: tuple[tuple[int, int, int], ...]
    """Marker, first byte and end of each segment, the marker itself included."""

    @property
    def metadata(self) -> Iterator[tuple[int, int]]:
        """First byte and end of each segment that holds words about the image: all APPn but JFIF's and Adobe's."""
        return ((start, end) for marker, start, end in self.segments if marker in _METADATA)


_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})


def jpeg_header(encoded: bytes) -> JpegHeader:
    """Walk a JPEG's segments to its first scan. Raises BadImage when they cannot be followed, or hold no pixels."""
    frame: tuple[int, int, int, int] | None = None
    segments = []
    at, length = 2, len(encoded)
    while at + 4 <= length:
        if encoded[at] != 0xFF:
            raise BadImage(Fault.CORRUPT, f"the JPEG has no marker at byte {at}")
        marker = encoded[at + 1]
        if marker == 0xFF:  # fill bytes may stand before any marker
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        if marker == 0xD9:
            raise BadImage(Fault.CORRUPT, "the JPEG ends before its first scan")
        end = at + 2 + (encoded[at + 2] << 8 | encoded[at + 3])
        if end > length:
            break
        segments.append((marker, at, end))
        if marker in _FRAMES:
            frame = _jpeg_frame(encoded, marker, at, end)
        if marker == 0xDA:
            if frame is None:
                raise BadImage(Fault.CORRUPT, "the JPEG's first scan comes before its size")
            kind, height, width, components = frame
            return JpegHeader(height, width, components, kind in _PROGRESSIVE, tuple(segments))
        at = end
    raise BadImage(Fault.TRUNCATED, f"the JPEG ends after {length:,} bytes, within its header")


def _jpeg_frame(encoded: bytes, marker: int, at: int, end: int) -> tuple[int, int, int, int]:
    """Marker, height, width and components of a frame header. Raises BadImage for one that we cannot show."""
    if end < at + 10:
        raise BadImage(Fault.CORRUPT, "the JPEG's frame header is too short")
    precision, height, width, components = struct.unpack_from(">BHHB", encoded, at + 4)
    if marker not in _READ_FRAMES:
        raise BadImage(Fault.UNSUPPORTED, f"a lossless or hierarchical JPEG (SOF{marker - 0xC0}) is not read here")
    if precision != 8:
        raise BadImage(Fault.UNSUPPORTED, f"a JPEG of {precision} bits is not read here")
    if components not in (1, 3, 4):
        raise BadImage(Fault.UNSUPPORTED, f"a JPEG of {components} components is not read here")
    if not height or not width:
        raise BadImage(Fault.CORRUPT, f"the JPEG says it is {width} x {height} pixels")
    return marker, height, width, components


# ------------------------------------------------------------------------------------------------------------------ PNG

_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


@dataclass(frozen=True, slots=True)
class PngHeader:
    """What a PNG's chunks say."""

    height: int
    width: int
    bits: int
    """Of one channel."""
    color_type: int
    transparent: bool
    animated: bool
    exif: bytes
    pixels_only: bytes
    """The same PNG without any chunk that its pixels do not need."""


def png_header(encoded: bytes) -> PngHeader:
    """Walk a PNG's chunks. Raises BadImage when one is cut off or its checksum is wrong.

    Pillow does not look at the checksums of pixel data, and inflates text and colour profiles, which may be bombs.
    """
    header: tuple[int, int, int, int] | None = None
    kept, dropped, kinds, exif = [encoded[:8]], False, set(), b""
    at = 8
    while at + 12 <= len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, at)
        end = at + 12 + size
        if end > len(encoded):
            break
        if kind in _PIXEL_CHUNKS:
            if zlib.crc32(encoded[at + 4 : end - 4]) != int.from_bytes(encoded[end - 4 : end], "big"):
                raise BadImage(Fault.CORRUPT, f"the checksum of the PNG's {kind.decode()} is wrong at byte {at:,}")
            kept.append(encoded[at:end])
        else:
            dropped = True
        if kind == b"IHDR" and header is None and size == 13:
            header = struct.unpack_from(">IIBB", encoded, at + 8)
        if header is None:
            raise BadImage(Fault.CORRUPT, "the PNG does not begin with its size")
        if kind == b"eXIf":
            exif = encoded[at + 8 : end - 4]
        kinds.add(kind)
        if kind == b"IEND":
            width, height, bits, color_type = header
            if not height or not width:
                raise BadImage(Fault.CORRUPT, f"the PNG says it is {width} x {height} pixels")
            transparent = color_type in (4, 6) or b"tRNS" in kinds
            pixels_only = b"".join(kept) if dropped else encoded
            return PngHeader(height, width, bits, color_type, transparent, b"acTL" in kinds, exif, pixels_only)
        at = end
    raise BadImage(Fault.TRUNCATED, f"the PNG ends after {len(encoded):,} bytes, before its last chunk")


# ------------------------------------------------------------------------------------------------------------- the rest


def webp_size(encoded: bytes) -> tuple[int, int]:
    """Height and width of a WebP's canvas. Raises BadImage when they are not there."""
    kind = encoded[12:16]
    if len(encoded) < 30:
        raise BadImage(Fault.TRUNCATED, f"the WebP ends after {len(encoded)} bytes, within its header")
    if kind == b"VP8X":
        width, height = (int.from_bytes(encoded[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(encoded[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(encoded[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        raise BadImage(Fault.CORRUPT, f"the WebP begins with a chunk {kind!r}")
    return height, width


def exif_orientation(exif: bytes) -> int:
    """The orientation (1 to 8) that EXIF data asks for; 1, as it lies, when it says nothing that can be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:2] not in (b"II", b"MM"):
        return 1
    order = "<" if exif[:2] == b"II" else ">"
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, directory + 2 + 12 * entry)
            if tag == 0x0112 and kind == 3 and 1 <= value <= 8:
                return int(value)
    except struct.error:
        pass
    return 1
