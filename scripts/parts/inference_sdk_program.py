"""What scripts/inference_sdk.py runs in the SDK's own environment."""

import argparse
import importlib
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

import numpy as np
from PIL import Image

SAMPLE: Final = Path("docs/sample.png")  # 640x480, with a blue star and a cyan ring in it
PROMPTS: Final[list[dict[str, Any]]] = [
    {"type": "text", "text": "blue star"},
    {"type": "text", "text": "cyan ring", "output_prob_thresh": 0.1},
]
MIN_SHARE: Final = 0.95  # of an exact mask, within its outline; a ring's hole is within the outline, too
KEPT_HEADERS: Final = ("Content-Type", "Authorization")

# Not in the environment that the tests and mypy have.
sdk: Any = importlib.import_module("inference_sdk")
supervision: Any = importlib.import_module("supervision")


class Recorder(BaseHTTPRequestHandler):
    """Keeps a request, without its image, and answers that nothing was found."""

    recorded: dict[str, Any]

    def do_POST(self) -> None:
        """Keeps the request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body["image"]["value"] = "<base64>"
        headers = {name: self.headers[name] for name in KEPT_HEADERS if name in self.headers}
        Recorder.recorded = {"sdk": sdk.__version__, "path": self.path, "headers": headers, "body": body}
        answer = json.dumps({"prompt_results": [], "time": 0.0}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def ask(server: str, api_key: str | None, mask_format: str, **options: Any) -> Any:
    """The answer to the two prompts."""
    client = sdk.InferenceHTTPClient(api_url=server, api_key=api_key)
    return client.sam3_concept_segment(
        str(SAMPLE), prompts=PROMPTS, output_prob_thresh=0.2, format=mask_format, **options
    )


def record(path: Path) -> None:
    """Writes what the SDK sends."""
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    Thread(target=server.serve_forever, daemon=True).start()
    ask(f"http://127.0.0.1:{server.server_port}", "a-key", "polygon", nms_iou_threshold=0.9)
    server.shutdown()
    path.write_text(json.dumps(Recorder.recorded, indent=2) + "\n", encoding="utf-8")


def check(server: str, api_key: str | None, picture: Path | None) -> None:
    """Raises AssertionError where an answer is not as it should be."""
    image = Image.open(SAMPLE).convert("RGB")
    answer = ask(server, api_key, "polygon")
    detections = supervision.Detections.from_sam3(answer, image.size)
    assert list(detections.class_id) == [0, 1], f"both are found once: {detections}"
    run_lengths = ask(server, api_key, "rle")["prompt_results"]
    for index, mask in enumerate(detections.mask):
        (found,) = run_lengths[index]["predictions"]
        exact = supervision.rle_to_mask(found["masks"]["counts"], image.size)
        share = (mask & exact).sum() / exact.sum()
        text, confidence = PROMPTS[index]["text"], found["confidence"]
        print(f"{text}: confidence {confidence:.2f}, {exact.sum()} pixels, {share:.0%} of them outlined")
        assert share > MIN_SHARE
    kept = ask(server, api_key, "rle", nms_iou_threshold=0.5)["prompt_results"]
    assert [len(result["predictions"]) for result in kept] == [1, 1], "objects apart from each other are kept"
    if picture is not None:
        draw(image, detections).save(picture)


def draw(image: Image.Image, detections: Any) -> Image.Image:
    """The image with masks and captions, by supervision."""
    names = [PROMPTS[index]["text"] for index in detections.class_id]
    captions = [f"{name} {score:.2f}" for name, score in zip(names, detections.confidence, strict=True)]
    scene = np.asarray(image)[:, :, ::-1].copy()  # OpenCV's order of colours
    scene = supervision.MaskAnnotator(opacity=0.6).annotate(scene, detections)
    scene = supervision.PolygonAnnotator().annotate(scene, detections)
    scene = supervision.LabelAnnotator().annotate(scene, detections, labels=captions)
    return Image.fromarray(scene[:, :, ::-1])


def main() -> None:
    """Records or checks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server")
    parser.add_argument("--api-key")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    if arguments.record is not None:
        record(arguments.record)
    else:
        check(arguments.server, arguments.api_key, arguments.picture)


if __name__ == "__main__":
    main()
