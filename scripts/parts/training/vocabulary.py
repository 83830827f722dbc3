"""The demo model's tokenizer and processor: a few words, letters for other words, `<loc>` and `<seg>` tokens."""

from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PaliGemmaProcessor, PreTrainedTokenizerFast, SiglipImageProcessor

from paligemma_tokens.vocabulary import LOC_BINS, SEG_CODES, loc_token, seg_token
from parts.training.names import TASKS, all_words

PAD, EOS, BOS, UNKNOWN, IMAGE = "<pad>", "<eos>", "<bos>", "<unk>", "<image>"
LOC_TOKENS: Final = tuple(map(loc_token, range(LOC_BINS)))
SEG_TOKENS: Final = tuple(map(seg_token, range(SEG_CODES)))
_SPACE: Final = "▁"
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_WORD_SCORE, _LETTER_SCORE = -3.0, -12.0  # whole words are preferred to letters


def make_tokenizer() -> Any:
    """A lower-casing tokenizer; `segment red car` becomes one token per word, each with the space before it."""
    words = [*TASKS, *(f"{_SPACE}{word}" for word in all_words())]
    vocabulary = [
        *((token, 0.0) for token in (PAD, EOS, BOS, UNKNOWN)),
        *((token, _WORD_SCORE) for token in ("\n", _SPACE)),
        *((letter, _LETTER_SCORE) for letter in _LETTERS),
        *((word, _WORD_SCORE) for word in words),
    ]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.Fuse()])
    # For training the processor passes the answer as the second text of a pair: its tokens have type 1.
    tokenizer.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    tokenizer.add_special_tokens([PAD, EOS, BOS, UNKNOWN])
    tokenizer.add_tokens([AddedToken(token) for token in (*LOC_TOKENS, *SEG_TOKENS)])  # special ones would be skipped
    tokenizer.add_special_tokens([IMAGE])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        pad_token=PAD,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE},
    )


def make_processor(tokenizer: Any, *, image_size: int, image_tokens: int) -> Any:
    """The processor of a model with this tokenizer, image size in pixels and number of image tokens."""
    images = SiglipImageProcessor(
        size={"height": image_size, "width": image_size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        resample=3,
    )
    images.image_seq_length = image_tokens
    return PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer)
