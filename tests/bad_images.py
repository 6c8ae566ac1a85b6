"""Bad and odd images as the world has them, made by code: each with what must be said of it."""

import gzip
import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.data.decoding import Fault, Oddity

HEIGHT, WIDTH = 30, 40


class BadImageCase(NamedTuple):
    """An image that is bad (a fault) or odd (oddities), or neither although it looks it."""

    encoded: bytes
    fault: Fault | None = None
    oddities: tuple[str, ...] = ()
    """Sorted."""


def picture(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Smooth colours, some noise: (height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([4 * y + x, 2 * x + 60, 200 - 3 * y], axis=-1)
    noise = np.random.default_rng(0).integers(0, 20, (height, width, 3))
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    """The bytes that Pillow writes."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def patched(encoded: bytes, at: int, new: bytes) -> bytes:
    """The bytes with some of them replaced."""
    return encoded[:at] + new + encoded[at + len(new) :]


# ------------------------------------------------------------------------------------------------------------------ PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, color: int, lines: bytes, *between: bytes, interlaced: int = 0) -> bytes:
    """A PNG of these lines, each with its filter byte."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced))
    pixels = chunk(b"IDAT", zlib.compress(lines))
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *between, pixels, chunk(b"IEND", b"")])


def lines_of(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Lines without a filter, in the order of bytes that PNG has."""
    big_endian = image.astype(image.dtype.newbyteorder(">"))
    return b"".join(b"\0" + line.tobytes() for line in big_endian)


def _interlaced() -> bytes:
    image = picture()
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = b"".join(lines_of(image[y::down, x::right]) for y, x, down, right in passes)
    return png(WIDTH, HEIGHT, 8, 2, lines, interlaced=1)


def _png_cases() -> dict[str, BadImageCase]:
    rgb = Image.fromarray(picture())
    grey = rgb.convert("L")
    plain = saved(rgb, "PNG")
    palette = rgb.quantize(16)
    deep = picture().astype(np.uint16) * 257
    lines = lines_of(picture())
    bomb = zlib.compress(bytes(64_000_000), 9)
    return {
        "png": BadImageCase(plain),
        "png-interlaced": BadImageCase(_interlaced()),
        "png-1-bit": BadImageCase(saved(rgb.convert("1"), "PNG"), None, (Oddity.GREY,)),
        "png-grey": BadImageCase(saved(grey, "PNG"), None, (Oddity.GREY,)),
        "png-grey-alpha": BadImageCase(saved(grey.convert("LA"), "PNG"), None, (Oddity.ALPHA, Oddity.GREY)),
        "png-grey-transparent": BadImageCase(saved(grey, "PNG", transparency=90), None, (Oddity.ALPHA, Oddity.GREY)),
        "png-rgba": BadImageCase(saved(rgb.convert("RGBA"), "PNG"), None, (Oddity.ALPHA,)),
        "png-palette": BadImageCase(saved(palette, "PNG"), None, (Oddity.PALETTE,)),
        "png-palette-transparent": BadImageCase(
            saved(palette, "PNG", transparency=bytes(range(16))), None, (Oddity.ALPHA, Oddity.PALETTE)
        ),
        "png-16-bit-grey": BadImageCase(
            png(WIDTH, HEIGHT, 16, 0, lines_of(deep[..., 0])), None, (Oddity.DEEP, Oddity.GREY)
        ),
        "png-16-bit-rgb": BadImageCase(png(WIDTH, HEIGHT, 16, 2, lines_of(deep)), None, (Oddity.DEEP,)),
        "png-animated": BadImageCase(
            saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)]), None, (Oddity.ANIMATED,)
        ),
        "png-animated-wrongly": BadImageCase(
            png(WIDTH, HEIGHT, 8, 2, lines, chunk(b"acTL", struct.pack(">II", 0, 0))), None, (Oddity.ANIMATED,)
        ),
        "png-text-bomb": BadImageCase(png(WIDTH, HEIGHT, 8, 2, lines, chunk(b"zTXt", b"a\0\0" + bomb))),
        "png-profile-bomb": BadImageCase(png(WIDTH, HEIGHT, 8, 2, lines, chunk(b"iCCP", b"a\0\0" + bomb))),
        "png-too-much-data": BadImageCase(png(1, 1, 8, 0, bytes(64_000_000)), None, (Oddity.GREY,)),
        "png-bomb": BadImageCase(png(50_000, 50_000, 8, 2, b""), Fault.TOO_LARGE),
        "png-no-size": BadImageCase(png(0, 0, 8, 2, b""), Fault.CORRUPT),
        "png-too-little-data": BadImageCase(png(WIDTH, HEIGHT, 8, 2, lines[:500]), Fault.TRUNCATED),
        "png-wrong-checksum": BadImageCase(patched(plain, 29, b"\0\0\0\0"), Fault.CORRUPT),
        "png-flipped-bit": BadImageCase(patched(plain, 900, bytes([plain[900] ^ 4])), Fault.CORRUPT),
        "png-truncated": BadImageCase(plain[: len(plain) // 2], Fault.TRUNCATED),
        "png-truncated-at-its-end": BadImageCase(plain[:-1], Fault.TRUNCATED),
        "png-signature-only": BadImageCase(plain[:8], Fault.TRUNCATED),
        "png-no-header": BadImageCase(plain[:8] + plain[33:], Fault.CORRUPT),
        "png-odd-depth": BadImageCase(png(WIDTH, HEIGHT, 7, 2, lines), Fault.CORRUPT),
    }


# ----------------------------------------------------------------------------------------------------------------- JPEG


def _many_scans(progressive: bytes) -> bytes:
    """A progressive JPEG whose last scan comes 1,000 times."""
    last = progressive.rfind(b"\xff\xda")
    tables = progressive.rfind(b"\xff\xc4", 0, last)
    return progressive[:tables] + progressive[tables:-2] * 1000 + b"\xff\xd9"


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _jpeg_cases() -> dict[str, BadImageCase]:
    rgb = Image.fromarray(picture())
    plain = saved(rgb, "JPEG", quality=90)
    frame = plain.index(b"\xff\xc0")
    scan = plain.index(b"\xff\xda") + 14
    middle = (scan + len(plain)) // 2
    progressive = saved(rgb, "JPEG", quality=90, progressive=True)
    cmyk = saved(rgb.convert("CMYK"), "JPEG", quality=90)
    adobe = cmyk.index(b"Adobe")
    random = np.random.default_rng(1).bytes(3000)
    return {
        "jpeg": BadImageCase(plain),
        "jpeg-progressive": BadImageCase(progressive),
        "jpeg-restarts": BadImageCase(saved(rgb, "JPEG", restart_marker_rows=1)),
        "jpeg-1x1": BadImageCase(saved(rgb.resize((1, 1)), "JPEG")),
        "jpeg-1x5000": BadImageCase(saved(rgb.resize((1, 5000)), "JPEG")),
        "jpeg-grey": BadImageCase(saved(rgb.convert("L"), "JPEG"), None, (Oddity.GREY,)),
        "jpeg-cmyk": BadImageCase(cmyk, None, (Oddity.CMYK,)),
        "jpeg-ycck": BadImageCase(patched(cmyk, adobe + 11, b"\x02"), None, (Oddity.CMYK,)),
        "jpeg-exif-rotated": BadImageCase(saved(rgb, "JPEG", exif=_turned()), None, (Oddity.ROTATED,)),
        "jpeg-broken-exif": BadImageCase(saved(rgb, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")),
        "jpeg-cmyk-broken-exif": BadImageCase(
            saved(rgb.convert("CMYK"), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"), None, (Oddity.CMYK,)
        ),
        "jpeg-trailing-bytes": BadImageCase(plain + b"and more" * 99, None, (Oddity.EXTRA_BYTES,)),
        "jpeg-bytes-before-its-end": BadImageCase(
            plain[:-2] + b"\x01\x02" * 9 + plain[-2:], None, (Oddity.EXTRA_BYTES,)
        ),
        "jpeg-undetectably-flipped-bit": BadImageCase(patched(plain, scan + 6, bytes([plain[scan + 6] ^ 1]))),
        "jpeg-end-in-its-middle": BadImageCase(patched(plain, middle, b"\xff\xd9" * 10), Fault.CORRUPT),
        "jpeg-wrong-huffman-table": BadImageCase(patched(plain, plain.index(b"\xff\xc4") + 5, b"\xff"), Fault.CORRUPT),
        "jpeg-magic-only": BadImageCase(b"\xff\xd8\xff", Fault.TRUNCATED),
        "jpeg-two-bytes": BadImageCase(b"\xff\xd8", Fault.TRUNCATED),
        "jpeg-truncated-in-its-header": BadImageCase(plain[: frame + 4], Fault.TRUNCATED),
        "jpeg-truncated-before-its-pixels": BadImageCase(plain[:scan], Fault.TRUNCATED),
        "jpeg-truncated": BadImageCase(plain[:middle], Fault.TRUNCATED),
        "jpeg-without-its-end": BadImageCase(plain[:-2], Fault.TRUNCATED),
        "jpeg-without-its-last-byte": BadImageCase(plain[:-1], Fault.TRUNCATED),
        "jpeg-progressive-truncated": BadImageCase(progressive[: len(progressive) // 2], Fault.TRUNCATED),
        "jpeg-cmyk-truncated": BadImageCase(cmyk[:-40], Fault.TRUNCATED),
        "jpeg-1000-scans": BadImageCase(_many_scans(progressive), Fault.CORRUPT),
        "jpeg-12-bit": BadImageCase(patched(plain, frame + 4, b"\x0c"), Fault.UNSUPPORTED),
        "jpeg-lossless": BadImageCase(patched(plain, frame + 1, b"\xc3"), Fault.UNSUPPORTED),
        "jpeg-not-arithmetic": BadImageCase(patched(plain, frame + 1, b"\xc9"), Fault.CORRUPT),
        "jpeg-2-components": BadImageCase(patched(plain, frame + 9, b"\x02"), Fault.UNSUPPORTED),
        "jpeg-no-height": BadImageCase(patched(plain, frame + 5, b"\0\0"), Fault.CORRUPT),
        "jpeg-bomb": BadImageCase(patched(plain, frame + 5, b"\xff\xdc\xff\xdc"), Fault.TOO_LARGE),
        "jpeg-no-frame": BadImageCase(plain[:frame] + plain[frame + 19 :], Fault.CORRUPT),
        "jpeg-random": BadImageCase(b"\xff\xd8\xff" + random, Fault.TRUNCATED),
        "jpeg-random-pixels": BadImageCase(plain[:scan] + random + b"\xff\xd9", Fault.CORRUPT),
    }


# -------------------------------------------------------------------------------------------------------- other formats


def _many_frames(frames: int) -> bytes:
    """A GIF of 1 x 1 pixels."""
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def _tiff_bomb() -> bytes:
    entries = ((256, 60_000), (257, 60_000), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 60_000), (279, 9))
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4)


def _webp_bomb() -> bytes:
    size = (16_383 - 1).to_bytes(3, "little")
    data = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + size
    return b"RIFF" + struct.pack("<I", len(data)) + data


def _moving(format: str, **options: object) -> bytes:
    rgb = Image.fromarray(picture())
    return saved(rgb, format, save_all=True, append_images=[rgb.rotate(180)], **options)


def _other_cases() -> dict[str, BadImageCase]:
    rgb = Image.fromarray(picture())
    palette = rgb.quantize(16)
    gif, bmp, webp = saved(palette, "GIF"), saved(rgb, "BMP"), saved(rgb, "WEBP")
    deep = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    numbers = Image.fromarray(picture()[..., 0].astype(np.float32) / 255)
    ppm, lzw = saved(rgb, "PPM"), saved(rgb, "TIFF", compression="tiff_lzw")
    return {
        "gif": BadImageCase(gif, None, (Oddity.PALETTE,)),
        "gif-animated": BadImageCase(_moving("GIF"), None, (Oddity.ANIMATED, Oddity.PALETTE)),
        "gif-100,000-frames": BadImageCase(_many_frames(100_000), None, (Oddity.ANIMATED, Oddity.PALETTE)),
        "gif-truncated": BadImageCase(gif[: len(gif) // 2], Fault.TRUNCATED),
        "gif-header-only": BadImageCase(gif[:13], Fault.TRUNCATED),
        "gif-bomb": BadImageCase(patched(gif, 6, b"\xff\xff\xff\xff"), Fault.TOO_LARGE),
        "webp": BadImageCase(webp),
        "webp-lossless-alpha": BadImageCase(
            saved(Image.merge("RGBA", [*rgb.split(), rgb.getchannel(0)]), "WEBP", lossless=True), None, (Oddity.ALPHA,)
        ),
        "webp-animated": BadImageCase(_moving("WEBP"), None, (Oddity.ANIMATED,)),
        "webp-truncated": BadImageCase(webp[: len(webp) // 2], Fault.CORRUPT),
        "webp-header-only": BadImageCase(webp[:16], Fault.TRUNCATED),
        "webp-bomb": BadImageCase(_webp_bomb(), Fault.TOO_LARGE),
        "bmp": BadImageCase(bmp),
        "bmp-palette": BadImageCase(saved(palette, "BMP"), None, (Oddity.PALETTE,)),
        "bmp-truncated": BadImageCase(bmp[: len(bmp) // 2], Fault.TRUNCATED),
        "bmp-bomb": BadImageCase(patched(bmp, 18, struct.pack("<II", 60_000, 60_000)), Fault.TOO_LARGE),
        "tiff-16-bit": BadImageCase(saved(deep, "TIFF"), None, (Oddity.DEEP, Oddity.GREY)),
        "tiff-lzw": BadImageCase(lzw),
        "tiff-lzw-truncated": BadImageCase(lzw[: len(lzw) - 700], Fault.CORRUPT),
        "tiff-pages": BadImageCase(_moving("TIFF"), None, (Oddity.ANIMATED,)),
        "tiff-cmyk": BadImageCase(saved(rgb.convert("CMYK"), "TIFF"), None, (Oddity.CMYK,)),
        "tiff-float": BadImageCase(saved(numbers, "TIFF"), Fault.UNSUPPORTED),
        "tiff-bomb": BadImageCase(_tiff_bomb(), Fault.TOO_LARGE),
        "tiff-no-directory": BadImageCase(b"II*\0\xff\xff\xff\x7f", Fault.CORRUPT),
        "ppm": BadImageCase(ppm),
        "ppm-16-bit-grey": BadImageCase(saved(deep, "PPM"), None, (Oddity.DEEP, Oddity.GREY)),
        "ppm-truncated": BadImageCase(ppm[:500], Fault.TRUNCATED),
        "ppm-bomb": BadImageCase(b"P6\n60000 60000\n255\n", Fault.TOO_LARGE),
    }


def _no_images() -> dict[str, BadImageCase]:
    html = b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>"
    files: dict[str, bytes] = {
        "html": html,
        "text": "not an image, \u00e4 text".encode(),
        "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
        "gzip": gzip.compress(html),
        "icon": saved(Image.fromarray(picture()), "ICO"),
        "film": b"\0\0\0\x18ftypmp42" + bytes(100),
        "sound": b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(28),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "zeros": bytes(1000),
        "random": np.random.default_rng(2).bytes(1000),
        "1-byte": b"x",
    }
    return {
        "empty": BadImageCase(b"", Fault.EMPTY),
        "1-byte-of-a-jpeg": BadImageCase(b"\xff", Fault.TRUNCATED),
        **{name: BadImageCase(encoded, Fault.UNKNOWN) for name, encoded in files.items()},
    }


CORPUS: dict[str, BadImageCase] = {**_jpeg_cases(), **_png_cases(), **_other_cases(), **_no_images()}
"""By name."""
