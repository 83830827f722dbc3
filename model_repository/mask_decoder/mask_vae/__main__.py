"""`python -m mask_vae`: downloads the published weights into the models folder, or checks them."""

import os
import sys
from dataclasses import replace
from typing import Final

from mask_vae.config import DEFAULT_CHECKPOINT, MaskVaeConfig
from mask_vae.download import ensure_weights, fetch, published_weights
from mask_vae.errors import CheckpointError

_MEGABYTE: Final = 1e6


def main() -> str | None:
    """Returns an error message, or None on success."""
    config = MaskVaeConfig.from_env(os.environ)
    config = replace(config, checkpoint=config.checkpoint.with_name(DEFAULT_CHECKPOINT))
    published = published_weights(config.hub)
    bar = f"\r{DEFAULT_CHECKPOINT}: {{:.1f}} of {published.size / _MEGABYTE:.1f} MB"

    def print_progress(size: int) -> None:
        sys.stderr.write(bar.format(size / _MEGABYTE))

    try:
        if not config.checkpoint.exists():
            fetch(published, config.checkpoint, print_progress)
            sys.stderr.write("\n")
        ensure_weights(config)
    except CheckpointError as error:
        return f"error: {error}"
    sys.stdout.write(f"{DEFAULT_CHECKPOINT}: complete in {config.checkpoint.parent}\n")
    return None


if __name__ == "__main__":
    sys.exit(main())
