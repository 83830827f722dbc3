"""Derives the answer that the server must give from the free answer of `generate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from paligemma_engine.answers.detokenizer import token_texts
from paligemma_engine.answers.repeats import RepeatDetector
from paligemma_engine.answers.vocabulary import Task
from paligemma_engine.requests.prepared import TargetPrompt
from paligemma_engine.requests.request import TargetAnswer
from paligemma_engine.requests.sequence import FinishReason
from parts.verify.reference import Followed, Generated, Reference

PIECE_SPACE: Final = "\u2581"  # how SentencePiece writes a space


@dataclass(frozen=True, slots=True)
class Expected:
    """The answer that the server must give to a target, apart from rounding.

    Attributes:
        token_ids: ids of the tokens, with the end token if there is one.
        texts: texts of the tokens, without the end token.
        finish_reason: as the server names it.
        malformed_at: index of the first token that the grammar does not allow; None if it allows all. From there on a
            server with the grammar must give another answer.
        followed: what `generate` computes for the tokens.
    """

    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    finish_reason: str
    malformed_at: int | None
    followed: Followed


def expect(reference: Reference, generated: Generated, asked: TargetPrompt, *, grammar: bool) -> Expected:
    """The free answer, cut where the server would stop it because an object is repeated."""
    vocabulary, tokenizer = reference.checkpoint.vocabulary, reference.checkpoint.processor.tokenizer
    token_ids = generated.token_ids
    has_ended = token_ids[-1] in vocabulary.eos_ids
    reason = FinishReason.EOS if has_ended else FinishReason.LENGTH
    if grammar and asked.task is not Task.OTHER:
        detector = RepeatDetector(vocabulary, asked.task)
        repeated = next((index for index, token_id in enumerate(token_ids) if detector.is_repeat(token_id)), None)
        if repeated is not None:
            token_ids, reason = token_ids[: repeated + 1], FinishReason.REPEAT
    followed = Followed(generated.followed.logprobs[: len(token_ids)], generated.followed.gaps[: len(token_ids)])
    forbidden = (index for index, gap in enumerate(followed.gaps.tolist()) if gap == float("inf"))
    written = token_ids[:-1] if reason is FinishReason.EOS else token_ids
    return Expected(token_ids, tuple(token_texts(tokenizer, written)), reason.value, next(forbidden, None), followed)


def served_ids(reference: Reference, served: TargetAnswer, expected: Expected) -> tuple[int, ...]:
    """Ids of a served answer's tokens with the end token, up to the first token whose text does not identify its id."""
    tokenizer = reference.checkpoint.processor.tokenizer
    vocabulary = tokenizer.get_vocab()
    texts = [token.text for token in served.tokens]
    common = common_length(texts, expected.texts)
    token_ids = list(expected.token_ids[:common])
    for text in texts[common:]:
        token_id = vocabulary.get(text.replace(" ", PIECE_SPACE))
        if token_id is None:
            return tuple(token_ids)
        token_ids.append(token_id)
    if served.finish_reason == FinishReason.EOS.value:
        token_ids.append(min(reference.checkpoint.vocabulary.eos_ids))
    return tuple(token_ids)


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Number of equal leading texts."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
