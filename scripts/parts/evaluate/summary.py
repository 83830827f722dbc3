"""Summarizes scores for the table."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from parts.evaluate.cases import Case
from parts.evaluate.protocol import Answer, ObjectScore, is_well_formed, score

BOX_THRESHOLDS: Final = (0.5, 0.75)
_SMALL, _MEDIUM = 0.15, 0.35  # upper bounds of an object's longer side, as a share of the picture's


@dataclass(frozen=True, slots=True)
class Judged:
    """A case with its answer and the scores of its objects."""

    case: Case
    answer: Answer
    scores: list[ObjectScore]

    @property
    def worth(self) -> float:
        """Mean IoU of masks, or of boxes for `detect`; for an absent target 1 if the answer is empty, else 0."""
        if not self.case.truths:
            return float(not self.answer.objects)
        return sum(each.worth for each in self.scores) / len(self.scores)


@dataclass(frozen=True, slots=True)
class _Row:
    """One true object: its score and its groups."""

    score: ObjectScore
    family: str
    size: str
    form: str


def judge(case: Case, answer: Answer) -> Judged:
    """Scores an answer."""
    return Judged(case, answer, score(answer, case.truths, case.task) if case.truths else [])


def summarize(judged: list[Judged]) -> dict[str, Any]:
    """Returns all figures as JSON data: overall, by family, by size and by form of question."""
    rows = [
        _Row(each, truth.family, size_name(truth.box), one.case.form)
        for one in judged
        for truth, each in zip(one.case.truths, one.scores, strict=True)
    ]
    malformed = sum(not is_well_formed(one.answer.text, one.case.task) for one in judged)
    return {
        "cases": len(judged),
        "well_formed": 1 - malformed / len(judged) if judged else None,
        "present": _figures(rows),
        "absent": _absent_figures(judged),
        "by_family": _grouped(rows, lambda row: row.family),
        "by_size": _grouped(rows, lambda row: row.size),
        "by_form": _grouped(rows, lambda row: row.form),
    }


def size_name(box: tuple[float, float, float, float]) -> str:
    """Returns small, medium or large."""
    side = max(box[2] - box[0], box[3] - box[1])
    if side < _SMALL:
        return "small"
    return "medium" if side < _MEDIUM else "large"


def _grouped(rows: list[_Row], key: Callable[[_Row], str]) -> dict[str, Any]:
    names = sorted({key(row) for row in rows})
    return {name: _figures([row for row in rows if key(row) == name]) for name in names}


def _figures(rows: list[_Row]) -> dict[str, Any]:
    ious = [row.score.mask_iou for row in rows if row.score.mask_iou is not None]
    figures: dict[str, Any] = {"objects": len(rows), "mean_iou": _mean(ious)}
    for threshold in BOX_THRESHOLDS:
        figures[f"box_accuracy_{threshold}"] = _mean(float(row.score.box_iou >= threshold) for row in rows)
    return figures


def _absent_figures(judged: list[Judged]) -> dict[str, Any]:
    """Recall: share of absent targets with an empty answer; precision: share of empty answers that were right."""
    absent = [one for one in judged if not one.case.truths]
    empty = [one for one in judged if not one.answer.objects]
    both = sum(not one.answer.objects for one in absent)
    return {
        "cases": len(absent),
        "left_empty": both,
        "recall": both / len(absent) if absent else None,
        "precision": both / len(empty) if empty else None,
    }


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
