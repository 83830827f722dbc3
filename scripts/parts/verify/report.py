"""Formats the table, the answers that differ, and advice."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from parts.verify import checks
from parts.verify.checks import Check
from parts.verify.comparison import Comparison, Verdict

SHOWN_DIFFERENCES: Final = 3
SHOWN_CHARACTERS: Final = 160

_SAME_MODEL: Final = (
    "First make sure that the server and this command mean the same: MODEL_ID (with its @revision), MODELS_DIR, DTYPE, "
    "QUANTIZATION and GRAMMAR must be the same in both environments, and the server started after the last change."
)
_NARROW_DOWN: Final = (
    "Then narrow it down: start the server with CUDA_GRAPHS=off, then also COMPILE=off, QUANTIZATION=off, GRAMMAR=off, "
    "DTYPE=float32, each time with the same for this command. The first that agrees names the part that is wrong."
)
_GRAMMAR: Final = "grammar"
_ADVICE: Final = {
    checks.PICTURES: "Pictures differ before the model sees them: compare the versions of pillow, pillow-heif and "
    "transformers in both environments with pyproject.toml, which has no torchvision.",
    checks.TOKENS: f"{_SAME_MODEL} {_NARROW_DOWN}",
    _GRAMMAR: "The log-probabilities are right and the choices are not: the server allows other tokens than here. "
    "GRAMMAR must be the same in both environments.",
    checks.LOAD: "Answers change with the load: start the server with MAX_SLOTS=1. If they agree then, requests of one "
    "batch disturb each other: try CUDA_GRAPHS=off, then COMPILE=off, with the old MAX_SLOTS.",
    checks.DECODER: "Masks differ: MODEL_ID, MODELS_DIR and VAE_CHECKPOINT must be the same in both environments, and "
    "jax, jaxlib and flax those of pyproject.toml.",
    checks.ROUND_TRIP: "The mask decoder's weights do not draw plain shapes: VAE_CHECKPOINT must belong to the "
    "checkpoint (vae-oid.npz for published ones), and be complete.",
}
_SAME_ADVICE: Final = {
    checks.CHOICES: checks.TOKENS,
    checks.LOGPROBS: checks.TOKENS,
    checks.BOXES: checks.TOKENS,
    checks.MASKS: checks.TOKENS,
    checks.DECODER_TORCH: checks.DECODER,
}
_FAILED: Final = "DIFFERS"


def table(rows: Sequence[Check]) -> str:
    """The rows as lines of text."""
    lines = [f"{'check':<24}{'cases':>7} {'of':<10}{'agreed':>7}  {'worst':<16}{'verdict':<8}"]
    for row in rows:
        verdict = _FAILED if not row.passed else "agrees" if row.cases else "no cases"
        note = f"  ({row.note})" if row.note else ""
        lines.append(f"{row.name:<24}{row.cases:>7} {row.unit:<10}{row.agreed:>7}  {row.worst:<16}{verdict:<8}{note}")
    return "\n".join(lines)


def conclusion(rows: Sequence[Check], compared: Sequence[Comparison]) -> str:
    """Says whether the server is right; if not, shows the first answers that differ, and advice."""
    failed = [row.name for row in rows if not row.passed]
    if not failed:
        return "The server answers as it must on this checkpoint."
    if checks.CHOICES in failed and checks.LOGPROBS not in failed:
        failed = [_GRAMMAR, *(name for name in failed if name != checks.CHOICES)]
    topics = dict.fromkeys(_SAME_ADVICE.get(name, name) for name in failed)
    shown = [_shown(one) for one in differences(compared)[:SHOWN_DIFFERENCES]]
    return "\n\n".join([*shown, "The server does NOT answer as it must.", *(_ADVICE[topic] for topic in topics)])


def differences(compared: Sequence[Comparison]) -> list[Comparison]:
    """The answers whose tokens are not the expected ones."""
    return [one for one in compared if one.verdict is Verdict.DIFFERENT]


def as_json(settings: dict[str, Any], rows: Sequence[Check], compared: Sequence[Comparison]) -> dict[str, Any]:
    """Returns all results as JSON data."""
    return {
        "passed": all(row.passed for row in rows),
        "settings": settings,
        "checks": [dataclasses.asdict(row) for row in rows],
        "differences": [
            {
                "case": one.case.name,
                "target": one.asked.target,
                "token": one.common + 1,
                "served": "".join(token.text for token in one.served.tokens),
                "expected": "".join(one.expected.texts),
                "finish_reason": one.served.finish_reason,
                "expected_finish_reason": one.expected.finish_reason,
            }
            for one in differences(compared)
        ],
    }


def _shown(one: Comparison) -> str:
    served, expected = "".join(token.text for token in one.served.tokens), "".join(one.expected.texts)
    return (
        f"{one.case.name} ({one.asked.target}), from token {one.common + 1}:\n"
        f"  server    {served[:SHOWN_CHARACTERS]} [{one.served.finish_reason}]\n"
        f"  generate  {expected[:SHOWN_CHARACTERS]} [{one.expected.finish_reason}]"
    )
