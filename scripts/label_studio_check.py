"""Proves the Label Studio backend with a real Label Studio: predictions made, stored, and exported.

Installs Label Studio into an environment of its own, starts it with an empty database, and connects the gateway as its
machine learning backend through Label Studio's own API. Then, for brushes, bitmasks and polygons: uploads drawn
pictures, has predictions made, makes annotations of them, exports these, and compares them with the masks of /segment.

    python scripts/label_studio_check.py
    python scripts/label_studio_check.py --picture editor.png       # also draws the editor; needs /usr/bin/chromium
    python scripts/label_studio_check.py --triton 127.0.0.1:8011    # with a Triton that runs already
"""

import argparse
import contextlib
import io
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
from PIL import Image

from parts.label_studio.api import Api
from parts.label_studio.masks import (
    Masks,
    intersections_over_unions,
    masks_of_coco,
    masks_of_regions,
    masks_of_segment,
)
from parts.label_studio.server import (
    HOST,
    USER,
    LabelStudio,
    LabelStudioFailed,
    free_port,
    prepared_environment,
    running_label_studio,
)
from parts.scenes import draw_scene
from parts.serve.stack import DEMO_MODEL_ID, REPOSITORY, Process, running_stack

SEEDS: Final = (3, 4, 5)
SIZE: Final = (640, 480)
TURNED: Final = "turned.jpg"
EXIF_ORIENTATION: Final = 0x0112
TURN_RIGHT: Final = 6  # how a viewer has to turn the pixels
PICTURE_SCRIPT: Final = REPOSITORY / "scripts" / "parts" / "label_studio" / "picture.py"
PROMPT_BOX: Final = (
    '<TextArea name="prompt" toName="image" editable="true" maxSubmissions="1" showSubmitButton="true"/>'
)
COLOURS: Final = ("magenta", "gold", "deepskyblue", "orangered", "springgreen")  # of labels, one after another

# For COCO, Label Studio makes outlines of brushes and fills their holes; so nothing is asked of these. Polygons have
# few points, so that people can move them.
LEAST_IOU: Final = {"brush": 0.99, "bitmask": 0.99, "brush, as COCO": 0.0, "polygon, as COCO": 0.95}


@dataclass(frozen=True, slots=True)
class Story:
    """What the check works with.

    Attributes:
        pictures: JPEG files by name.
        labels: what is in each.
        expected: the masks that /segment answers.
    """

    server: LabelStudio
    gateway_url: str
    pictures: dict[str, bytes]
    labels: dict[str, list[str]]
    expected: Masks

    @property
    def backend_url(self) -> str:
        """What Label Studio is given."""
        return f"{self.gateway_url}/label-studio"


def main() -> int:
    """Returns 0 if everything is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=REPOSITORY / ".tools" / "label-studio")
    parser.add_argument("--triton", metavar="HOST:PORT", help="gRPC address of a Triton with the demo model")
    parser.add_argument("--picture", type=Path, help="file for a picture of the editor")
    arguments = parser.parse_args()
    python = prepared_environment(arguments.environment)
    with (
        tempfile.TemporaryDirectory() as data,
        running_label_studio(python, Path(data)) as server,
        running_gateway(server, arguments.triton) as gateway_url,
    ):
        try:
            problems = check(server, gateway_url, arguments.picture)
        except (LabelStudioFailed, httpx2.HTTPError) as error:
            problems = [str(error)]
    for problem in problems:
        print(f"WRONG  {problem}")
    return 1 if problems else 0


@contextlib.contextmanager
def running_gateway(server: LabelStudio, triton: str | None) -> Iterator[str]:
    """A gateway that is this Label Studio's backend, with a Triton of its own unless there is one; yields its URL."""
    port = free_port()
    environ = {
        **os.environ,
        "MODEL_ID": DEMO_MODEL_ID,
        "GATEWAY_PORT": str(port),
        "LABEL_STUDIO_URL": server.url,
        "LABEL_STUDIO_API_KEY": server.token,
    }
    if triton is None:
        with running_stack(environ, lambda *_: None) as stack:
            yield stack.url
        return
    (REPOSITORY / ".run").mkdir(exist_ok=True)
    with Process(
        "gateway-label-studio", [sys.executable, "-m", "gateway"], {**environ, "TRITON_GRPC_URL": triton}
    ) as gateway:
        url = f"http://{HOST}:{port}"
        while not _is_ready(url):
            gateway.check()
            time.sleep(0.2)
        yield url


def check(server: LabelStudio, gateway_url: str, picture: Path | None) -> list[str]:
    """Tells the story of each kind of region; returns the problems."""
    pictures, labels = draw_pictures()
    expected = masks_of_segment(gateway_url, pictures, labels)
    story = Story(server, gateway_url, pictures, labels, expected)
    print(f"{len(pictures)} pictures, {len(expected)} objects; IoU with the masks of /segment:")
    api = Api(server)
    problems: list[str] = []
    try:
        project, task = check_brushes(api, story, problems)
        check_bitmasks(api, story, problems)
        check_polygons(api, story, problems)
    finally:
        api.close()
    if picture is not None:
        command = [str(server.python), str(PICTURE_SCRIPT), server.url, USER, server.password, str(project), str(task)]
        subprocess.run([*command, str(picture)], check=True)
        print(f"the editor is drawn in {picture}")
    return problems


def check_brushes(api: Api, story: Story, problems: list[str]) -> tuple[int, int]:
    """Brushes, a typed prompt, and a picture that its EXIF data turns; returns a project and one of its tasks."""
    project, backend = predicted(api, story, "BrushLabels", PROMPT_BOX)
    tasks = api.tasks(project)
    typed = api.interact(backend["id"], tasks[0]["id"], next(iter(story.labels.values()))[0])
    print(f"  a typed prompt found {len(typed)} region(s)")
    problems += [] if typed else ["a typed prompt found nothing"]
    before = [prediction["id"] for task in tasks for prediction in task["predictions"]]
    api.act(project, "retrieve_tasks_predictions")
    after = [prediction["id"] for task in api.tasks(project) for prediction in task["predictions"]]
    problems += [] if before == after else ["tasks that had predictions were asked for again"]
    api.act(project, "predictions_to_annotations")
    report("brush", masks_of_regions(api.export(project, "JSON"), story.server.python), story.expected, problems)
    upright = {key: mask for key, mask in story.expected.items() if key[0] != TURNED}
    report("brush, as COCO", masks_of_coco(api.export(project, "BRUSH_TO_COCO")), upright, problems)
    return project, tasks[len(SEEDS) - 1]["id"]


def check_bitmasks(api: Api, story: Story, problems: list[str]) -> None:
    """Bitmasks, exported as JSON: Label Studio has no other format for them."""
    project, _ = predicted(api, story, "BitmaskLabels")
    api.act(project, "predictions_to_annotations")
    report("bitmask", masks_of_regions(api.export(project, "JSON"), story.server.python), story.expected, problems)


def check_polygons(api: Api, story: Story, problems: list[str]) -> None:
    """Polygons as COCO; without the turned picture, whose size Label Studio's COCO export takes before it is turned."""
    project, _ = predicted(api, story, "PolygonLabels")
    api.act(project, "predictions_to_annotations")
    upright = {key: mask for key, mask in story.expected.items() if key[0] != TURNED}
    report("polygon, as COCO", masks_of_coco(api.export(project, "COCO")), upright, problems)


def predicted(api: Api, story: Story, kind: str, more: str = "") -> tuple[int, dict[str, Any]]:
    """A project of its own with predictions for all pictures; returns its id and its backend."""
    names = sorted({name for names in story.labels.values() for name in names})
    coloured = zip(names, itertools.cycle(COLOURS), strict=False)
    listed = "".join(f'<Label value="{name}" background="{colour}"/>' for name, colour in coloured)
    interface = (
        f'<View><Image name="image" value="$image"/><{kind} name="label" toName="image">{listed}</{kind}>{more}</View>'
    )
    project = api.create_project(kind, interface, story.pictures)
    backend = api.connect(project, story.backend_url)
    api.act(project, "retrieve_tasks_predictions")
    missing = [task["id"] for task in api.tasks(project) if len(task["predictions"]) != 1]
    if missing:
        raise LabelStudioFailed(f"{kind}: no prediction is stored for the tasks {missing}")
    return project, backend


def report(kind: str, masks: Masks, expected: Masks, problems: list[str]) -> None:
    """Prints the agreement of one kind of region."""
    ious = intersections_over_unions(masks, expected)
    lowest = min(ious, key=lambda key: ious[key])
    print(f"  {kind:<18} {len(ious):>3} masks, mean {np.mean(list(ious.values())):.4f}, lowest {ious[lowest]:.4f}")
    if ious[lowest] < LEAST_IOU[kind]:
        problems.append(f"{kind}: {lowest[1]} in {lowest[0]} has IoU {ious[lowest]:.4f}")


def draw_pictures() -> tuple[dict[str, bytes], dict[str, list[str]]]:
    """Pictures of coloured shapes, and what is in them; the last one is turned by its EXIF data alone."""
    scenes = {f"scene{seed}.jpg": draw_scene(seed, size=SIZE, object_count=3) for seed in SEEDS}
    pictures = {name: scene.jpeg() for name, scene in scenes.items()}
    labels = {name: [found.name for found in scene.objects] for name, scene in scenes.items()}
    name, scene = next(iter(scenes.items()))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = TURN_RIGHT
    turned = io.BytesIO()
    scene.image.transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", quality=90, exif=exif)
    return {**pictures, TURNED: turned.getvalue()}, {**labels, TURNED: labels[name]}


def _is_ready(url: str) -> bool:
    try:
        return bool(httpx2.get(f"{url}/readyz", trust_env=False).status_code == httpx2.codes.OK)
    except httpx2.HTTPError:
        return False


if __name__ == "__main__":
    sys.exit(main())
