"""New labels and better ones: the room behind ``radar label preview`` and ``radar label queue``.

:func:`preview` learns a label from its definition and 8 to 32 examples (:mod:`training.fewshot`) and shows what it
would have found in past texts, before anything goes live. Texts drawn from the past stand for "not this label".

:func:`queue` finds the past texts that are worth a person's label, those of which the model is least certain and those
least like what it was trained on in turn; :func:`rows_to_fill_in` makes rows of them. Moved to ``training/utterances``
they are learnt from beside all the old rows, and ``python -m training.evaluate --gate`` tells whether something else
was forgotten.

Texts are read as the stream reads them, so personal data is masked in everything that leaves here.
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from serving.card import ModelCard
from serving.labels import ASPECTS, DEMANDS, EVIDENCE_LABELS, POLARITIES
from stream.preprocess import prepare
from training import data, metrics
from training.batches import load_tokenizer
from training.fewshot import Embed, Head, Texts, novel

OTHER: Final = "other"
OTHERS_PER_EXAMPLE: Final = 4
FAMILIAR: Final = 2000  #: training texts that new ones are compared with


@dataclass(frozen=True)
class Preview:
    """What a label would have found: the texts that have it, surest first, and those on the border."""

    found: list[tuple[float, str]]
    border: list[tuple[float, str]]
    texts: int


def preview(embed: Embed, label: str, examples: Texts, past: Texts, shown: int = 10, seed: int = 0) -> Preview:
    """Learn ``label`` from ``examples`` (its definition may be one) and read ``past`` with it.

    Two heads learn from different others, so that a text is never read only by a head that took it for one of these.
    Raises ValueError where there are too few examples or past texts to learn from.
    """
    known = set(examples)
    pool = sorted({text for text in past if text not in known})
    drawn = random.Random(seed).sample(pool, min(len(pool), 2 * OTHERS_PER_EXAMPLE * len(examples)))
    probabilities = np.full((2, len(past)), np.nan)
    for turn, others in enumerate((drawn[::2], drawn[1::2])):
        head = Head(embed, [*examples, *others], [label] * len(examples) + [OTHER] * len(others))
        unseen = [i for i, text in enumerate(past) if text not in others]
        read = head.probabilities([past[i] for i in unseen])
        probabilities[turn, unseen] = read[:, head.names.index(label)]
    means = np.nanmean(probabilities, axis=0).tolist()
    ranked = sorted(zip(means, past, strict=True), reverse=True)
    found = [(probability, text) for probability, text in ranked if probability >= 0.5]
    border = sorted(ranked, key=lambda pair: abs(pair[0] - 0.5))[:shown]
    return Preview(found, border, len(past))


def queue(
    found: Sequence[metrics.Answer], states: metrics.Floats, seen: metrics.Floats, card: ModelCard, count: int
) -> list[int]:
    """Places of ``count`` answers worth a person's label: those nearest to a threshold, and the strangest, in turn."""
    distances = [
        min(abs(answer.presence(name) - card.thresholds[name]) for name in EVIDENCE_LABELS) for answer in found
    ]
    nearest = np.argsort(distances, kind="stable").tolist()
    in_turn = [place for pair in zip(nearest, novel(states, seen, len(found)), strict=True) for place in pair]
    return list(dict.fromkeys(in_turn))[:count]


def row_to_fill_in(answer: metrics.Answer, card: ModelCard) -> dict[str, Any]:
    """An utterance row as training reads it, with the model's own guess to be corrected."""
    return {
        "text": answer.row.text,
        "lang": answer.row.lang,
        "kind": "",
        "sentiment": POLARITIES[int(answer.sentiment.argmax())],
        "aspects": [
            {"aspect": name, "sentiment": answer.polarity(name), "evidence": []}
            for name in ASPECTS
            if answer.tells(name, card.thresholds)
        ],
        "demands": [
            {"demand": name, "strength": round(float(answer.demands[i, 1]), 1), "evidence": []}
            for i, name in enumerate(DEMANDS)
            if answer.tells(name, card.thresholds)
        ],
    }


def rows_to_fill_in(card: ModelCard, past: Texts, count: int) -> Iterator[dict[str, Any]]:
    """The ``count`` texts of the queue as rows, read with the model of ``card``. Raises ValueError without any text."""
    ours = [row.text for row in data.utterances()]
    if not past:
        raise ValueError("There are no past texts to choose from.")
    if not ours:
        raise ValueError(f"{data.UTTERANCES} holds no texts to compare with: run this in a checkout of the repository.")
    tokenizer = load_tokenizer(card.tokenizer_file, card.max_length)
    embed = embedding(card)
    rows = [data.Row(text, "zh" if any("\u4e00" <= c <= "\u9fff" for c in text) else "en", "past") for text in past]
    found = metrics.served(card.model_file, tokenizer)(rows)
    familiar = random.Random(0).sample(ours, min(FAMILIAR, len(ours)))
    for place in queue(found, embed(past), embed(familiar), card, count):
        yield row_to_fill_in(found[place], card)


def embedding(card: ModelCard) -> Embed:
    """How the model of ``card`` reads texts."""
    return metrics.onnx_embed(card.model_file, load_tokenizer(card.tokenizer_file, card.max_length))


def texts_of(lines: Iterable[str]) -> list[str]:
    """The clean, masked texts of JSONL with a "text" field, or of a text a line; blank and repeated ones left out.

    Raises ValueError for JSON of another shape.
    """
    return list(dict.fromkeys(text for line in lines if (text := _text(line.strip()))))


def _text(line: str) -> str:
    if not line.startswith("{"):
        return prepare(line).clean
    item = json.loads(line)
    if not isinstance(item.get("text"), str):
        raise ValueError(f'A JSON line needs a string field "text": {line[:80]}')
    return prepare(item["text"]).clean
