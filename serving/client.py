"""Scoring through Triton: one channel, batches of like length, a deadline on every call, a breaker around it.

Triton batches requests only when their shapes match, and padding is wasted work: texts are grouped by length, padded
to a multiple of 16 tokens, and sent in requests of a bounded number of tokens, a few at a time. A call that finds
nobody is tried again with growing pauses; a server that stays away trips the breaker, and :meth:`TritonScorer.score`
then fails at once with :class:`ScorerUnavailable` until a probe succeeds.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from tritonclient.grpc import InferInput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from serving.breaker import Breaker
from serving.card import ModelCard
from serving.decode import Outputs
from serving.errors import BadModelAnswer, DeadlineExceeded, ModelMissing, ScorerUnavailable
from serving.scorer import Scorer
from serving.tokenizer import Ids, Tokens, padded

T = TypeVar("T")

BUCKET: Final = 16  # widths are multiples of it
TOKENS_PER_REQUEST: Final = 4096
REQUESTS_AT_ONCE: Final = 4
PAUSES: Final = (0.05, 0.2, 0.5)  # seconds before each further try when nobody answers


class Transport(Protocol):
    """How a batch reaches a server; tests pass their own. Both calls raise :class:`ScoringError`."""

    async def max_batch(self, deadline: float) -> int:
        """Most texts in one request."""

    async def infer(self, ids: Ids, mask: Ids, deadline: float) -> Outputs:
        """One forward pass; the answer is not checked yet."""

    async def close(self) -> None: ...


class TritonScorer(Scorer):
    """Scores through the Triton at ``address``, the ``host:port`` of its gRPC endpoint."""

    def __init__(
        self,
        address: str,
        model_repo: Path,
        name: str = "demand",
        deadline: float = 15.0,
        *,
        transport: Transport | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        super().__init__(model_repo, name)
        self.breaker = breaker or Breaker()
        self._transport = transport or GrpcTransport(address, self.card)
        self._deadline = deadline
        self._slots = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._max_batch = 0  # 0: the server was not asked yet

    async def close(self) -> None:
        await self._transport.close()

    async def _read(self, tokens: Sequence[Tokens]) -> list[tuple[Sequence[int], Outputs]]:
        if not tokens:
            return []
        most = self._max_batch = self._max_batch or await self._patiently(self._ask_max_batch)
        batches = list(plan([len(text) for text in tokens], most))
        requests = [[tokens[place] for place in batch] for batch in batches]
        ahead = 0 if self.breaker.state == "closed" else 1  # the probe goes alone: refused siblings would cancel it
        answers = [await self._send(request, most) for request in requests[:ahead]]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._send(request, most)) for request in requests[ahead:]]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return list(zip(batches, answers + [task.result() for task in tasks], strict=True))

    async def _ask_max_batch(self) -> int:
        return await self._transport.max_batch(self._deadline)

    async def _send(self, batch: Sequence[Tokens], max_batch: int) -> Outputs:
        async with self._slots:
            return await self._patiently(lambda: self._infer(batch, max_batch, self._deadline))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's answer, tried again while nobody answers and the breaker is closed."""
        for pause in (*PAUSES, None):
            try:
                with self.breaker.guard():
                    return await call()
            except ScorerUnavailable as error:
                if pause is None or error.retry_in:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _probe(self, tokens: Sequence[Tokens], deadline: float) -> Outputs:
        most = await self._transport.max_batch(deadline)
        batches = [tokens[start : start + most] for start in range(0, len(tokens), most)]
        answers = [await self._infer(batch, most, deadline) for batch in batches]
        return Outputs(*map(np.concatenate, zip(*answers, strict=True)))

    async def _infer(self, batch: Sequence[Tokens], max_batch: int, deadline: float) -> Outputs:
        longest = max(map(len, batch))
        width = bucket(longest) if max_batch > 1 else longest
        outputs = await self._transport.infer(*padded(batch, width), deadline)
        return outputs.checked(len(batch), width)


def bucket(length: int) -> int:
    """The width that a text of ``length`` tokens is padded to."""
    return -(-length // BUCKET) * BUCKET


def plan(lengths: Sequence[int], max_batch: int) -> Iterator[list[int]]:
    """Places of the texts that share a request: one width, at most ``max_batch`` texts, tokens bounded."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for place, length in enumerate(lengths):
        groups[bucket(length)].append(place)
    for width, places in groups.items():
        most = max(1, min(max_batch, TOKENS_PER_REQUEST // width))
        yield from (places[start : start + most] for start in range(0, len(places), most))


#: gRPC states in which the server is at fault, not the call; INTERNAL: the model's process died.
_AWAY: Final = ("UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "ABORTED")

_CHANNEL: Final = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # the default of two minutes would outlast a restart of the server
]


class GrpcTransport:
    """One gRPC channel to one Triton, opened at the first call, in the event loop of that call."""

    def __init__(self, address: str, card: ModelCard) -> None:
        self._address, self._name, self._version = address, card.name, str(card.version)

    async def max_batch(self, deadline: float) -> int:
        answer = self._client.get_model_config(self._name, self._version, client_timeout=deadline)
        most: int = (await self._translated(answer)).config.max_batch_size
        return max(1, most)

    async def infer(self, ids: Ids, mask: Ids, deadline: float) -> Outputs:
        inputs = [InferInput("input_ids", ids.shape, "INT64"), InferInput("attention_mask", mask.shape, "INT64")]
        for tensor, values in zip(inputs, (ids, mask), strict=True):
            tensor.set_data_from_numpy(values)
        answer = self._client.infer(self._name, inputs, self._version, client_timeout=deadline)
        result: InferResult = await self._translated(answer)
        try:
            tensors = {name: result.as_numpy(name) for name in Outputs._fields}
        except ValueError as error:
            raise BadModelAnswer(f"Triton's answer does not fit its shape: {error}.") from error
        missing = [name for name, tensor in tensors.items() if tensor is None]
        if missing:
            raise BadModelAnswer(f"Triton's answer lacks {', '.join(missing)}: is '{self._name}' the right model?")
        return Outputs(**tensors)

    async def close(self) -> None:
        if "_client" in vars(self):
            await self._client.close()

    @cached_property
    def _client(self) -> InferenceServerClient:
        return InferenceServerClient(self._address, channel_args=_CHANNEL)

    async def _translated(self, answer: Awaitable[Any]) -> Any:
        """The answer, with the client's one exception class told apart."""
        try:
            return await answer
        except InferenceServerException as error:
            status = str(error.status()).removeprefix("StatusCode.")
            if status == "DEADLINE_EXCEEDED":
                raise DeadlineExceeded(f"Triton at {self._address} did not answer in time; overloaded?") from error
            if status == "NOT_FOUND":
                raise ModelMissing(
                    f"Triton at {self._address} has no '{self._name}' version {self._version}: {error.message()}"
                ) from error
            if status in _AWAY:
                raise ScorerUnavailable(
                    f"Triton at {self._address} does not answer ({error.message()}). "
                    "Start it with 'radar up', or set RADAR_TRITON to its address."
                ) from error
            raise BadModelAnswer(f"Triton at {self._address} refused the call ({status}): {error.message()}") from error
