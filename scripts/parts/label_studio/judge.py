"""Decodes brushes with Label Studio's own code; runs in Label Studio's environment, not in the project's.

It reads a JSON list of {"rle", "hw"} and writes a JSON list of the masks' pixels, packed and in base64.
"""

import base64
import importlib
import json
import sys

import numpy as np


def main() -> None:
    """From standard input to standard output."""
    brush = importlib.import_module("label_studio_sdk.converter.brush")  # not installed in the project's environment
    masks = []
    for region in json.load(sys.stdin):
        pixels = brush.decode_rle(region["rle"]).reshape(*region["hw"], 4)
        masks.append(base64.b64encode(np.packbits(pixels[:, :, 3] > 0).tobytes()).decode("ascii"))
    json.dump(masks, sys.stdout)


if __name__ == "__main__":
    main()
