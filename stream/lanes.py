"""A lane: one partition on this worker, from block to acknowledgement.

Every agent is the same shell around a different :class:`Processor`. A lane takes the blocks of its partition (of one
topic, or of several that are joined by partition) in order, lets the processor turn them into effects, and makes these
durable **before the state that contains them, and the state before the acknowledgement**. A failure before the
acknowledgement brings the same blocks again, and since every id derives from content, writing their effects again
changes nothing.

What somebody waits for (messages to other lanes, alerts) is written as soon as the lane has nothing else to do, at
the latest after :data:`FLUSH_SECONDS`; rows for tables wait for company until the checkpoint.

Lanes run side by side, so a partition that waits for Triton does not hold up another one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stream.checkpoint import Changes, Checkpoints, Segments
from stream.columns import Columns
from stream.events import Reject
from stream.preprocess import mask
from stream.records import DeadLetter, to_dict
from stream.sinks.base import Sink, SinkUnavailable
from stream.sinks.kafka import KafkaOut, Message
from stream.transport import Block

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
FLUSH_SECONDS = 0.1
IDLE_FLUSH_SECONDS = 0.02  # the same for a lane with nothing else to do
FLUSH_ROWS = 20_000
URGENT = ("alerts",)  # tables whose rows somebody waits for
TIME = re.compile(r'("ts"\s*:\s*\d{1,16})')  # looks like an order number, is not private


class DeadLetterFlood(RuntimeError):
    """So much of the input is unreadable that going on would only drain the topic into ``deadletters``."""


@dataclass(slots=True)
class Effects:
    """What a block leads to. Rows by table, one by one or many in columns; messages as (topic, key, value, partition
    or None)."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    columns: dict[str, list[Columns]] = field(default_factory=lambda: defaultdict(list))
    messages: list[tuple[str, str | None, dict[str, Any], int | None]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def merge(self, other: Effects) -> None:
        for table, rows in other.rows.items():
            self.rows[table].extend(rows)
        for table, parts in other.columns.items():
            self.columns[table].extend(parts)
        self.messages.extend(other.messages)
        self.rejects.extend(other.rejects)
        for name, count in other.counts.items():
            self.counts[name] += count

    @property
    def waiting_rows(self) -> int:
        """How many rows there are to write."""
        return sum(map(len, self.rows.values())) + sum(len(part) for parts in self.columns.values() for part in parts)

    def by_topic(self) -> dict[str, list[Message]]:
        """The messages of each topic, in their order."""
        topics: dict[str, list[Message]] = defaultdict(list)
        for topic, key, value, partition in self.messages:
            topics[topic].append((key, value, partition))
        return topics


class Processor(Protocol):
    """The pure side of a lane."""

    @property
    def watermark(self) -> int:
        """How far its event time is complete (epoch ms)."""

    async def process(self, block: Block) -> Effects:
        """Take the records of a block. Must not depend on where blocks begin and end."""

    def tick(self, silent_seconds: float, elapsed_seconds: float) -> Effects:
        """Called about once a second of wall time: a live partition's clock may run on while it is silent."""

    def resume(self, topic: str, position: int) -> int:
        """Where to read on after a restart when everything before ``position`` was processed: there, or earlier for
        records that are held in memory alone."""

    def dump(self) -> Changes:
        """The segments that changed since the last call; should cost no more than the change."""

    def load(self, segments: Segments) -> None:
        """Continue from what ``dump`` gave in sum."""


class Flood:
    """Watches the share of bad records (last 1,000 records and up) and the run of bad ones, wherever blocks are cut."""

    def __init__(self, ratio: float, run: int) -> None:
        self._ratio, self._run_limit = ratio, run
        self._good = self._bad = self._run = 0

    def count(self, first: int, last: int, bad: Sequence[int]) -> None:
        """The records from offset ``first`` to ``last``, with the offsets of bad ones in order. Raises
        :class:`DeadLetterFlood` over a limit."""
        run, after, longest = self._run, first, 0
        for offset in bad:
            run = run + 1 if offset == after else 1
            after, longest = offset + 1, max(longest, run)
        self._run = run if after == last + 1 else 0
        self._good, self._bad = self._good + last - first + 1 - len(bad), self._bad + len(bad)
        seen = self._good + self._bad
        if longest >= self._run_limit or (seen >= 1_000 and self._bad > self._ratio * seen):
            raise DeadLetterFlood(
                f"{longest} unreadable records in a row, {self._bad} of the last {seen}; topic 'deadletters' has the "
                "reasons. Check the producer; raise RADAR_DEADLETTER_RATIO or RADAR_DEADLETTER_RUN to let them pass."
            )
        if seen >= 1_000:
            self._good, self._bad = self._good // 2, self._bad // 2


class Lane:
    """One partition on its way: ``restore`` it, ``run`` it, ``put`` blocks. Cancelling acknowledges nothing.

    ``pause`` and ``run`` again is what a rebalance does to a partition that stays: the state remains in memory and
    reading goes on at :meth:`position`.
    """

    def __init__(
        self,
        topics: Sequence[str],
        partition: int,
        processor: Processor,
        checkpoints: Checkpoints,
        sink: Sink,
        out: KafkaOut,
        flood: Flood,
        checkpoint_seconds: float,
        topic_name: Callable[[str], str],
        owned: Callable[[], bool] = lambda: True,
    ) -> None:
        self.partition = partition
        self.counts: dict[str, int] = defaultdict(int)
        self.checkpoints = checkpoints
        self.doing = "waiting for records"  # for whoever wonders why it stalls
        self.name = f"{topics[0]}/{partition}"
        self._source = topics[0]
        self._processor = processor
        self._sink, self._out, self._flood = sink, out, flood
        self._interval = checkpoint_seconds
        self._topic_name, self._owned = topic_name, owned
        self._stopping = self._torn = False
        self._queue: asyncio.Queue[tuple[Block, Any]] = asyncio.Queue()
        self._effects = Effects()
        self._unacked: list[Any] = []
        self._positions: dict[str, int] = {}
        self._saved: dict[str, int] = {}
        self._resumed: set[str] = set()  # topics whose next block is to begin at our position
        self._last_step = self._last_block = self._last_tick = self._last_flush = time.monotonic()

    def restore(self, generation: int = 0) -> None:
        positions, segments = self.checkpoints.restore(generation)
        if segments:
            self._processor.load(segments)
        self._positions, self._saved, self._resumed = dict(positions), dict(positions), set(positions)

    def position(self, topic: str) -> int | None:
        """Offset of the next record that the lane needs; None if it has seen none."""
        return self._positions.get(topic)

    def put(self, block: Block, acknowledge: Any) -> None:
        """Queue a block; ``acknowledge()`` is called when its effects and the state after it are durable."""
        self._queue.put_nowait((block, acknowledge))

    def stop_soon(self) -> None:
        """Let ``run`` end after the block in hand, with a last checkpoint."""
        self._stopping = True

    def pause(self) -> None:
        """Forget what was queued and not processed, after ``run`` was cancelled: it will be read again."""
        self._queue = asyncio.Queue()
        self._unacked.clear()
        self._resumed = set(self._positions)

    async def run(self) -> None:
        """Work until told to stop: blocks as they come, flushes and checkpoints by the clock."""
        due = time.monotonic() + self._interval
        while not self._stopping:
            now = time.monotonic()
            pending = self._effects.messages or any(self._effects.rows.get(table) for table in URGENT)
            flush = max(0.0, self._last_flush + IDLE_FLUSH_SECONDS - now) if pending else self._interval
            try:
                async with asyncio.timeout(max(min(due - now, flush), 0)):
                    block, acknowledge = await self._queue.get()
            except TimeoutError:
                if time.monotonic() >= due:
                    await self._tick()
                    due = time.monotonic() + self._interval
                else:
                    await self._flush()
                continue
            await self._take(block, acknowledge)
            now = time.monotonic()
            if now >= due or self._effects.waiting_rows >= FLUSH_ROWS:
                await self.checkpoint()
                due = time.monotonic() + self._interval
            elif now >= self._last_flush + FLUSH_SECONDS:
                await self._flush()
        await self.checkpoint()

    def status(self) -> dict[str, Any]:
        """What was counted since the lane began and how far it is (see :mod:`stream.status`)."""
        return {
            **self.counts,
            "position": self._positions.get(self._source, 0),
            "saved": self._saved.get(self._source, 0),
            "watermark": self._processor.watermark,
            "queued": self._queue.qsize() + (self._positions != self._saved),  # what was taken waits to be durable
            "stalled_seconds": round(self.stalled_seconds, 1),
        }

    @property
    def stalled_seconds(self) -> float:
        """How long nothing has moved although there is work."""
        return time.monotonic() - self._last_step if self._queue.qsize() or self._unacked else 0.0

    @property
    def idle_seconds(self) -> float:
        """How long no block has come."""
        return time.monotonic() - self._last_block

    @property
    def whole(self) -> bool:
        """Whether the state in memory is the one after :meth:`position`, and nobody else has written a newer one."""
        return not self._torn and self.checkpoints.is_latest()

    async def _take(self, block: Block, acknowledge: Any) -> None:
        self._step("processing")
        self._last_block = time.monotonic()
        position = self._positions.get(block.topic, 0)
        if block.topic in self._resumed and block.first > position:  # later there may be markers of transactions
            log.error("%s: records %d to %d of %s did not come", self.name, position, block.first - 1, block.topic)
        self._resumed.discard(block.topic)
        taken = block
        if block.first < position:
            records = [record for record in block.records if record.offset >= position]
            block = Block(block.topic, block.partition, records or block.records[-1:], block.progress)
        if block.last >= position:
            self._torn = True
            effects = await self._processor.process(block)
            bad = sorted(reject.offset for reject in effects.rejects)
            self._bury(block, effects)
            self._effects.merge(effects)
            self._positions[block.topic] = block.last + 1
            self._torn = False
            try:
                self._flood.count(block.first, block.last, bad)
            except DeadLetterFlood:
                await self._write_effects()  # so that the reasons can be read; nothing is acknowledged
                raise
        taken.release()
        self._unacked.append(acknowledge)
        self._step("waiting for records")

    async def _tick(self) -> None:
        now = time.monotonic()
        self._effects.merge(self._processor.tick(now - self._last_block, now - self._last_tick))
        self._last_tick = now
        if self._positions != self._saved or self._unacked or self._effects.messages or self._effects.waiting_rows:
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Effects, then state, then acknowledgement."""
        await self._write_effects()
        self._step("waiting to hear that the partition is still ours")
        while not self._owned():  # noqa: ASYNC110 (told by a clock)
            await asyncio.sleep(0.1)
        self._step("writing state")
        resume = {topic: self._processor.resume(topic, position) for topic, position in self._positions.items()}
        self._torn = True
        await self.checkpoints.save(resume, self._processor.dump())
        self._torn = False
        self._saved = dict(self._positions)
        unacked, self._unacked = self._unacked, []
        for acknowledge in unacked:
            acknowledge()
        self._step("waiting for records")

    async def _flush(self) -> None:
        """Write what somebody waits for."""
        effects = self._effects
        urgent = Effects(messages=effects.messages)
        effects.messages = []
        for table in URGENT:
            if table in effects.rows:
                urgent.rows[table] = effects.rows.pop(table)
        await self._write(urgent)

    async def _write_effects(self) -> None:
        effects, self._effects = self._effects, Effects()
        for name, count in effects.counts.items():
            self.counts[name] += count
        effects.counts = defaultdict(int)
        await self._write(effects)

    async def _write(self, effects: Effects) -> None:
        """Rows, then messages. Cancelled half-way, all of them are kept for the next time."""
        try:
            for table, rows in effects.rows.items():
                self._step(f"writing to table {table}")
                await self._until_taken(self._sink.write, table, rows)
            for table, parts in effects.columns.items():
                self._step(f"writing to table {table}")
                await self._until_taken(self._sink.write, table, Columns.concat(parts))
            for topic, messages in effects.by_topic().items():
                self._step(f"writing to topic {topic}")
                await self._until_taken(self._out.send, self._topic_name(topic), messages)
        except asyncio.CancelledError:
            effects.merge(self._effects)
            self._effects = effects
            raise
        self._last_flush = time.monotonic()
        self._step("waiting for records")

    def _step(self, doing: str) -> None:
        self.doing, self._last_step = doing, time.monotonic()

    async def _until_taken(self, write: Callable[[str, Any], Awaitable[None]], name: str, what: Any) -> None:
        """Write, and wait out a server that is away: back-pressure takes care of the rest."""
        while True:
            try:
                return await write(name, what)
            except SinkUnavailable as error:
                log.warning("%s waits: %s", self.name, error)
                await asyncio.sleep(RETRY_SECONDS)

    def _bury(self, block: Block, effects: Effects) -> None:
        """Make dead letters of the rejects of a block."""
        for reject in effects.rejects:
            pieces = TIME.split(reject.value[:4096].decode("utf-8", "replace"))
            payload = "".join(piece if TIME.fullmatch(piece) else mask(piece) for piece in pieces)
            letter = to_dict(
                DeadLetter(block.topic, block.partition, reject.offset, mask(reject.reason), payload[:4096])
            )
            effects.rows["deadletters"].append(letter)
            effects.messages.append(("deadletters", None, letter, None))
        effects.counts["rejected"] += len(effects.rejects)
        effects.rejects = []
