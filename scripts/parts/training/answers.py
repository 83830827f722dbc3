"""Answers as tokens for training, and soft targets that give similar tokens some probability."""

from typing import Any, Final

import torch

from paligemma_tokens.vocabulary import LOC_BINS, SEPARATOR
from parts.training.batches import Asked, Batch
from parts.training.names import TASKS
from parts.training.vocabulary import LOC_TOKENS, SEG_TOKENS

_SPREAD_PIXELS: Final = 0.6  # standard deviation of a loc token's target distribution
_CODE_TEMPERATURE: Final = 0.12  # as a share of the mean squared distance between codes
_IGNORED: Final = -100


class AnswerTokens:
    """Turns prompts and objects into sequences for training."""

    def __init__(self, tokenizer: Any, *, image_size: int) -> None:
        """`tokenizer`: the model's. `image_size`: side of its pictures in pixels.

        Answers use only the bins of whole pixels. When they used all 1024, no bin became likely enough to beat the end
        token, and nearly all answers stayed empty.
        """
        self._pixel_bins = (torch.arange(image_size + 1) * (LOC_BINS - 1) / image_size).round().long()
        self._tokenizer = tokenizer
        self._size = len(tokenizer)
        self.first_loc: int = tokenizer.convert_tokens_to_ids(LOC_TOKENS[0])
        self.first_seg: int = tokenizer.convert_tokens_to_ids(SEG_TOKENS[0])
        self.eos: int = tokenizer.eos_token_id
        self._pad: int = tokenizer.pad_token_id
        self._separator = self._words(SEPARATOR)

    def sequences(
        self, batch: Batch, codes: torch.Tensor, *, with_answers: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Builds the sequences of a batch's prompts and answers.

        Args:
            batch: S prompts about N objects.
            codes: int64[N, 16], the objects' mask codes.
            with_answers: False for prompts only.

        Returns:
            token_ids int64[S, L], padded on the right; prefix_lengths int64[S]; labels int64[S, L], the token that
            follows each, -100 where there is no loss.
        """
        bins = self.loc_bins(batch.boxes.cpu())
        codes = codes.cpu()
        rows, lengths = [], []
        for asked in batch.asked:
            prefix = self.prefix(asked)
            lengths.append(len(prefix))
            rows.append([*prefix, *(self._answer(asked, bins, codes) if with_answers else [])])
        length = max(len(row) for row in rows)
        token_ids = torch.tensor([row + [self._pad] * (length - len(row)) for row in rows])
        labels = torch.full_like(token_ids, _IGNORED)
        for index, (row, prefix_length) in enumerate(zip(rows, lengths, strict=True)):
            labels[index, prefix_length - 1 : len(row) - 1] = token_ids[index, prefix_length : len(row)]
        return token_ids, torch.tensor(lengths), labels

    def prefix(self, asked: Asked) -> list[int]:
        """`<bos>`, the prompt, and the newline that the processor adds."""
        return [self._tokenizer.bos_token_id, *self._words(f"{asked.task} {asked.words}"), *self._words("\n")]

    def loc_bins(self, boxes: torch.Tensor) -> torch.Tensor:
        """float[N, 4] in [0, 1] -> int64[N, 4]: the bins of the nearest whole pixels."""
        last = len(self._pixel_bins) - 1
        return self._pixel_bins.to(boxes.device)[(boxes * last).round().long().clamp(0, last)]

    def soft_targets(self, codebook: torch.Tensor) -> torch.Tensor:
        """float[V, V]: the target distribution for each token. Loc tokens spread over near bins, seg tokens over
        similar codes (codebook: float[128, D]); all others have probability 1 for the token itself.
        """
        targets = torch.eye(self._size)
        pixels = torch.arange(len(self._pixel_bins), dtype=torch.float32)
        near = torch.softmax(-((pixels[:, None] - pixels) ** 2) / (2 * _SPREAD_PIXELS**2), dim=1)
        locs = self.first_loc + self._pixel_bins
        targets[locs[:, None], locs] = near
        distances = torch.cdist(codebook, codebook).square()
        segs = slice(self.first_seg, self.first_seg + len(SEG_TOKENS))
        targets[segs, segs] = torch.softmax(-distances / (_CODE_TEMPERATURE * distances.mean()), dim=1)
        return targets

    def _answer(self, asked: Asked, bins: torch.Tensor, codes: torch.Tensor) -> list[int]:
        """The objects one after another, with their names for `detect`; then the end token."""
        names = asked.words.split(SEPARATOR) if asked.form == "several" else [asked.words] * len(asked.targets)
        tokens: list[int] = []
        for name, target in zip(names, asked.targets, strict=True):
            if tokens:
                tokens += self._separator
            tokens += [self.first_loc + value for value in bins[target].tolist()]
            if asked.task == TASKS[0]:
                tokens += [self.first_seg + value for value in codes[target].tolist()]
            else:
                tokens += self._words(f" {name}")
        return [*tokens, self.eos]

    def _words(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids
