"""What every scorer has in common: texts in, scores out, in the order given.

A scorer promises that the score of a text depends on the text and the model version alone, not on its neighbours,
and that blank texts (neutral) and repeated ones cost nothing. Subclasses turn tokens into output tensors.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from serving.card import read_card
from serving.decode import NEUTRAL, Outputs, TextScore, decode
from serving.errors import BadModelAnswer, ScoringError
from serving.tokenizer import TextTokenizer, Tokens

PROBE = "包装破损，客服态度差，但是东西很好用。Where is my refund?"


class Scorer(ABC):
    """Scores texts with the newest model version in ``model_repo``; an async context manager."""

    def __init__(self, model_repo: Path, name: str = "demand") -> None:
        self.card = read_card(model_repo, name)
        self._tokenizer = TextTokenizer(self.card)

    @property
    def model(self) -> str:
        """Name, version and release of the model, e.g. ``demand/1@1.0``."""
        return self.card.title

    async def score(self, texts: Sequence[str], thresholds: Mapping[str, float] | None = None) -> list[TextScore]:
        """The score of each text, in the order given; raises :class:`ScoringError`, never half an answer.

        ``thresholds`` are those of the card, unless others are given for every label.
        """
        spoken = list(dict.fromkeys(text for text in texts if text.strip()))
        tokens = self._tokenizer.encode(spoken)
        limits = thresholds or self.card.thresholds
        scores: dict[str, TextScore] = {}
        for batch, outputs in await self._read(tokens):
            members = [spoken[place] for place in batch]
            offsets = [tokens[place].offsets for place in batch]
            scores.update(zip(members, decode(outputs, offsets, members, limits), strict=True))
        return [scores.get(text, NEUTRAL) for text in texts]

    async def check(self, deadline: float = 1.0) -> None:
        """Score a known text twice; raises :class:`ScoringError` unless the answer is sound and the same twice."""
        tokens = self._tokenizer.encode([PROBE])[0]
        outputs = await self._probe([tokens, tokens], deadline)
        if any(abs(tensor[0] - tensor[1]).max() > 0.01 for tensor in outputs):
            raise BadModelAnswer("The model scores one text in two ways within one batch: check its batching.")

    async def ready(self, deadline: float = 1.0) -> bool:
        """Whether :meth:`check` succeeds."""
        try:
            await self.check(deadline)
        except ScoringError:
            return False
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def close(self) -> None:
        """Free what the scorer holds."""

    @abstractmethod
    async def _read(self, tokens: Sequence[Tokens]) -> list[tuple[Sequence[int], Outputs]]:
        """Checked outputs in batches, each with the places of its members in ``tokens``."""

    @abstractmethod
    async def _probe(self, tokens: Sequence[Tokens], deadline: float) -> Outputs:
        """Checked outputs of one small batch, within ``deadline`` seconds, once, past any breaker."""
