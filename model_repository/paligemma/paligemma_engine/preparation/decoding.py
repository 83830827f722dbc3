"""Decodes untrusted images of any common format, within limits."""

import io
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from paligemma_engine.errors import ImageTooLarge, InvalidImage

# Pillow opens more than 40 formats by default; most of its security fixes are in rarely used ones.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
FORMAT_NAMES: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"

_WHITE: Final = (255, 255, 255, 255)
_SIXTEEN_BIT_STEP: Final = 257  # 65535 / 255: one 8-bit step in 16-bit values
_ORIENTATION_TAG: Final = 0x0112


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of an image: its encoded bytes, and the pixels that its header declares."""

    max_bytes: int
    max_pixels: int


def configure_pillow(limits: ImageLimits) -> None:
    """Called once per process. Adds HEIC support and sets Pillow's own size guard to our limit."""
    pillow_heif.register_heif_opener()
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"PIL\."
    )  # unusual files are expected; they are no reason for a warning


def decode_image(encoded: bytes, limits: ImageLimits) -> Image.Image:
    """Returns an upright RGB image: EXIF orientation applied, transparency on white, an animation's first frame.

    The limits are checked on the header, before anything is decoded.

    Raises:
        ImageTooLarge: too many bytes, or too many pixels declared.
        InvalidImage: the format is not accepted, or the file is damaged.
    """
    if len(encoded) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(encoded)} bytes; send at most {limits.max_bytes}")
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            _check_pixels(image, limits)
            image.load()
            return _to_rgb(_upright(image))
    except (ImageTooLarge, InvalidImage):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the image declares too many pixels; send at most {limits.max_pixels}") from error
    except UnidentifiedImageError as error:
        raise InvalidImage(f"this is not an image; send {FORMAT_NAMES}") from error
    except Exception as error:  # codecs raise many kinds of errors on malformed bytes
        raise InvalidImage("the image is damaged or cut off and cannot be decoded") from error


def _check_pixels(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageTooLarge(f"the image is {width} x {height} pixels; send at most {limits.max_pixels} in all")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block does not make the image unreadable
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts 16-bit values off at 255 instead of scaling them.
        scaled = np.rint(np.asarray(image).astype(np.float32) / _SIXTEEN_BIT_STEP)
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InvalidImage("images with 32-bit samples have no agreed range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        # convert("RGB") alone would bring out the hidden colours of transparent pixels.
        foreground = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), foreground).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
