"""What the parser finds, one record for each object."""

from dataclasses import dataclass

from paligemma_tokens.vocabulary import fraction_of


@dataclass(frozen=True, slots=True)
class ParsedObject:
    """One object of an answer.

    Attributes:
        label: the label written in the answer, else the target that was asked for.
        loc_bins_yxyx: y_min, x_min, y_max, x_max, each in [0, 1023], with y_min < y_max and x_min < x_max.
        codes: 16 codes in [0, 127], a 4x4 grid in raster order; None where the answer holds no usable mask.
        box_score: geometric mean of the probabilities of the 4 loc tokens, in [0, 1]; not calibrated.
        mask_score: geometric mean of the probabilities of the 16 seg tokens, in [0, 1]; 0 where codes is None.
        target: index of the target that the object answers.
    """

    label: str
    loc_bins_yxyx: tuple[int, int, int, int]
    codes: tuple[int, ...] | None
    box_score: float
    mask_score: float
    target: int = 0

    @property
    def box_xyxy(self) -> tuple[float, float, float, float]:
        """x_min, y_min, x_max, y_max, each in [0, 1]."""
        y_min, x_min, y_max, x_max = (fraction_of(loc_bin) for loc_bin in self.loc_bins_yxyx)
        return x_min, y_min, x_max, y_max
