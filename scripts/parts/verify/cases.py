"""Pictures and prompts to compare answers on: drawn ones, or those of a folder."""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from paligemma_engine.errors import EngineError
from paligemma_engine.preparation.decoding import ImageLimits, configure_pillow, decode_image
from parts.scenes import Scene, draw_scene
from parts.verify.errors import CannotVerify

SAMPLE: Final = Path(__file__).resolve().parent.parent.parent.parent / "docs" / "sample.png"
SAMPLE_PROMPTS: Final = (
    "segment green diamond ; blue star ; yellow heart ; cyan ring",
    "detect blue star ; cyan ring",
    "caption en",
)
FOLDER_PROMPTS: Final = ("segment person", "segment person ; car ; sky", "detect person", "segment unicorn", "cap en")
ABSENT: Final = "segment brown submarine"
CAPTION: Final = "caption en"
DRAWN_SIZES: Final = ((320, 240), (97, 641), (448, 448))  # width and height
SMALL_SIZE: Final = (61, 53)
JPEG_QUALITY: Final = 90
ORIENTATION_TAG: Final = 0x0112
# EXIF's value, and the transposition that makes such pixels upright (EXIF 2.32, tag Orientation).
ORIENTATIONS: Final = ((6, Image.Transpose.ROTATE_270), (7, Image.Transpose.TRANSVERSE))
WHITE: Final = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture, and its pixels before resizing as the model must get them: RGB and upright."""

    name: str
    encoded: bytes
    upright: Image.Image


@dataclass(frozen=True, slots=True)
class Case:
    """One request."""

    picture: Picture
    prompt: str

    @property
    def name(self) -> str:
        """Its name in reports."""
        return f"{self.picture.name}: {self.prompt}"


def drawn_cases(count: int) -> list[Case]:
    """The sample and drawn scenes, `count` pictures: JPEG and PNG, odd sizes, EXIF orientations, transparency.

    The prompts of each scene ask for one object, several, an absent one, a box and a caption.
    """
    sample = Picture("sample.png", SAMPLE.read_bytes(), Image.open(SAMPLE).convert("RGB"))
    cases = [Case(sample, prompt) for prompt in SAMPLE_PROMPTS]
    for picture, scene in itertools.islice(_drawn_pictures(), count - 1):
        cases += [Case(picture, prompt) for prompt in _prompts(scene)]
    return cases


def folder_cases(folder: Path, prompts: Sequence[str], limits: ImageLimits, count: int) -> tuple[list[Case], list[str]]:
    """The first `count` pictures of a folder with these prompts, and the reasons why other files were left out.

    Raises:
        CannotVerify: the folder has no picture that the server accepts.
    """
    if not folder.is_dir():
        raise CannotVerify(f"{folder} is no folder; name one with pictures")
    configure_pillow(limits)
    pictures: list[Picture] = []
    skipped: list[str] = []
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        if len(pictures) == count:
            break
        encoded = file.read_bytes()
        try:
            pictures.append(Picture(file.name, encoded, decode_image(encoded, limits)))
        except EngineError as error:
            skipped.append(f"{file.name}: {error}")
    if not pictures:
        raise CannotVerify(f"{folder} has no picture that the server takes; name another folder")
    return [Case(picture, prompt) for picture in pictures for prompt in prompts], skipped


def _drawn_pictures() -> list[tuple[Picture, Scene]]:
    made = []
    for seed, size in enumerate(DRAWN_SIZES):
        scene = draw_scene(seed, size=size)
        made.append((_as_jpeg(f"drawn {size[0]}x{size[1]} JPEG", scene.image), scene))
    for seed, (orientation, to_upright) in enumerate(ORIENTATIONS, start=len(made)):
        scene = draw_scene(seed)
        made.append((_turned(scene.image, orientation, to_upright), scene))
    scene = draw_scene(len(made))
    made.append((_transparent(scene.image), scene))
    scene = draw_scene(len(made), size=SMALL_SIZE)
    made.append((_as_png("drawn small gray PNG", scene.image.convert("L")), scene))
    return made


def _prompts(scene: Scene) -> list[str]:
    names = [found.name for found in scene.objects]
    several = " ; ".join([*names, "brown submarine"])
    return [f"segment {names[0]}", f"segment {several}", ABSENT, f"detect {names[-1]}", CAPTION]


def _as_jpeg(name: str, image: Image.Image) -> Picture:
    encoded = _encode(image, "JPEG", quality=JPEG_QUALITY)
    return Picture(name, encoded, Image.open(io.BytesIO(encoded)).convert("RGB"))


def _as_png(name: str, image: Image.Image) -> Picture:
    return Picture(name, _encode(image, "PNG"), image.convert("RGB"))


def _turned(image: Image.Image, orientation: int, to_upright: Image.Transpose) -> Picture:
    """A JPEG as a turned camera stores it: pixels not upright, with an EXIF orientation."""
    from_upright = Image.Transpose.ROTATE_90 if to_upright is Image.Transpose.ROTATE_270 else to_upright
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    encoded = _encode(image.transpose(from_upright), "JPEG", quality=JPEG_QUALITY, exif=exif)
    stored = Image.open(io.BytesIO(encoded)).convert("RGB")
    return Picture(f"drawn, EXIF orientation {orientation}", encoded, stored.transpose(to_upright))


def _transparent(image: Image.Image) -> Picture:
    """A PNG whose right quarter is transparent; the colours there must not reach the model, which sees white."""
    visible = Image.new("L", image.size, 255)
    hidden = (image.width * 3 // 4, 0, image.width, image.height)
    visible.paste(0, hidden)
    with_alpha = image.convert("RGBA")
    with_alpha.putalpha(visible)
    upright = image.copy()
    upright.paste(WHITE, hidden)
    return Picture("drawn PNG with alpha", _encode(with_alpha, "PNG"), upright)


def _encode(image: Image.Image, picture_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()
