"""From rows to tensors: tokens, targets and masks.

Whatever a row does not know becomes a masked cell, so that a loss can never be taken on a guess. Texts of like length
share a batch, because padding costs as much as text.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from serving.labels import ASPECT_STATES, ASPECTS, DEMANDS, EVIDENCE_LABELS, POLARITIES
from training.data import Row

MAX_LENGTH: Final = 128
PAD: Final = 1
IGNORED: Final = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row with its token ids, their character offsets (empty for special tokens), and its plain wording's ids."""

    row: Row
    ids: list[int]
    offsets: list[tuple[int, int]]
    cut: bool
    plain: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs and targets of B rows padded to T tokens; names and shapes as in serving/labels.py."""

    ids: Tensor  #: int64 [B, T]
    mask: Tensor  #: int64 [B, T]
    sentiment: Tensor  #: int64 [B], IGNORED where unknown
    aspects: Tensor  #: int64 [B, 13], IGNORED where unknown
    demands: Tensor  #: float [B, 10], 1 where present
    demands_known: Tensor  #: bool [B, 10]
    strength: Tensor  #: float [B, 10]
    evidence: Tensor  #: float [B, T, 23]
    evidence_known: Tensor  #: bool [B, T, 23]


def load_tokenizer(path: Path, max_length: int = MAX_LENGTH) -> Tokenizer:
    """The tokenizer, cutting texts at ``max_length`` tokens."""
    if not path.is_file():
        raise SystemExit(f"No tokenizer at {path}: it comes with the repository (model_repo/demand/1/tokenizer.json).")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_length)
    return tokenizer


def encode(rows: Sequence[Row], tokenizer: Tokenizer) -> list[Encoded]:
    """Tokenise; the order is kept."""
    encodings = tokenizer.encode_batch([row.text for row in rows])
    plain = iter(tokenizer.encode_batch([row.plain for row in rows if row.plain is not None]))
    return [
        Encoded(
            row, encoding.ids, encoding.offsets, bool(encoding.overflowing),
            None if row.plain is None else next(plain).ids,
        )
        for row, encoding in zip(rows, encodings, strict=True)
    ]  # fmt: skip


def trainable(encoded: Iterable[Encoded]) -> list[Encoded]:
    """Without texts that were cut and have aspects or demands: these may rest on words that are gone. What a whole text
    lacks, its beginning lacks too."""
    return [one for one in encoded if not one.cut or not (one.row.aspects or one.row.demands)]


def token_labels(one: Encoded) -> Tensor:
    """[T, 23]: 1 where a token overlaps a span of the label."""
    marks = torch.zeros(len(one.ids), len(EVIDENCE_LABELS))
    for name, spans in one.row.spans.items():
        column = EVIDENCE_LABELS.index(name)
        for i, (start, end) in enumerate(one.offsets):
            if any(start < last and end > first for first, last in spans):
                marks[i, column] = 1.0
    return marks


def padded(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids padded to the longest text, and the mask; int64 [B, T]."""
    ids = torch.full((len(texts), max(map(len, texts))), PAD)
    mask = torch.zeros_like(ids)
    for i, text in enumerate(texts):
        ids[i, : len(text)], mask[i, : len(text)] = torch.tensor(text), 1
    return ids, mask


def collate(encoded: Sequence[Encoded]) -> Batch:
    """Pad to the longest text and build the targets."""
    ids, mask = padded([one.ids for one in encoded])
    size, length = ids.shape
    sentiment = torch.full((size,), IGNORED)
    aspects = torch.full((size, len(ASPECTS)), IGNORED)
    demands, strength = torch.zeros(size, len(DEMANDS)), torch.zeros(size, len(DEMANDS))
    demands_known = torch.zeros(size, len(DEMANDS), dtype=torch.bool)
    evidence = torch.zeros(size, length, len(EVIDENCE_LABELS))
    evidence_known = torch.zeros(size, length, len(EVIDENCE_LABELS), dtype=torch.bool)
    for i, one in enumerate(encoded):
        row, used = one.row, len(one.ids)
        if row.sentiment is not None:
            sentiment[i] = POLARITIES.index(row.sentiment)
        for name in row.known_aspects:
            aspects[i, ASPECTS.index(name)] = ASPECT_STATES.index(row.aspects.get(name, "absent"))
        for name in row.known_demands:
            column = DEMANDS.index(name)
            demands_known[i, column] = True
            if name in row.demands:
                demands[i, column], strength[i, column] = 1.0, row.demands[name]
        evidence[i, :used] = token_labels(one)
        for name in row.known_spans:
            evidence_known[i, :used, EVIDENCE_LABELS.index(name)] = True
    return Batch(ids, mask, sentiment, aspects, demands, demands_known, strength, evidence, evidence_known)


def batches(encoded: Sequence[Encoded], size: int, seed: int) -> Iterator[list[Encoded]]:
    """One shuffled pass in batches of like lengths: shuffled pools are sorted, cut into batches and shuffled again."""
    shuffler = random.Random(seed)
    order = list(encoded)
    shuffler.shuffle(order)
    pool = size * 50
    for start in range(0, len(order), pool):
        piece = sorted(order[start : start + pool], key=lambda one: len(one.ids))
        cuts = [piece[i : i + size] for i in range(0, len(piece), size)]
        shuffler.shuffle(cuts)
        yield from cuts
