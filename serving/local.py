"""Scoring in this process, for ``radar score`` with no Triton up and for tests; the same scores as through Triton."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from serving.decode import Outputs
from serving.errors import ModelMissing
from serving.forward import Forward
from serving.scorer import Scorer
from serving.tokenizer import Tokens, padded

TEXTS_AT_ONCE = 256  # bounds memory; a text is read alone anyway


class LocalScorer(Scorer):
    """Scores with ONNX Runtime in a thread pool; the event loop stays free."""

    def __init__(self, model_repo: Path, name: str = "demand", threads: int = 0) -> None:
        super().__init__(model_repo, name)
        try:
            self._forward = Forward(self.card.model_file, threads)
        except Exception as error:  # ONNX Runtime has its own exception classes, one per status
            raise ModelMissing(f"{self.card.model_file} cannot be loaded ({error}): export it again.") from error

    async def close(self) -> None:
        self._forward.close()

    async def _read(self, tokens: Sequence[Tokens]) -> list[tuple[Sequence[int], Outputs]]:
        places = range(len(tokens))
        batches = [places[start : start + TEXTS_AT_ONCE] for start in range(0, len(tokens), TEXTS_AT_ONCE)]
        return [(batch, await self._outputs([tokens[member] for member in batch])) for batch in batches]

    async def _probe(self, tokens: Sequence[Tokens], deadline: float) -> Outputs:
        return await self._outputs(tokens)

    async def _outputs(self, tokens: Sequence[Tokens]) -> Outputs:
        width = max(map(len, tokens))
        tensors = await asyncio.to_thread(self._forward, *padded(tokens, width))
        return Outputs(**tensors).checked(len(tokens), width)
