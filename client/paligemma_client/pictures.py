"""Reads a caller's picture in any of its forms into the encoded file that is sent."""

import base64
import binascii
import io
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from paligemma_client.errors import InvalidPicture

# A path, an address (http:, https:, data:), an encoded file, or pixels: uint8[H, W] gray, uint8[H, W, 3] RGB.
Picture = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

_GRAY_DIMENSIONS: Final = 2
_RGB_SHAPE: Final = (3, 3)  # number of dimensions, channels
_FAST_PNG: Final = 1  # zlib's level: the file is sent once, so a small gain in size is not worth the time


def is_web_address(picture: Picture) -> bool:
    """Whether a picture must be fetched from the web first."""
    return isinstance(picture, str) and picture[:8].lower().startswith(("http://", "https://"))


def read_picture(picture: Picture) -> bytes:
    """Returns the encoded file of a picture that is not a web address.

    Raises:
        InvalidPicture: there is no such file, or the pixels are of another type or shape.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, Image.Image):
        return _encode(ImageOps.exif_transpose(picture))
    if isinstance(picture, np.ndarray):
        return _encode(_image_of(picture))
    if isinstance(picture, str) and picture[:5].lower() == "data:":
        return _read_data_address(picture)
    try:
        return Path(picture).read_bytes()
    except OSError as error:
        raise InvalidPicture(f"the picture cannot be read: {error}") from error


def open_upright(encoded: bytes) -> Image.Image:
    """The picture in RGB, turned as its EXIF orientation says, as the server sees it."""
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            upright = ImageOps.exif_transpose(opened)
            return upright.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidPicture(f"the picture cannot be decoded on this side: {error}") from error


def encode_png(image: Image.Image) -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=_FAST_PNG)
    return buffer.getvalue()


def _encode(image: Image.Image) -> bytes:
    """A PNG of an image in any of Pillow's modes."""
    return encode_png(image if image.mode in {"1", "L", "LA", "P", "RGB", "RGBA"} else image.convert("RGB"))


def _image_of(pixels: NDArray[Any]) -> Image.Image:
    is_gray = pixels.ndim == _GRAY_DIMENSIONS
    is_rgb = (pixels.ndim, pixels.shape[-1] if pixels.ndim else 0) == _RGB_SHAPE
    if pixels.dtype != np.uint8 or not (is_gray or is_rgb) or pixels.size == 0:
        found = f"{pixels.dtype}{list(pixels.shape)}"
        raise InvalidPicture(f"pixels must be uint8[H, W, 3] in RGB or uint8[H, W], and are {found}")
    return Image.fromarray(pixels)


def _read_data_address(address: str) -> bytes:
    head, comma, data = address.partition(",")
    if not comma:
        raise InvalidPicture("the data: address has no comma, so it holds no picture")
    raw = unquote_to_bytes(data)
    if not head.lower().endswith(";base64"):
        return raw
    try:
        return base64.b64decode(raw, validate=True)
    except binascii.Error as error:
        raise InvalidPicture("the data: address is not valid base64") from error
