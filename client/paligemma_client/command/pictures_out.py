"""Writes the files of each finished picture: masks, overlays, cut-outs."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from paligemma_client.command.atomic import written_whole
from paligemma_client.command.jobs import Job
from paligemma_client.command.options import Options
from paligemma_client.drawing import cut_out, draw_objects
from paligemma_client.objects import FoundObject, Result

OVERLAY_QUALITY: Final = 90
MAX_SLUG_CHARS: Final = 40


class PictureWriter(ABC):
    """Writes files about one picture into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @abstractmethod
    def files(self, job: Job, objects: Sequence[FoundObject]) -> list[Path]:
        """Returns the files of a finished picture."""

    @abstractmethod
    def write(self, job: Job, result: Result) -> None:
        """Writes them."""

    def _numbered(self, job: Job, objects: Sequence[FoundObject]) -> Iterator[tuple[FoundObject, Path]]:
        """A file for each object: picture, number, category."""
        for number, found in enumerate(objects):
            yield found, self._folder / f"{job.base}_{number:02d}_{_slug(found.category)}.png"


class MaskWriter(PictureWriter):
    """Black and white PNGs of the picture's size; objects without a mask have none."""

    def files(self, job: Job, objects: Sequence[FoundObject]) -> list[Path]:
        """One for each mask."""
        return [path for found, path in self._numbered(job, objects) if found.run_lengths is not None]

    def write(self, job: Job, result: Result) -> None:
        """Writes them."""
        for found, path in self._numbered(job, result.objects):
            mask = found.mask
            if mask is not None:
                with written_whole(path) as file:
                    Image.fromarray(mask).save(file, "PNG")


class CutoutWriter(PictureWriter):
    """PNGs of the objects' boxes, transparent where the mask is not."""

    def files(self, job: Job, objects: Sequence[FoundObject]) -> list[Path]:
        """One for each object."""
        return [path for _, path in self._numbered(job, objects)]

    def write(self, job: Job, result: Result) -> None:
        """Writes them."""
        if not result.objects:
            return
        image = result.image()
        for found, path in self._numbered(job, result.objects):
            with written_whole(path) as file:
                cut_out(image, found).save(file, "PNG")


class OverlayWriter(PictureWriter):
    """JPEGs with masks, boxes, labels and scores, also of pictures without objects."""

    def files(self, job: Job, objects: Sequence[FoundObject]) -> list[Path]:  # noqa: ARG002
        """One."""
        return [self._folder / f"{job.base}.jpg"]

    def write(self, job: Job, result: Result) -> None:
        """Writes it."""
        (path,) = self.files(job, result.objects)
        with written_whole(path) as file:
            draw_objects(result.image(), result.objects).save(file, "JPEG", quality=OVERLAY_QUALITY)


def picture_writers(options: Options) -> list[PictureWriter]:
    """Returns the writers that the command line asks for."""
    wanted = ((options.masks, MaskWriter), (options.cutouts, CutoutWriter), (options.overlays, OverlayWriter))
    return [writer(folder) for folder, writer in wanted if folder is not None]


def _slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^\w-]+", "-", text).strip("-")[:MAX_SLUG_CHARS] or "object"
