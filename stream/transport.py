"""A Faust transport that hands over blocks: ONE Faust event = ONE contiguous block of records of ONE partition.

Faust pays a fixed price for each message it delivers (about four asyncio tasks); paid once per block instead of once
per record, a worker runs some thirty times faster. What this file promises:

- A block holds consecutive records of one partition, in order, at most ``records`` of them.
- A partition with ``blocks`` unacknowledged blocks is not fetched until some are acknowledged: memory is bounded in
  blocks, and a slow topic never holds up another one.
- The committed position never passes an unacknowledged block, whatever the order of acknowledgement
  (:class:`Progress`, which replaces Faust's own arithmetic: upstream issue 606).
- After a rebalance each partition is read from the position its restored state names (``positions``), not from the
  committed offset, so state and input cannot disagree.

Changelog topics keep Faust's record-by-record path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

HELD_BACK_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Limit:
    """How a topic is cut: most records in a block, most unacknowledged blocks of a partition."""

    records: int
    blocks: int


class Block:
    """Consecutive records of one partition."""

    __slots__ = ("partition", "records", "topic")

    def __init__(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        self.topic = topic
        self.partition = partition
        self.records = records

    @property
    def first(self) -> int:
        return int(self.records[0].offset)

    @property
    def last(self) -> int:
        return int(self.records[-1].offset)

    def __len__(self) -> int:
        return len(self.records)


class Progress:
    """Which blocks of a partition are done. Offsets name a block by its last record."""

    __slots__ = ("_done", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self._done: set[int] = set()

    def delivered(self, offset: int) -> None:
        self._waiting.append(offset)

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


class BlockConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's aiokafka consumer, block by block. Configured by the class attributes of :func:`block_transport`."""

    limits: ClassVar[Mapping[str, Limit]]
    positions: ClassVar[Callable[[TP], int | None]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._progress: dict[TP, Progress] = {}
        self._commit_at: dict[TP, int] = {}

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109 (Faust's signature)
        """Fetch once; yield a message per block, or per record of a changelog."""
        generation = self.app.consumer_generation_id
        records, active = await self._wait_next_records(timeout)
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            await self.perform_seek()
            return
        for tp, batch in records.items():
            limit = self.limits.get(tp.topic)
            for message in self._messages(tp, batch, limit):
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                if active is not None and tp not in active and tp not in self._buffered_partitions:
                    break
                if limit is not None:
                    self._progress.setdefault(tp, Progress()).delivered(message.offset)
                self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
                yield tp, message

    def _messages(self, tp: TP, batch: Sequence[Any], limit: Limit | None) -> Any:
        if limit is None:
            for record in batch:
                yield self._to_message(tp, record)
            return
        for start in range(0, len(batch), limit.records):
            chunk = batch[start : start + limit.records]
            message = self._to_message(tp, chunk[-1])
            message.key = None
            message.value = Block(tp.topic, tp.partition, chunk)
            yield message

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109
        if active_partitions is None:
            return await super()._getmany(active_partitions, timeout)
        free = {tp for tp in active_partitions if not self._full(tp)}
        if len(free) < len(active_partitions):
            timeout = min(timeout, HELD_BACK_POLL_SECONDS)
        if not free:
            await self.sleep(timeout)
            return {}
        return await super()._getmany(free, timeout)

    def _full(self, tp: TP) -> bool:
        limit = self.limits.get(tp.topic)
        return limit is not None and len(self._progress.get(tp, ())) >= limit.blocks

    def ack(self, message: Any) -> bool:
        if message.topic not in self.limits:
            return bool(super().ack(message))
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        progress = self._progress.get(message.tp)
        position = progress.acknowledged(message.offset) if progress is not None else None
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
            position = type(self).positions(tp) if tp.topic in self.limits else None
            if position is not None:
                await self._seek(tp, position)
                if offsets.get(tp) != position:  # killed between checkpoint and commit: or else it shows as lag
                    self._commit_at[tp] = position
                    self._acked[tp] = [position]
                offsets[tp] = position
        return offsets


def block_transport(limits: Mapping[str, Limit], positions: Callable[[TP], int | None]) -> type[driver.Transport]:
    """A transport class that cuts the topics of ``limits`` into blocks and reads them from ``positions``."""
    consumer = type("BlockConsumer", (BlockConsumer,), {"limits": limits, "positions": staticmethod(positions)})
    return type("BlockTransport", (driver.Transport,), {"Consumer": consumer})
