"""Each generated token's text as it stands in the answer."""

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """One text for each token, spaces as spaces; joined, they are the decoded answer.

    A character whose bytes are spread over several tokens belongs to the last of them.
    """
    backend = tokenizer.backend_tokenizer
    stream = DecodeStream(skip_special_tokens=False)
    texts = [stream.step(backend, token_id) or "" for token_id in token_ids]
    decoded = backend.decode(list(token_ids), skip_special_tokens=False)
    joined = "".join(texts)
    if texts and decoded != joined:
        texts[-1] += decoded[len(joined) :]  # bytes of a character that the answer did not finish
    return texts
