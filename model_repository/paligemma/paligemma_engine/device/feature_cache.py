"""What the vision tower makes of a picture, kept for the newest ones: another prompt on the same prefills sooner."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from paligemma_engine.requests.prepared import PreparedImage


class FeatureCache:
    """Features by the content of a picture, the least recently used ones dropped first. Not thread-safe."""

    def __init__(self, compute: Callable[[Sequence[PreparedImage]], torch.Tensor], *, max_bytes: int) -> None:
        """Args:
        compute: the features of different pictures, one row each; the next call may overwrite them.
        max_bytes: bounds what is kept; 0 keeps nothing.
        """
        self._compute = compute
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._kept_bytes = 0

    def __contains__(self, image: PreparedImage) -> bool:
        """Whether a picture's features are there already."""
        return image.digest in self._kept

    def of(self, images: Sequence[PreparedImage]) -> list[torch.Tensor]:
        """The features [image tokens, hidden] of each picture, on the model's device and in its dtype.

        Pictures that occur twice are computed once. Where they are not kept, the next call may overwrite them.
        """
        found = {image.digest: self._kept[image.digest] for image in images if image in self}
        for digest in found:
            self._kept.move_to_end(digest)
        new = {image.digest: image for image in images if image.digest not in found}
        if new:
            for digest, features in zip(new, self._compute(list(new.values())), strict=True):
                found[digest] = self._offered(digest, features)
        return [found[image.digest] for image in images]

    def clear(self) -> None:
        """Forgets all."""
        self._kept.clear()
        self._kept_bytes = 0

    def _offered(self, digest: bytes, features: torch.Tensor) -> torch.Tensor:
        """Keeps a copy of features, if it may, and returns it; else the features themselves."""
        if features.nbytes > self._max_bytes:
            return features
        try:
            kept = features.clone()
        except torch.OutOfMemoryError:  # such as while another checkpoint is loaded
            return features
        self._keep(digest, kept)
        return kept

    def _keep(self, digest: bytes, features: torch.Tensor) -> None:
        self._kept[digest] = features
        self._kept_bytes += features.nbytes
        while self._kept_bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.nbytes
