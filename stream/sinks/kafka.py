"""Results as Kafka messages: ``send`` returns when the brokers have every one of them.

Messages of one partition arrive in the order given. The partition of a key is murmur2, as in Java's and aiokafka's own
producers, so topics written by others join with these. The producer is idempotent where the broker can do that; on one
that cannot (Tansu), a retry after a lost answer may write a message twice, which readers bear: ids derive from content.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import murmur2

from stream.sinks.base import SinkRejected, SinkUnavailable

LINGER_MS = 5
REQUEST_MS = 10_000
#: After that a batch is lost on the client's side: it gives one up after REQUEST_MS, and after an attempt under way.
DELIVERY_SECONDS = 3 * REQUEST_MS / 1000
BATCH_BYTES = 512 * 1024
MESSAGE_BYTES = 1024 * 1024
log = logging.getLogger(__name__)

Message = tuple[str | None, dict[str, Any]] | tuple[str | None, dict[str, Any], int | None]


class KafkaOut:
    """A producer for any number of tasks; when it fails under one, the others are told so as well and send again."""

    def __init__(self, brokers: list[str], security: Mapping[str, Any] | None = None) -> None:
        self.brokers = brokers
        self._security = security or {}  # as client_security() gives it
        self.idempotent: bool | None = None  # unknown until the first connection
        self._producer: AIOKafkaProducer | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect. Raises :class:`SinkUnavailable`."""
        async with self._opening:
            if self._producer is None:
                await self._connect()

    async def _connect(self) -> None:
        try:
            if self.idempotent is None:
                self.idempotent = await self._can_do_idempotence()
                if not self.idempotent:
                    log.warning(
                        "The broker at %s has no idempotent producer: a retry may repeat a message", self._address
                    )
            self._producer = await self._start(idempotent=self.idempotent)
        except (KafkaError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    async def send(self, topic: str, messages: Iterable[Message]) -> None:
        """Write ``(key, value)`` or ``(key, value, partition)`` and wait for all acknowledgements.

        Raises :class:`SinkUnavailable` when any is missing: the caller sends all of them again; and
        :class:`SinkRejected` for a message too large for the broker.
        """
        await self.open()
        producer = self._producer
        assert producer is not None
        waiting: list[asyncio.Future[Any]] = []
        failure: BaseException | None = None
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                count = len(await producer.partitions_for(topic))
                for partition, batch in _batches(producer, topic, messages, count):
                    waiting.append(await producer.send_batch(batch, topic, partition=partition))
        except (KafkaError, OSError, TimeoutError) as failed:
            failure = failed
        if waiting:
            done, lost = await asyncio.wait(waiting, timeout=DELIVERY_SECONDS)
            failures = [error for outcome in done if (error := outcome.exception())]
            if lost:  # seen when one of three brokers was killed: aiokafka forgot a batch that was to be sent again
                failures.append(TimeoutError(f"no answer for {len(lost)} batches"))
            failure = failure or next(iter(failures), None)
        if isinstance(failure, MessageSizeTooLargeError):
            raise SinkRejected(f"a message for {topic} is larger than the broker accepts: {failure}") from failure
        if failure is not None:
            await self.close()  # its sequence numbers may be off: the next call starts a fresh producer
            raise self._unavailable(failure) from failure

    async def close(self) -> None:
        """Release the connection; a second call does nothing."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await _stop(producer)

    @property
    def _address(self) -> str:
        return ",".join(self.brokers)

    async def _can_do_idempotence(self) -> bool:
        try:
            await _stop(await self._start(idempotent=True))
            return True
        except KafkaError as error:
            if error.retriable or isinstance(error, KafkaConnectionError):
                raise
            return False

    async def _start(self, *, idempotent: bool) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.brokers,
            enable_idempotence=idempotent,
            acks="all",
            linger_ms=LINGER_MS,
            max_batch_size=BATCH_BYTES,
            max_request_size=MESSAGE_BYTES,
            request_timeout_ms=REQUEST_MS,
            **self._security,
        )
        try:
            async with asyncio.timeout(REQUEST_MS / 1000):
                await producer.start()
        except BaseException:
            await _stop(producer)
            raise
        return producer

    def _unavailable(self, error: BaseException) -> SinkUnavailable:
        return SinkUnavailable(
            f"Kafka did not take all messages at {self._address} ({error!r}). Is it running? RADAR_BROKER names it."
        )


def _batches(
    producer: AIOKafkaProducer, topic: str, messages: Iterable[Message], partitions: int
) -> Iterator[tuple[int, Any]]:
    """The messages as full batches by partition, each partition's in its order: a tenth of the cost of one by one."""
    open_: dict[int, Any] = {}
    for key, value, *told in messages:
        partition = told[0] if told and told[0] is not None else partition_of(key, partitions)
        data, name = orjson.dumps(value), None if key is None else key.encode()
        if len(data) > MESSAGE_BYTES:
            raise SinkRejected(f"a message for {topic} is larger than the broker accepts: {len(data):,} bytes")
        batch = open_.get(partition)
        if batch is None or batch.append(timestamp=None, key=name, value=data) is None:
            if batch is not None:
                yield partition, batch
            batch = open_[partition] = producer.create_batch()
            batch.append(timestamp=None, key=name, value=data)
    yield from open_.items()


@lru_cache(maxsize=100_000)
def partition_of(key: str | None, partitions: int) -> int:
    """Kafka's default for a key. Records without one need no spreading here: they go to partition 0."""
    return 0 if key is None else int((murmur2(key.encode()) & 0x7FFFFFFF) % partitions)


async def _stop(producer: AIOKafkaProducer) -> None:
    """Stop within seconds, even when the brokers are gone and a plain ``stop`` would wait for them."""
    try:
        async with asyncio.timeout(5):
            await producer.stop()
    except (KafkaError, OSError, TimeoutError) as error:
        log.warning("A Kafka producer did not stop cleanly: %r", error)
