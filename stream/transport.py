"""A Faust transport that hands over blocks: ONE Faust event = ONE contiguous block of records of ONE partition.

Faust pays a fixed price for each message it delivers (about four asyncio tasks); paid once per block instead of once
per record, a worker runs some thirty times faster. What this file promises:

- A block holds consecutive records of one partition, in order: at most ``records`` of them and at most what one fetch
  brings (``consumer_max_fetch_size`` bytes). It never waits to fill up: while a lane is busy records pile up and the
  next block is larger, so blocks grow with the load by themselves and an idle stream has no linger.
- A partition with ``blocks`` unprocessed blocks is not fetched until some are processed: memory is bounded in blocks,
  and a slow topic never holds up another one.
- The committed position never passes an unacknowledged block, whatever the order of acknowledgement
  (:class:`Progress`, which replaces Faust's own arithmetic: upstream issue 606). A block of before a rebalance counts
  for nothing after it.
- After a rebalance each partition is read from the position its state names (``positions``), not from the committed
  offset, so state and input cannot disagree. Nothing is fetched before that position is set, and nothing that was
  fetched before the rebalance is handed over after it.

Changelog topics keep Faust's record-by-record path.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

HELD_BACK_POLL_SECONDS = 0.05
FETCH_WAIT_MS = 50  # Faust asks for 1,500, and Tansu answers a waiting fetch only then, not when a record comes


@dataclass(frozen=True, slots=True)
class Limit:
    """How a topic is cut: most records in a block, most unprocessed blocks of a partition."""

    records: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a partition is read on (``read``), and before which offset all is durable."""

    read: int
    durable: int | None


class Block:
    """Consecutive records of one partition."""

    __slots__ = ("partition", "progress", "records", "topic")

    def __init__(self, topic: str, partition: int, records: Sequence[Any], progress: Progress | None = None) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records
        self.progress = progress  # of the assignment that the block belongs to

    @property
    def first(self) -> int:
        return int(self.records[0].offset)

    @property
    def last(self) -> int:
        return int(self.records[-1].offset)

    def __len__(self) -> int:
        return len(self.records)

    def release(self) -> None:
        """The records have been processed: their memory is free and the next block may be fetched."""
        self.records = ()
        if self.progress is not None:
            self.progress.unprocessed -= 1


class Progress:
    """Which blocks of a partition are done. Offsets name a block by its last record."""

    __slots__ = ("_done", "_waiting", "unprocessed")

    def __init__(self) -> None:
        self.unprocessed = 0
        self._waiting: deque[int] = deque()
        self._done: set[int] = set()

    def delivered(self, offset: int) -> None:
        self._waiting.append(offset)
        self.unprocessed += 1

    def acknowledged(self, offset: int) -> int | None:
        """Mark a block done. Gives the position to commit (one past the last record of the last block before which
        nothing waits) or None while an earlier block still waits."""
        self._done.add(offset)
        position = None
        while self._waiting and self._waiting[0] in self._done:
            done = self._waiting.popleft()
            self._done.discard(done)
            position = done + 1
        return position

    def __len__(self) -> int:
        """Blocks delivered and not yet followed by the committed position."""
        return len(self._waiting)


class BlockThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Fetches records as aiokafka's C parser makes them (offset, timestamp, key, value), without wrapping each one, and
    notes when the coordinator last said that this worker is a member of its group."""

    async def on_start(self) -> None:
        await super().on_start()
        self._consumer._fetcher._fetch_max_wait_ms = FETCH_WAIT_MS
        coordinator = self._consumer._coordinator
        beat = coordinator._do_heartbeat

        async def noted() -> bool:
            sent = time.monotonic()
            heard: bool = await beat()
            if heard:
                self.consumer.member_at = sent
            return heard

        coordinator._do_heartbeat = noted

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 (Faust's signature)
        max_records: int | None = None,
    ) -> Any:
        fetcher = consumer._fetcher
        if not self.consumer.flow_active or consumer._closed or fetcher._closed:
            return await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        subscriptions = fetcher._subscriptions
        with subscriptions.fetch_context():
            if subscriptions.reassignment_in_progress:
                await subscriptions.wait_for_assignment()
            if fetched := self._parsed(fetcher, active_partitions):
                return fetched
            if fetched := await super()._fetch_records(consumer, active_partitions, 0, max_records):
                return fetched
            waiter = fetcher._create_fetch_waiter()
            await asyncio.wait([waiter], timeout=timeout)
            if waiter.done():
                waiter.result()  # an authorisation error, say
            else:
                waiter.cancel()
            return self._parsed(fetcher, active_partitions)

    def _parsed(self, fetcher: Any, active: set[TP]) -> dict[TP, list[Any]]:
        """The records of fetched answers for topics of blocks, each answer as a whole."""
        fetched: dict[TP, list[Any]] = {}
        limits = self.consumer.limits
        for tp, result in list(fetcher._records.items()):
            if tp.topic in limits and tp in active and isinstance(result, FetchResult):
                records = _parse(result._partition_records) if result.check_assignment(tp) else []
                if result.has_more():
                    result._update_position()
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
                if records:
                    fetched[tp] = records
        return fetched


def _parse(answer: PartitionRecords) -> list[Any]:
    """What aiokafka's ``PartitionRecords`` yields, a record batch at a time (transactions are read uncommitted)."""
    records: list[Any] = []
    while answer._records.has_next():
        batch = answer._records.next_batch()
        if answer._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {answer._tp}")
        if not batch.is_control_batch:
            found = list(batch)
            if found and found[0].offset < answer.next_fetch_offset:
                found = [record for record in found if record.offset >= answer.next_fetch_offset]
            records += found
        answer.next_fetch_offset = batch.next_offset
    return records


class BlockConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's aiokafka consumer, block by block. Configured by the class attributes of :func:`block_transport`."""

    limits: ClassVar[Mapping[str, Limit]]
    positions: ClassVar[Callable[[TP], Place | None]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._progress: dict[TP, Progress] = {}
        self._commit_at: dict[TP, int] = {}
        self._placed: set[TP] = set()  # partitions that are read from where their state is
        self.member_at = 0.0  # monotonic

    def _new_consumer_thread(self) -> BlockThread:
        return BlockThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109 (Faust's signature)
        """Fetch once; yield a message per block, or per record of a changelog."""
        if not self.flow_active:  # a rebalance; what is fetched after it belongs to the next generation
            await self.wait(self.can_resume_flow)
        generation = self.app.consumer_generation_id
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        for tp, batch in records.items():
            limit = self.limits.get(tp.topic)
            for message in self._messages(tp, batch, limit):
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                if active is not None and tp not in active and tp not in self._buffered_partitions:
                    break
                if limit is not None:
                    message.value.progress.delivered(message.offset)
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                yield tp, message

    def _messages(self, tp: TP, batch: Sequence[Any], limit: Limit | None) -> Any:
        if limit is None:
            for record in batch:
                yield self._to_message(tp, record)
            return
        progress = self._progress.setdefault(tp, Progress())
        for start in range(0, len(batch), limit.records):
            chunk = batch[start : start + limit.records]
            last = chunk[-1]
            block = Block(tp.topic, tp.partition, chunk, progress)
            yield ConsumerMessage(
                tp.topic, tp.partition, last.offset, last.timestamp / 1_000, 0, None, None, block, None,
                tp=tp, generation_id=self.app.consumer_generation_id,
            )  # fmt: skip

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109
        if active_partitions is None:
            return await super()._getmany(active_partitions, timeout)
        free = {tp for tp in active_partitions if tp.topic not in self.limits or self._wanted(tp)}
        if len(free) < len(active_partitions):
            timeout = min(timeout, HELD_BACK_POLL_SECONDS)
        if not free:
            await self.sleep(timeout)
            return {}
        return await super()._getmany(free, timeout)

    def _wanted(self, tp: TP) -> bool:
        progress = self._progress.get(tp)
        room = progress is None or progress.unprocessed < self.limits[tp.topic].blocks
        return tp in self._placed and room

    def is_current(self, block: Block) -> bool:
        """Whether a block is of the present assignment: one of before leaves a gap, since reading has gone back."""
        return block.progress is self._progress.get(TP(block.topic, block.partition))

    def ack(self, message: Any) -> bool:
        if message.topic not in self.limits:
            return bool(super().ack(message))
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        if not self.is_current(message.value):
            return False
        position = message.value.progress.acknowledged(message.offset)
        if position is not None:
            self._commit_at[message.tp] = position
            self._acked[message.tp] = [position]  # names the partition to Faust's committer
        self._n_acked += 1
        return True

    def _new_offset(self, tp: TP) -> int | None:
        if tp.topic in self.limits:
            return self._commit_at.get(tp)
        offset: int | None = super()._new_offset(tp)
        return offset

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Blocks have no gaps to book: :class:`Progress` counts in blocks."""

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._placed.clear()
        for tp in revoked:
            self._progress.pop(tp, None)
            self._commit_at.pop(tp, None)
        await super().on_partitions_revoked(revoked)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go to where each partition's restored state says it is; to the committed offset without state."""
        offsets = dict(await super().seek_to_committed())
        self._progress.clear()
        self._commit_at.clear()
        for tp in self.assignment():
            place = type(self).positions(tp) if tp.topic in self.limits else None
            if place is not None:
                await self._seek(tp, place.read)
                if place.durable is not None and offsets.get(tp) != place.durable:
                    self._commit_at[tp] = place.durable  # killed between checkpoint and commit: or else it shows as lag
                    self._acked[tp] = [place.durable]
                offsets[tp] = place.read
        self._placed = set(self.assignment())
        return offsets


def block_transport(limits: Mapping[str, Limit], positions: Callable[[TP], Place | None]) -> type[driver.Transport]:
    """A transport class that cuts the topics of ``limits`` into blocks and reads them from ``positions``."""
    consumer = type("BlockConsumer", (BlockConsumer,), {"limits": limits, "positions": staticmethod(positions)})
    return type("BlockTransport", (driver.Transport,), {"Consumer": consumer})
