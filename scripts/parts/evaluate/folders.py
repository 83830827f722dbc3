"""Cases from datasets in COCO's and RefCOCO's formats."""

import json
import pickle
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pycocotools.mask
from PIL import Image

from parts.evaluate.cases import Case
from parts.evaluate.protocol import Mask, Truth


def coco_cases(annotations: Path, images: Path) -> Iterator[Case]:
    """Yields `segment CATEGORY` for each category with exactly one object in the picture; crowds are skipped.

    Each is followed by a case for a category that is absent from the picture.
    """
    content = json.loads(annotations.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    for record in content["images"]:
        image = _open(images / record["file_name"])
        by_category: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in by_image[record["id"]]:
            by_category[annotation["category_id"]].append(annotation)
        absent = iter(
            sorted(names.keys() - by_category.keys(), key=lambda category: (category * 7919 + record["id"]) % 104_729)
        )
        for category, found in by_category.items():
            if len(found) != 1 or found[0].get("iscrowd"):
                continue
            yield Case(image, "segment", names[category], [_truth(found[0], image, names[category])], "category")
            if (missing := next(absent, None)) is not None:
                yield Case(image, "segment", names[missing], [], "absent")


def refcoco_cases(folder: Path, images: Path, split: str) -> Iterator[Case]:
    """Yields `segment SENTENCE` for each sentence of a split; each means one object."""
    annotations = {each["id"]: each for each in json.loads((folder / "instances.json").read_text())["annotations"]}
    files = sorted(folder.glob("refs(*).p"))
    if len(files) != 1:
        raise SystemExit(f"{folder}: one file refs(*).p is needed, found {len(files)}")
    with files[0].open("rb") as file:
        references = _PlainUnpickler(file).load()
    for reference in references:
        if reference["split"] != split:
            continue
        image = _open(images / _coco_file_name(reference["file_name"]))
        truth = _truth(annotations[reference["ann_id"]], image, "referred")
        for sentence in reference["sentences"]:
            yield Case(image, "segment", sentence["sent"], [truth], "sentence")


class _PlainUnpickler(pickle.Unpickler):
    """Reads only lists, dictionaries, strings and numbers, because other pickles could run code."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        """Refuses every class and function."""
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")


def _coco_file_name(file_name: str) -> str:
    """Removes the annotation's number, the last one in `COCO_train2014_000000581857_16.jpg`."""
    stem, suffix = file_name.rsplit(".", 1)
    return f"{stem.rsplit('_', 1)[0]}.{suffix}"


def _open(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def _truth(annotation: dict[str, Any], image: Image.Image, family: str) -> Truth:
    mask = _mask(annotation["segmentation"], image.width, image.height)
    x, y, width, height = annotation["bbox"]
    box = (x / image.width, y / image.height, (x + width) / image.width, (y + height) / image.height)
    return Truth(mask, box, family)


def _mask(segmentation: Any, width: int, height: int) -> Mask:
    """Decodes polygons, run lengths or compressed run lengths to bool[H, W]."""
    if isinstance(segmentation, list):
        encoded = pycocotools.mask.merge(pycocotools.mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = pycocotools.mask.frPyObjects(segmentation, height, width)
    else:
        encoded = segmentation
    return np.asarray(pycocotools.mask.decode(encoded), np.bool_)
