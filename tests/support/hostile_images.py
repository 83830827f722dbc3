"""Images that strangers might send: declared sizes that no memory holds, mutated and cut-off files of every format."""

import io
import random
import struct
import zlib
from collections.abc import Iterator

import pillow_heif
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")


def declared_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def declared_webp(width: int, height: int) -> bytes:
    """A lossless WebP of 36 bytes that declares any size up to 16384 x 16384."""
    bits = (width - 1) | (height - 1) << 14
    payload = b"\x2f" + struct.pack("<I", bits) + bytes(11)
    chunk = b"VP8L" + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def declared_gif(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x02\x00;"
    )


def declared_bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def bombs() -> dict[str, bytes]:
    """A few bytes each that declare more pixels than anybody may send."""
    return {
        "webp of 36 bytes": declared_webp(13_300, 13_300),
        "png": declared_png(20_000, 20_000),
        "png of the largest size": declared_png(2_000_000_000, 2_000_000_000),
        "gif": declared_gif(65_535, 65_535),
        "bmp": declared_bmp(30_000, 30_000),
    }


def damaged_images(count: int, *, seed: int = 0) -> Iterator[bytes]:
    """Files of every format in turn, each with some bytes changed, cut out, doubled, or its end cut off."""
    pillow_heif.register_heif_opener()
    generator = random.Random(seed)
    whole = {name: _encode(name) for name in FORMATS}
    for number in range(count):
        damaged = bytearray(whole[FORMATS[number % len(FORMATS)]])
        start = generator.randrange(len(damaged))
        match generator.randrange(5):
            case 0:
                del damaged[start:]
            case 1:
                del damaged[start : start + generator.randint(1, 16)]
            case 2:
                damaged[start:start] = damaged[start : start + generator.randint(1, 64)]
            case 3:  # headers are where sizes and offsets are
                for _ in range(generator.randint(1, 4)):
                    damaged[generator.randrange(min(64, len(damaged)))] = generator.choice((0, 0x7F, 0xFF))
            case _:
                for _ in range(generator.randint(1, 30)):
                    damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        yield bytes(damaged)


def _encode(name: str) -> bytes:
    picture = Image.merge("RGB", [Image.radial_gradient("L").resize((160, 120)).rotate(90 * turn) for turn in range(3)])
    buffer = io.BytesIO()
    picture.save(buffer, format=name)
    return buffer.getvalue()
