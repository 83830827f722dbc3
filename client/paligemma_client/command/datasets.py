"""What is written of all pictures together, from the journal: COCO, YOLO, JSON lines."""

import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final

from paligemma_client.command.atomic import written_whole
from paligemma_client.command.jobs import Job
from paligemma_client.command.journal import Journal, Record, objects_of
from paligemma_client.command.options import Options
from paligemma_client.formats import to_coco
from paligemma_client.objects import FoundObject
from paligemma_client.outlines import joined, signed_area
from paligemma_client.pictures import is_web_address
from paligemma_client.questions import targets_of

YOLO_DECIMALS: Final = 6


class Dataset:
    """The pictures that are done, in the order of the command line, and their categories."""

    def __init__(self, jobs: Sequence[Job], journal: Journal) -> None:
        self._jobs = [job for job in jobs if job.key in journal]
        self._journal = journal
        asked = [target for job in jobs for prompt in job.prompts for target in targets_of(prompt)]
        found = sorted({found.category for _, _, objects in self.pictures() for found in objects})
        self.categories: list[str] = list(dict.fromkeys([*asked, *found]))

    def pictures(self) -> Iterator[tuple[Job, Record, list[FoundObject]]]:
        """Each picture that is done, once."""
        for job in self._jobs:
            record = self._journal.read(job.key)
            yield job, record, objects_of(record)


def write_datasets(options: Options, jobs: Sequence[Job], journal: Journal) -> None:
    """Those that the command line asks for."""
    dataset = Dataset(jobs, journal)
    if options.coco is not None:
        write_coco(options.coco, dataset)
    if options.yolo is not None:
        write_yolo(options.yolo, dataset)
    if options.jsonl is not None:
        write_json_lines(options.jsonl, dataset)


def write_coco(path: Path, dataset: Dataset) -> None:
    """One file with images, annotations and categories; ids count from 1."""
    ids = {category: number for number, category in enumerate(dataset.categories, start=1)}
    with written_whole(path) as file:
        file.write(b'{"info": {"description": "made by paligemma-segment"}, "licenses": [],\n"categories": ')
        _write_array(file, ({"id": number, "name": name, "supercategory": ""} for name, number in ids.items()))
        file.write(b',\n"images": ')
        _write_array(file, _coco_images(dataset))
        file.write(b',\n"annotations": ')
        _write_array(file, _coco_annotations(dataset, ids))
        file.write(b"}\n")


def write_json_lines(path: Path, dataset: Dataset) -> None:
    """A line for each picture: what the journal has of it."""
    with written_whole(path) as file:
        for job, record, _ in dataset.pictures():
            line = {**record, "prompts": job.prompts}
            del line["key"]
            file.write(json.dumps(line).encode() + b"\n")


def write_yolo(folder: Path, dataset: Dataset) -> None:
    """Labels, links to the pictures beside them, and data.yaml; what Ultralytics trains on as it is."""
    for job, record, objects in dataset.pictures():
        rows = [_yolo_row(found, record, dataset.categories.index(found.category)) for found in objects]
        with written_whole(folder / "labels" / f"{job.base}.txt") as file:
            file.write("".join(f"{row}\n" for row in rows if row).encode())
        _link(folder / "images" / f"{job.base}{Path(job.name).suffix}", job.source)
    names = "".join(f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(dataset.categories))
    paths = f"path: {json.dumps(str(folder.resolve()))}\ntrain: images\nval: images\n"
    with written_whole(folder / "data.yaml") as file:
        file.write(f"{paths}names:\n{names}".encode())


def _coco_images(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for number, (job, record, _) in enumerate(dataset.pictures(), start=1):
        image = {"id": number, "file_name": job.name, "width": record["width"], "height": record["height"]}
        yield {**image, "coco_url": job.source} if is_web_address(job.source) else image


def _coco_annotations(dataset: Dataset, category_ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    annotation_ids = count(1)
    for number, (_, _, objects) in enumerate(dataset.pictures(), start=1):
        for annotation in to_coco(objects, image_id=number, category_ids=category_ids):
            yield {**annotation, "id": next(annotation_ids)}


def _write_array(file: BinaryIO, entries: Iterator[dict[str, Any]]) -> None:
    """Entry by entry: a data set may be larger than memory."""
    file.write(b"[")
    for number, entry in enumerate(entries):
        file.write((b",\n" if number else b"\n") + json.dumps(entry).encode())
    file.write(b"]")


def _yolo_row(found: FoundObject, record: Record, category: int) -> str:
    """Category and outline as shares of the picture; parts are joined to one ring, holes are filled, as YOLO wants."""
    width, height = record["width"], record["height"]
    outer = [ring for ring in found.polygon() if signed_area(ring) > 0]
    if not outer and found.run_lengths is not None:
        return ""  # an empty mask
    if outer:
        numbers = (joined(outer) / [width, height]).ravel().tolist()
    else:
        x_min, y_min, x_max, y_max = found.box_xyxy
        centre = [(x_min + x_max) / 2 / width, (y_min + y_max) / 2 / height]
        numbers = [*centre, (x_max - x_min) / width, (y_max - y_min) / height]
    return " ".join([str(category), *(f"{number:.{YOLO_DECIMALS}f}" for number in numbers)])


def _link(link: Path, source: str) -> None:
    """A picture beside its labels; one from the web has to be put there by hand."""
    if is_web_address(source):
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(source).resolve())
