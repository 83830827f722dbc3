"""What the engine makes of images from strangers: every format and mode, and everything that is wrong with them."""

import io

import numpy as np
import pillow_heif
import pytest
from hostile_images import declared_bmp, declared_gif, declared_png, declared_webp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from paligemma_engine.errors import EngineError, ImageTooLarge, InvalidImage
from paligemma_engine.preparation.decoding import ImageLimits, configure_pillow, decode_image

LIMITS = ImageLimits(max_bytes=2_000_000, max_pixels=1_000_000)
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"]
LOSSLESS = ["PNG", "GIF", "BMP", "TIFF"]
RED, BLUE, WHITE = (220, 30, 40), (30, 60, 210), (255, 255, 255)


@pytest.fixture(scope="module", autouse=True)
def pillow() -> None:
    configure_pillow(LIMITS)


def encode(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


def two_halves(mode: str = "RGB", size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Left red, right blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def assert_near(pixel: object, expected: tuple[int, int, int], tolerance: int = 12) -> None:
    assert np.abs(np.array(pixel, int) - np.array(expected, int)).max() <= tolerance, (pixel, expected)


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    image = decode_image(encode(two_halves(), name), LIMITS)
    assert (image.mode, image.size) == ("RGB", (64, 32))
    assert_near(image.getpixel((8, 16)), RED)
    assert_near(image.getpixel((56, 16)), BLUE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(name: str, orientation: int) -> None:
    """A phone held upright stores the picture lying on its side, and says so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = two_halves(size=(64, 32))
    image = decode_image(encode(picture, name, exif=exif), LIMITS)
    lies_on_its_side = orientation >= 5
    assert image.size == ((32, 64) if lies_on_its_side else (64, 32))
    first_is_red = orientation in (1, 4, 5, 6)
    assert_near(image.getpixel((2, 2)), RED if first_is_red else BLUE)


def test_orientation_of_heic_is_applied_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encode(two_halves(), "HEIF", exif=exif.tobytes()), LIMITS).size == (32, 64)


def test_unreadable_exif_is_no_reason_to_refuse() -> None:
    jpeg = encode(two_halves(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert decode_image(jpeg, LIMITS).size == (64, 32)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("JPEG", "CMYK"), ("TIFF", "CMYK"), ("TIFF", "YCbCr"), ("PNG", "P"), ("GIF", "P")],
)
def test_colour_modes(name: str, mode: str) -> None:
    image = decode_image(encode(two_halves(mode), name), LIMITS)
    assert image.mode == "RGB"
    assert_near(image.getpixel((8, 16)), RED, tolerance=40)
    assert_near(image.getpixel((56, 16)), BLUE, tolerance=40)


@pytest.mark.parametrize(("mode", "value"), [("1", 255), ("L", 120)])
def test_gray(mode: str, value: int) -> None:
    image = decode_image(encode(Image.new(mode, (8, 8), value), "PNG"), LIMITS)
    assert image.getpixel((4, 4)) == (value,) * 3


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled(name: str) -> None:
    """Pillow's own conversion cuts at 255: the whole picture would be white."""
    ramp = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    assert decode_image(encode(ramp, name), LIMITS).getpixel((4, 4)) == (156,) * 3


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bit_samples_are_refused(mode: str) -> None:
    with pytest.raises(InvalidImage, match="8 or 16 bits"):
        decode_image(encode(Image.new(mode, (8, 8)), "TIFF"), LIMITS)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_transparency_is_laid_on_white(name: str) -> None:
    """The hidden colour of transparent pixels must not come out."""
    picture = Image.new("RGBA", (32, 32), (*RED, 0))
    picture.paste((*BLUE, 255), (16, 0, 32, 32))
    options = {"lossless": True} if name == "WEBP" else {}
    image = decode_image(encode(picture, name, **options), LIMITS)
    assert_near(image.getpixel((4, 16)), WHITE)
    assert_near(image.getpixel((28, 16)), BLUE)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_is_laid_on_white(mode: str) -> None:
    picture = Image.new(mode, (8, 8), 0)
    image = decode_image(encode(picture, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0), LIMITS)
    assert image.getpixel((4, 4)) == WHITE


def test_gray_with_alpha() -> None:
    assert decode_image(encode(Image.new("LA", (8, 8), (0, 0)), "PNG"), LIMITS).getpixel((4, 4)) == WHITE


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(name: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    animated = encode(
        frames[0], name, save_all=True, append_images=frames[1:], **({"lossless": True} if name == "WEBP" else {})
    )
    assert_near(decode_image(animated, LIMITS).getpixel((8, 8)), RED)


def test_too_many_bytes() -> None:
    with pytest.raises(ImageTooLarge, match="2000001 bytes; send at most 2000000"):
        decode_image(b"\xff" * 2_000_001, LIMITS)


@pytest.mark.parametrize(
    "bomb",
    [
        declared_png(1001, 1000),
        declared_png(20_000, 20_000),
        declared_png(2_000_000_000, 2_000_000_000),
        declared_webp(13_300, 13_300),
        declared_gif(65_535, 65_535),
        declared_bmp(30_000, 30_000),
    ],
    ids=["png just over", "png", "png huge", "webp", "gif", "bmp"],
)
def test_what_declares_too_many_pixels_is_refused_before_it_is_decoded(bomb: bytes) -> None:
    with pytest.raises(ImageTooLarge):
        decode_image(bomb, LIMITS)


def test_exactly_the_limit_is_taken() -> None:
    assert decode_image(encode(Image.new("RGB", (1000, 1000)), "PNG"), LIMITS).size == (1000, 1000)


def test_a_large_heic_is_refused() -> None:
    heic = encode(Image.new("RGB", (1200, 1200)), "HEIF", quality=10)
    with pytest.raises(ImageTooLarge):
        decode_image(heic, LIMITS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_what_is_no_image(content: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode_image(content, LIMITS)


@pytest.mark.parametrize("name", ["PPM", "TGA", "ICO", "PCX"])
def test_formats_that_nobody_sends_are_not_opened(name: str) -> None:
    with pytest.raises(InvalidImage, match="this is not an image"):
        decode_image(encode(two_halves(), name), LIMITS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_off_image_is_refused_or_read(name: str) -> None:
    """Some formats can be read although their end is missing; none may fail in another way."""
    whole = encode(two_halves(), name)
    for keep in range(0, len(whole), max(1, len(whole) // 60)):
        try:
            assert decode_image(whole[:keep], LIMITS).mode == "RGB"
        except InvalidImage:
            continue


@pytest.mark.parametrize("name", FORMATS)
def test_half_of_an_image_is_refused(name: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    whole = encode(noise, name)
    with pytest.raises(InvalidImage):
        decode_image(whole[: len(whole) // 2], LIMITS)


FLIPS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6)
VALID = {name: encode(two_halves(), name) for name in FORMATS if name != "HEIF"}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(VALID)),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_flipped_bytes_never_fail_in_another_way(name: str, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(VALID[name])
    for position, value in flips:
        damaged[position % len(damaged)] = value
    try:
        image = decode_image(bytes(damaged), LIMITS)
        assert image.mode == "RGB"
        assert image.width * image.height <= LIMITS.max_pixels
    except EngineError as error:
        assert error.status == "INVALID_ARG"


def test_heic_limits_are_left_on() -> None:
    assert pillow_heif.options.DISABLE_SECURITY_LIMITS is False
