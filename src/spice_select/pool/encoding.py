"""Rendered chats to tokens, and character spans to token masks.

The tokens are those of the whole rendering, encoded at once without special tokens added: what a trainer that
applies the chat template would see. A token is trained if it carries at least one character of a trained
span, so a token that a BPE merge lays across a border counts as the assistant's. The exception is an added
token that swallows white space to its right (`rstrip` tokens, as Phi-3's `<|assistant|>`): it is a header's,
however far it reaches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, processors
from transformers import PreTrainedTokenizerBase

from spice_select.errors import ModelError
from spice_select.pool.rendering import Rendering

TokenIds = NDArray[np.int32]
TokenMask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One chat as tokens."""

    input_ids: TokenIds  # [tokens] int32
    trained: TokenMask  # [tokens] bool; the first is never trained, as nothing predicts it


class Encoder:
    """Encodes renderings with a private copy of the tokenizer: no truncation or padding setting reaches it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Copy the tokenizer's backend, without the post-processor (it adds special tokens and may trim offsets).

        Raises `ModelError` if the tokenizer is not one of the `tokenizers` library, or the copy encodes differently.
        """
        if not tokenizer.is_fast:
            raise ModelError(
                f"{type(tokenizer).__name__} cannot say which characters a token stands for.\n"
                "Use a model with a tokenizer.json (a fast tokenizer)."
            )
        self._backend = Tokenizer.from_str(cast("Tokenizer", tokenizer.backend_tokenizer).to_str())
        self._backend.post_processor = processors.Sequence([])  # pyright: ignore[reportAttributeAccessIssue]
        self._backend.no_truncation()
        self._backend.no_padding()
        self._added = np.array(sorted(tokenizer.added_tokens_decoder), dtype=np.int32)
        text = "".join(tokenizer.all_special_tokens) + "\n Été, 2 × 'x'\n\n\t"
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._backend.encode(text, add_special_tokens=False).ids != expected:
            raise ModelError(
                f"{type(tokenizer).__name__} encodes text differently from its tokenizer.json; masks cannot be exact.\n"
                "Save it with save_pretrained and load it from there."
            )

    def encode(self, renderings: Sequence[Rendering]) -> list[Encoded]:
        """Tokens and masks of a batch of chats."""
        encodings = self._backend.encode_batch([r.text for r in renderings], add_special_tokens=False)
        return [self._encoded(e, r.spans) for e, r in zip(encodings, renderings, strict=True)]

    def _encoded(self, encoding: Encoding, spans: list[tuple[int, int]]) -> Encoded:
        ids = np.array(encoding.ids, dtype=np.int32)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        starts, ends = offsets[:, 0], offsets[:, 1]
        trained = np.zeros(len(ids), dtype=np.bool_)
        for start, end in spans:
            inside = (ends > start) & (starts < end)
            across = inside & (starts < start)
            if across.any():
                inside &= ~(across & np.isin(ids, self._added))
            trained |= inside
        trained[:1] = False
        return Encoded(ids, trained)
