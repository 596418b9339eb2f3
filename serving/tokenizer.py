"""From texts to token ids, with the place of every token in its text.

The tokenizer lies beside the model it was trained with. Offsets count Unicode code points of the text given, whatever
normalisation happens inside; they carry the model's evidence back to the words a person wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from serving.card import ModelCard
from serving.errors import ModelMissing

Offset = tuple[int, int]
Ids = npt.NDArray[np.int64]

PAD: Final = 1  # id of <pad> in the XLM-R vocabulary; masked, so the model never looks at it


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the model reads it."""

    ids: list[int]
    offsets: list[Offset]  # [start, end) per token; (0, 0) for the special ones

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """Tokenizer of one model version; cuts texts off at the model's length."""

    def __init__(self, card: ModelCard) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(card.tokenizer_file))
        except Exception as error:  # the library raises bare Exception
            raise ModelMissing(f"{card.tokenizer_file} cannot be read ({error}): export the model again.") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(card.max_length)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of each text, in the order given."""
        return [Tokens(encoding.ids, encoding.offsets) for encoding in self._tokenizer.encode_batch(list(texts))]


def padded(batch: Sequence[Tokens], width: int) -> tuple[Ids, Ids]:
    """``input_ids`` and ``attention_mask``, both [B, width]."""
    ids = np.full((len(batch), width), PAD, np.int64)
    mask = np.zeros((len(batch), width), np.int64)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens.ids
        mask[row, : len(tokens)] = 1
    return ids, mask
