"""The kinds of requests, and the right outcomes of each."""

import random
from dataclasses import dataclass, field
from typing import Final

from parts.scenes import draw_scene

OK: Final = "ok"
CANCELLED: Final = "cancelled"
SEGMENT: Final = "segment"
PALIGEMMA: Final = "paligemma"

TINY_TIMEOUT_US: Final = 2_000  # less than any answer takes
MAX_CANCEL_AFTER_S: Final = 0.5
SCENES: Final = 16
SCENE_SIZE: Final = (320, 240)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request.

    Attributes:
        kind: its name in reports.
        model: the Triton model that is called: `segment`, or `paligemma` for cancelled calls.
        image: an encoded file.
        prompt: as a user writes it.
        right: the right outcomes: `ok`, `cancelled`, or error codes.
        timeout_us: the timeout that is sent to Triton; 0 for none.
        cancel_after_s: when the caller cancels; None for never.
    """

    kind: str
    image: bytes
    prompt: str
    model: str = SEGMENT
    right: frozenset[str] = field(default_factory=lambda: frozenset({OK}))
    timeout_us: int = 0
    cancel_after_s: float | None = None


def good_calls() -> list[Call]:
    """Requests with one right answer, which must not depend on other requests."""
    calls = []
    for seed in range(SCENES):
        scene = draw_scene(seed, size=SCENE_SIZE)
        names = [each.name for each in scene.objects]
        picture = scene.jpeg()
        calls += [
            Call(kind="one target", image=picture, prompt=f"segment {names[0]}"),
            Call(kind="several targets", image=picture, prompt=f"segment {' ; '.join(names[:3])}"),
            Call(kind="detect", image=picture, prompt=f"detect {names[-1]}"),
            Call(kind="nothing there", image=picture, prompt="segment red car"),
        ]
    return calls


def bad_calls(good: Call, chance: random.Random) -> list[Call]:
    """Makes from a good request one call of each kind that is refused or cancelled."""
    cut = chance.randrange(len(good.image) // 2)

    def refused(kind: str, image: bytes, prompt: str, code: str, timeout_us: int = 0) -> Call:
        return Call(kind=kind, image=image, prompt=prompt, right=frozenset({code}), timeout_us=timeout_us)

    return [
        refused("no image", chance.randbytes(1000), good.prompt, "invalid_image"),
        refused("half an image", good.image[:cut], good.prompt, "invalid_image"),
        refused("prompt too long", good.image, "segment " + "very " * 2000 + "long", "invalid_prompt"),
        refused("too many targets", good.image, "segment " + " ; ".join("abcdefghi"), "invalid_prompt"),
        refused("over the deadline", good.image, good.prompt, "deadline", TINY_TIMEOUT_US),
        Call(
            kind="cancelled",
            image=good.image,
            prompt=good.prompt,
            model=PALIGEMMA,
            right=frozenset({CANCELLED, OK}),  # a late cancellation comes after the answer
            cancel_after_s=chance.uniform(0.0, MAX_CANCEL_AFTER_S),
        ),
    ]


def mixed_calls(count: int, *, seed: int, bad_share: float) -> list[Call]:
    """Requests of all kinds in random order."""
    chance = random.Random(seed)
    good = good_calls()

    def pick() -> Call:
        call = chance.choice(good)
        return chance.choice(bad_calls(call, chance)) if chance.random() < bad_share else call

    return [pick() for _ in range(count)]
