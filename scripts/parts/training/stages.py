"""The stages of a PaliGemma run: the trained parts, the data and the duration of each."""

from dataclasses import dataclass, replace
from typing import Final

from parts.training.batches import Diet
from parts.training.sampling import SceneStyle

VISION: Final = "vision"
SELECTION: Final = "selection"
ANSWERS: Final = "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of the run.

    Attributes:
        name: its name in the curve.
        trains: VISION (the tower with heads on its patches), SELECTION (the first text layers, which patches a prompt
            means; a step costs a quarter of a whole one) or ANSWERS (everything).
        until: share of the run at which it ends.
        rate: peak learning rate.
        diet: the composition of batches.
    """

    name: str
    trains: str
    until: float
    rate: float
    diet: Diet


_EASY: Final = SceneStyle(max_turn_degrees=6, far_turn_degrees=6, min_side=0.2, counts=(3, 3, 2), overlap=1.0)
_ANSWERS: Final = Diet(plain_share=0.3)
_SEVERAL: Final = replace(_ANSWERS, several_share=0.3)
_SELECTION: Final = Diet(pictures=32, several_share=0.2)
_VISION: Final = Diet(pictures=48, prompts=1)


def stages(*, warm: bool) -> list[Stage]:
    """Returns all stages; a run that starts from other weights skips the first, easy one.

    Upright objects come first: with turned ones from the start, the vision tower learned many times slower.
    """
    easy = Stage(
        name="vision, easy", trains=VISION, until=0.08, rate=1.5e-3, diet=replace(_VISION, style=_EASY, plain_share=0.4)
    )
    rest = [
        Stage(name="vision", trains=VISION, until=0.23, rate=1.5e-3, diet=_VISION),
        Stage(name="selection", trains=SELECTION, until=0.33, rate=1.5e-3, diet=_SELECTION),
        Stage(name="answers", trains=ANSWERS, until=0.6, rate=1.2e-3, diet=_ANSWERS),
        Stage(name="several", trains=ANSWERS, until=1.0, rate=1.2e-3, diet=_SEVERAL),
    ]
    return rest if warm else [easy, *rest]
