"""Where the vision tower runs: in a thread of its own beside the steps, or as a part of a prefill."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from paligemma_engine.device.feature_cache import FeatureCache
from paligemma_engine.metrics import IMAGE_FEATURES, EngineMetrics
from paligemma_engine.requests.prepared import PreparedImage
from paligemma_engine.scheduling.protocol import StartedVision

Features = dict[bytes, torch.Tensor]  # [image tokens, hidden] by the picture's digest


class Vision:
    """Computes the features of pictures in the caller's thread, as a part of a prefill. Not thread-safe."""

    def __init__(self, cache: FeatureCache, metrics: EngineMetrics) -> None:
        """Args:
        cache: computes features, and keeps those of the newest pictures.
        metrics: counts where features came from.
        """
        self._cache = cache
        self._metrics = metrics

    @torch.inference_mode()
    def features_of(self, images: Sequence[PreparedImage]) -> list[torch.Tensor]:
        """Returns the features [image tokens, hidden] of each picture; the next call may overwrite them on a GPU."""
        new = len({image.digest for image in images if image not in self._cache})
        features = self._cache.of(images)
        for source, count in (("computed", new), ("kept", len(images) - new)):
            if count:
                self._metrics.count(IMAGE_FEATURES, count, source=source)
        return features

    def is_ready(self) -> bool:
        """True: `features_of` computes in the caller's thread."""
        return True


class VisionThread:
    """Runs the vision tower while the engine thread runs other steps.

    PyTorch releases the GIL in each operation. Only for eager steps on a CPU: their features are not overwritten.
    """

    def __init__(self, vision: Vision) -> None:
        """`vision` is used by one thread at a time: while pictures are in hand, by this one."""
        self._vision = vision
        self._executor = ThreadPoolExecutor(1, "vision")  # its thread ends with this object
        self._executor.submit(int).result()  # so that a host without a thread left fails now, not at a request

    def start(self, images: Sequence[PreparedImage], *, set_threads: Callable[[], None]) -> StartedVision:
        """Starts the vision tower on pictures; `set_threads` sets the number of PyTorch's threads, a thread's own."""
        return _RunningVision(self._executor.submit(self._run, images, set_threads))

    def _run(self, images: Sequence[PreparedImage], set_threads: Callable[[], None]) -> Features:
        set_threads()
        features = self._vision.features_of(images)
        return {image.digest: found for image, found in zip(images, features, strict=True)}


@dataclass(frozen=True, slots=True)
class _RunningVision:
    features: Future[Features]

    def is_ready(self) -> bool:
        return self.features.done()

    def features_of(self, images: Sequence[PreparedImage]) -> list[torch.Tensor]:
        found = self.features.result()
        return [found[image.digest] for image in images]
