"""What a model has read once it need not read again: scores on disk, by model and by a hash of the text.

No text is kept. A file belongs to one model (name, version, release); scores of another are never taken for its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import orjson

from serving.decode import Aspect, Demand, Outputs, TextScore
from serving.scorer import Scorer
from serving.tokenizer import Tokens
from stream.settings import Settings
from stream.understand import open_ready_scorer


class RememberedScorer(Scorer):
    """Scores what is not known yet by Triton or, where none answers, in this process, and writes it down.

    ``local``: not by Triton, which serves another model. Nothing is loaded while everything is known.
    """

    def __init__(self, settings: Settings, folder: Path, local: bool = False) -> None:
        super().__init__(settings.model_repo, settings.model)
        self._settings = settings.model_copy(update={"triton": "" if local else settings.triton})
        self._inner: Scorer | None = None
        self._scores: dict[str, TextScore] = {}
        self.read = 0  # texts that had to be read
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{self.model.replace('/', '-')}.jsonl"
        self._file: IO[bytes] | None = None
        if self._path.exists():
            self._scores = dict(map(_read, self._whole_lines()))

    def _whole_lines(self) -> list[bytes]:
        """The lines of the file; one that was cut off when its writer was killed is removed."""
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            self._path.write_bytes(whole)
        return whole.splitlines()

    async def score(self, texts: Sequence[str], thresholds: Mapping[str, float] | None = None) -> list[TextScore]:
        if thresholds is not None:  # what is remembered was decided by those of the card
            return await super().score(texts, thresholds)
        keys = [blake2b(text.encode(errors="surrogatepass"), digest_size=12).hexdigest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._scores}
        if new:
            self.read += len(new)
            scores = dict(zip(new, await super().score(list(new.values())), strict=True))
            self._scores |= scores
            self._file = self._file or self._path.open("ab")
            self._file.writelines(_line(key, score) for key, score in scores.items())
            self._file.flush()
        return [self._scores[key] for key in keys]

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._inner is not None:
            await self._inner.close()

    async def _read(self, tokens: Sequence[Tokens]) -> list[tuple[Sequence[int], Outputs]]:
        return await (await self._model())._read(tokens)

    async def _probe(self, tokens: Sequence[Tokens], deadline: float) -> Outputs:
        return await (await self._model())._probe(tokens, deadline)

    async def _model(self) -> Scorer:
        if self._inner is None:
            self._inner = await open_ready_scorer(self._settings)
        return self._inner


def _line(key: str, score: TextScore) -> bytes:
    found = [*map(list, score.aspects)], [*map(list, score.demands)]
    record: list[Any] = [key, score.label, score.score, *found, score.strangeness]
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _read(line: bytes) -> tuple[str, TextScore]:
    key, label, score, aspects, demands, strangeness = orjson.loads(line)
    return key, TextScore(
        label,
        score,
        tuple(Aspect(aspect, how, prob, [(a, b) for a, b in spans]) for aspect, how, prob, spans in aspects),
        tuple(Demand(demand, strength, prob, [(a, b) for a, b in spans]) for demand, strength, prob, spans in demands),
        strangeness,
    )
