"""New labels and better ones: ``python -m training.label preview`` and ``python -m training.label queue``.

``preview`` learns a label from its definition and 8 to 32 examples (:mod:`training.fewshot`) and shows what it would
have found in past texts, before anything goes live. Texts drawn from the past stand for "not this label".

``queue`` writes the past texts that are worth a person's label, those of which the model is least certain and those
least like what it was trained on in turn, as rows to be filled in. Moved to ``training/utterances`` they are learnt
from beside all the old rows, and ``python -m training.evaluate --gate`` tells whether something else was forgotten.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from serving.card import ModelCard, read_card
from serving.labels import ASPECTS, DEMANDS, EVIDENCE_LABELS, POLARITIES
from training import data, metrics
from training.batches import load_tokenizer
from training.fewshot import Embed, Head, Texts, novel

OTHER: Final = "other"
OTHERS_PER_EXAMPLE: Final = 4
MODELS: Final = data.ROOT / "model_repo"
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
        "sentiment": POLARITIES[int(answer.sentiment.argmax())],
        "aspects": [
            {"aspect": name, "sentiment": answer.polarity(name), "evidence": []}
            for name in ASPECTS
            if answer.presence(name) >= card.thresholds[name]
        ],
        "demands": [
            {"demand": name, "strength": round(float(answer.demands[i, 1]), 1), "evidence": []}
            for i, name in enumerate(DEMANDS)
            if answer.presence(name) >= card.thresholds[name]
        ],
    }


def texts_of(path: Path) -> list[str]:
    """The cleaned texts of a file: JSONL with a "text" field, or a text a line."""
    return list(dict.fromkeys(text for line in path.read_text(encoding="utf-8").splitlines() if (text := _text(line))))


def _text(line: str) -> str:
    return data.clean(json.loads(line)["text"] if line.startswith("{") else line)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS, help="the model repository")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("preview", "what a new label would have found"), ("queue", "what is worth a label")):
        command = commands.add_parser(name, help=what)
        command.add_argument("past", type=Path, help="past texts: JSONL with a text field, or a text a line")
        command.add_argument("--count", type=int, default=20, help="texts to show or to write")
        if name == "preview":
            command.add_argument("--label", required=True)
            command.add_argument("--definition", required=True, help="one sentence")
            command.add_argument("--examples", type=Path, required=True, help="8 to 32 texts that have the label")
    chosen = parser.parse_args(arguments)
    card = read_card(chosen.models)
    tokenizer = load_tokenizer(card.tokenizer_file, card.max_length)
    embed, past = metrics.onnx_embed(card.model_file, tokenizer), texts_of(chosen.past)
    if chosen.command == "preview":
        try:
            seen = preview(embed, chosen.label, [chosen.definition, *texts_of(chosen.examples)], past, chosen.count)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        sys.stdout.writelines(_shown(seen, chosen.label, chosen.count))
        return
    rows = [data.Row(text, "zh" if any("\u4e00" <= c <= "\u9fff" for c in text) else "en", "past") for text in past]
    found = metrics.answers(rows, tokenizer, metrics.onnx_predict(card.model_file))
    familiar = random.Random(0).sample(ours := [row.text for row in data.utterances()], min(FAMILIAR, len(ours)))
    for place in queue(found, embed(past), embed(familiar), card, chosen.count):
        sys.stdout.write(json.dumps(row_to_fill_in(found[place], card), ensure_ascii=False) + "\n")


def _shown(seen: Preview, label: str, count: int) -> Iterator[str]:
    yield f"{label}: {len(seen.found)} of {seen.texts} past texts. The surest, then those on the border:\n"
    yield from _listed(seen.found[:count])
    yield "\n"
    yield from _listed(seen.border)


def _listed(pairs: Iterable[tuple[float, str]]) -> Iterator[str]:
    for probability, text in pairs:
        yield f"  {probability:.2f}  {text}\n"


if __name__ == "__main__":
    main()
