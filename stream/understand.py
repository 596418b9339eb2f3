"""Understanding texts: preprocessing and the model joined, with every span brought back to a text people can see.

The model reads the clean text. What leaves here counts code points of the masked text (signals, which are stored) or of
the text as given (`radar score`, whose caller has it), and quotes the masked text alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import orjson

from serving.client import TritonScorer
from serving.decode import TextScore
from serving.local import LocalScorer
from serving.scorer import Scorer
from stream.preprocess import Names, Prepared, prepare
from stream.preprocess.align import Alignment
from stream.records import Span
from stream.settings import Settings

LINES_AT_ONCE: Final = 64
Move = Callable[[int, int], Span]


@dataclass(frozen=True, slots=True)
class Understood:
    """One text: what it is, what the model says about it, and which model."""

    prepared: Prepared
    score: TextScore
    model: str

    def as_score(self) -> dict[str, Any]:
        """The answer of ``radar score``: masked text, spans in the text as given."""
        return {
            "text": self.prepared.masked,
            "language": self.prepared.language,
            **self._said(self.prepared.to_given),
            "strangeness": self.score.strangeness,
            "out_of_domain": self.score.foreign,
            "keywords": list(self.prepared.keywords),
            "entities": [
                {"type": entity.type, "text": entity.text, "span": list(entity.span)}
                for entity in self.prepared.entities
            ],
            "masks": [
                {"type": mask.type, "span": list(mask.given), "in_text": list(mask.masked)}
                for mask in self.prepared.masks
            ],
            "model": self.model,
        }

    def signal_fields(self, characters: int) -> dict[str, Any]:
        """The fields of a :class:`~stream.records.Signal` that come from its text, of which ``characters`` are kept."""
        masks = self.prepared.masks
        masking = Alignment(tuple(mask.given for mask in masks), tuple(mask.masked for mask in masks))
        entities = [
            {"type": entity.type, "text": entity.text, "span": list(span)}
            for entity in self.prepared.entities
            if (span := masking.forward(*entity.span))[1] <= characters
        ]

        def kept(start: int, end: int) -> Span:
            start, end = self.prepared.to_masked(start, end)
            return min(start, characters), min(end, characters)

        return {
            "text": self.prepared.masked[:characters],
            "language": self.prepared.language,
            **self._said(kept),
            "keywords": list(self.prepared.keywords),
            "entities": entities,
            "fingerprint": f"{self.prepared.fingerprint:016x}",
            "model": self.model,
        }

    def _said(self, move: Move) -> dict[str, Any]:
        """Sentiment, aspects and demands, with the evidence moved from the clean text elsewhere."""
        return {
            "sentiment": {"label": self.score.label, "score": self.score.score},
            "aspects": [{**a._asdict(), "evidence": _moved(a.evidence, move)} for a in self.score.aspects],
            "demands": [{**d._asdict(), "evidence": _moved(d.evidence, move)} for d in self.score.demands],
        }


async def understand(scorer: Scorer, texts: Sequence[str], names: Names | None = None) -> list[Understood]:
    """Each text understood, in the order given, ``names`` found in it; raises :class:`~serving.errors.ScoringError`."""
    prepared = await asyncio.to_thread(lambda: [prepare(text, names) for text in texts])
    scores = await scorer.score([text.clean for text in prepared])
    return [Understood(text, score, scorer.model) for text, score in zip(prepared, scores, strict=True)]


async def open_scorer(settings: Settings) -> Scorer:
    """The scorer that the settings name, asked nothing yet: Triton, or this process where there is no address."""
    if settings.triton:
        return TritonScorer(settings.triton, settings.model_repo, settings.model)
    return LocalScorer(settings.model_repo, settings.model)


async def open_ready_scorer(settings: Settings) -> Scorer:
    """Triton where it is ready within a second, else this process: for commands that should work with no stack up."""
    scorer = await open_scorer(settings)
    if await scorer.ready():
        return scorer
    await scorer.close()
    return LocalScorer(settings.model_repo, settings.model)


async def score_lines(lines: Iterable[str], settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """One answer per line, in order: ``as_score`` or ``{"error", "line"}``.

    A line is a text, or a JSON object with a ``text`` whose other fields are handed through.
    """
    numbered = enumerate(lines, start=1)
    async with await open_ready_scorer(settings) as scorer:
        while block := await asyncio.to_thread(lambda: list(islice(numbered, LINES_AT_ONCE))):
            read = [_read(number, line) for number, line in block]
            understood = iter(await understand(scorer, [item["text"] for item in read if "text" in item]))
            for item in read:
                yield {**item, **next(understood).as_score()} if "text" in item else item


def _read(number: int, line: str) -> dict[str, Any]:
    """A line as an object with a ``text``, or as the answer that says what is wrong with it."""
    line = line.rstrip("\r\n")
    if not line.lstrip().startswith("{"):
        return {"text": line}
    try:
        item = orjson.loads(line)
    except ValueError as error:
        return {"error": f"not JSON: {error}", "line": number}
    if not isinstance(item.get("text"), str):
        return {"error": 'a JSON line needs a string field "text"', "line": number}
    return dict(item)


def _moved(evidence: Iterable[Span], move: Move) -> list[list[int]]:
    """Spans in another text, joined where they now overlap; empty ones are left out."""
    moved: list[list[int]] = []
    for start, end in sorted(move(*span) for span in evidence):
        if moved and start < moved[-1][1]:
            moved[-1][1] = max(moved[-1][1], end)
        elif start < end:
            moved.append([start, end])
    return moved
