"""What the vision tower makes of a picture, kept for the newest ones: another prompt on the same prefills sooner."""

from collections import OrderedDict
from collections.abc import Callable

import torch

from paligemma_engine.requests.prepared import PreparedImage


class FeatureCache:
    """Features by the content of a picture, the least recently used ones dropped first. The engine thread owns it."""

    def __init__(self, compute: Callable[[PreparedImage], torch.Tensor], *, max_bytes: int) -> None:
        """Args:
        compute: the features of a picture; the next call may overwrite them.
        max_bytes: bounds what is kept; 0 keeps nothing.
        """
        self._compute = compute
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._kept_bytes = 0

    def __contains__(self, image: PreparedImage) -> bool:
        """Whether a picture's features are there already."""
        return image.digest in self._kept

    def of(self, image: PreparedImage) -> torch.Tensor:
        """The features [1, image tokens, hidden] of a picture, on the model's device and in its dtype.

        Where they are not kept, the next call may overwrite them.
        """
        if image in self:
            self._kept.move_to_end(image.digest)
            return self._kept[image.digest]
        features = self._compute(image)
        if features.nbytes > self._max_bytes:
            return features
        try:
            features = features.clone()
        except torch.OutOfMemoryError:  # such as while another checkpoint is loaded
            return features
        self._keep(image.digest, features)
        return features

    def clear(self) -> None:
        """Forgets all."""
        self._kept.clear()
        self._kept_bytes = 0

    def _keep(self, digest: bytes, features: torch.Tensor) -> None:
        self._kept[digest] = features
        self._kept_bytes += features.nbytes
        while self._kept_bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.nbytes
