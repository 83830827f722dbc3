"""Masks by picture and label, from the gateway's REST API and from what Label Studio has stored or exported."""

import base64
import io
import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
import pycocotools.mask
from numpy.typing import NDArray
from PIL import Image

JUDGE: Final = Path(__file__).with_name("judge.py")
TIMEOUT_S: Final = 60.0
UPLOAD_PREFIX_LENGTH: Final = 9  # of a file's name: 8 characters and a hyphen, by which Label Studio makes it unique

Mask = NDArray[np.bool_]
Masks = dict[tuple[str, str], Mask]


def masks_of_segment(gateway_url: str, pictures: Mapping[str, bytes], labels: Mapping[str, list[str]]) -> Masks:
    """What /segment answers, in the pictures' own size; `labels` are those that are in each."""
    masks: Masks = {}
    for name, picture in pictures.items():
        fields = {
            "prompt": f"segment {' ; '.join(labels[name])}",
            "mask_format": "rle",
            "coordinate_space": "original",
            "return_image": "false",
        }
        response = httpx2.post(
            f"{gateway_url}/segment", data=fields, files={"image_file": picture}, timeout=TIMEOUT_S, trust_env=False
        )
        response.raise_for_status()
        for found in response.json()["masks"]:
            _add(masks, name, labels[name][found["target"]], decoded(found["mask"]))
    return masks


def masks_of_regions(tasks: Iterable[Mapping[str, Any]], python: Path) -> Masks:
    """Of brushes and bitmasks in tasks that were exported as JSON; brushes are decoded by Label Studio's own code."""
    regions = [
        (_name(task["data"]["image"]), region)
        for task in tasks
        for annotation in task["annotations"]
        for region in annotation["result"]
    ]
    brushes = [
        {"rle": region["value"]["rle"], "hw": [region["original_height"], region["original_width"]]}
        for _, region in regions
        if region["type"] == "brushlabels"
    ]
    command = [str(python), str(JUDGE)]
    answer = subprocess.run(command, input=json.dumps(brushes), stdout=subprocess.PIPE, text=True, check=True).stdout
    unpacked = iter(json.loads(answer))
    masks: Masks = {}
    for name, region in regions:
        label = region["value"][region["type"]][0]
        if region["type"] == "brushlabels":
            shape = (region["original_height"], region["original_width"])
            bits = np.unpackbits(np.frombuffer(base64.b64decode(next(unpacked)), np.uint8), count=shape[0] * shape[1])
            _add(masks, name, label, bits.reshape(shape) == 1)
        elif region["type"] == "bitmasklabels":
            content = base64.b64decode(region["value"]["imageDataURL"].partition(",")[2])
            _add(masks, name, label, np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))[:, :, 3] > 0)
    return masks


def masks_of_coco(exported: Mapping[str, Any]) -> Masks:
    """Of polygons and run lengths in COCO's format."""
    images = {image["id"]: image for image in exported["images"]}
    names = {category["id"]: category["name"] for category in exported["categories"]}
    masks: Masks = {}
    for annotation in exported["annotations"]:
        segmentation = annotation["segmentation"]
        if not segmentation:  # a rectangle
            continue
        image = images[annotation["image_id"]]
        if isinstance(segmentation, list):
            encoded = pycocotools.mask.frPyObjects(segmentation, image["height"], image["width"])
            mask = pycocotools.mask.decode(pycocotools.mask.merge(encoded)) > 0
        else:
            mask = decoded(segmentation)
        _add(masks, _name(image["file_name"]), names[annotation["category_id"]], mask)
    return masks


def intersections_over_unions(masks: Masks, expected: Masks) -> dict[tuple[str, str], float]:
    """For each expected mask, how far the other one of its picture and label equals it; 0 where there is none."""
    ious = {}
    for key, mask in expected.items():
        other = masks.get(key, np.zeros_like(mask))
        ious[key] = 0.0 if other.shape != mask.shape else float((mask & other).sum() / (mask | other).sum())
    return ious


def decoded(run_lengths: Mapping[str, Any]) -> Mask:
    """bool[H, W] of COCO's run lengths."""
    mask: Mask = pycocotools.mask.decode(dict(run_lengths)) > 0
    return mask


def _add(masks: Masks, name: str, label: str, mask: Mask) -> None:
    masks[name, label] = masks[name, label] | mask if (name, label) in masks else mask


def _name(path: str) -> str:
    return Path(path).name[UPLOAD_PREFIX_LENGTH:]
