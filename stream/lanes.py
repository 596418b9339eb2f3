"""A lane: one partition of one source topic on this worker, from block to acknowledgement.

Every agent is the same shell around a different :class:`Processor`. A lane takes the blocks of its partition in
order, lets the processor turn them into effects, and at a checkpoint makes the effects durable **in this order: rows
in the sink, messages in Kafka, state, acknowledgement**. A failure before the acknowledgement brings the same blocks
again, and since every id derives from content, writing their effects again changes nothing.

Lanes run side by side, so a partition that waits for Triton does not hold up another one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from stream.checkpoint import Checkpoints, Shards
from stream.events import Reject
from stream.preprocess import mask
from stream.records import DeadLetter, to_dict
from stream.sinks.base import Sink, SinkUnavailable
from stream.sinks.kafka import KafkaOut, Message
from stream.transport import Block

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
FLUSH_ROWS = 20_000
TIME = re.compile(r'("ts"\s*:\s*\d{1,16})')  # looks like an order number, is not private


class DeadLetterFlood(RuntimeError):
    """So much of the input is unreadable that going on would only drain the topic into ``deadletters``."""


@dataclass(slots=True)
class Effects:
    """What a block leads to. Rows by table; messages as (topic, key, value, partition or None)."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    messages: list[tuple[str, str | None, dict[str, Any], int | None]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def merge(self, other: Effects) -> None:
        for table, rows in other.rows.items():
            self.rows[table].extend(rows)
        self.messages.extend(other.messages)
        self.rejects.extend(other.rejects)
        for name, count in other.counts.items():
            self.counts[name] += count

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

    def dump(self) -> Shards:
        """The shards that changed since the last call."""

    def load(self, shards: Shards) -> None:
        """Continue from what ``dump`` gave in sum."""


class Flood:
    """Watches the share of bad records (last 1,000 records and up) and the run of bad ones."""

    def __init__(self, ratio: float, run: int) -> None:
        self._ratio, self._run_limit = ratio, run
        self._good = self._bad = self._run = 0

    def count(self, good: int, bad: int) -> None:
        """Raises :class:`DeadLetterFlood` over a limit."""
        self._run = 0 if good else self._run + bad
        self._good, self._bad = self._good + good, self._bad + bad
        seen = self._good + self._bad
        if self._run >= self._run_limit or (seen >= 1_000 and self._bad > self._ratio * seen):
            raise DeadLetterFlood(
                f"{self._bad} of the last {seen} records were unreadable; the reasons are in topic 'deadletters'. "
                "Check the producer; raise RADAR_DEADLETTER_RATIO or RADAR_DEADLETTER_RUN to let them pass."
            )
        if seen >= 1_000:
            self._good, self._bad = self._good // 2, self._bad // 2


class Lane:
    """One partition on its way: ``restore`` it, ``run`` it, ``put`` blocks. Cancelling acknowledges nothing."""

    def __init__(
        self,
        topic: str,
        partition: int,
        processor: Processor,
        checkpoints: Checkpoints,
        sink: Sink,
        out: KafkaOut,
        flood: Flood,
        checkpoint_seconds: float,
        topic_name: Callable[[str], str],
    ) -> None:
        self.topic, self.partition = topic, partition
        self.counts: dict[str, int] = defaultdict(int)
        self._processor, self._checkpoints = processor, checkpoints
        self._sink, self._out, self._flood = sink, out, flood
        self._interval = checkpoint_seconds
        self._topic_name = topic_name
        self._stopping = False
        self._queue: asyncio.Queue[tuple[Block, Any]] = asyncio.Queue()
        self._effects = Effects()
        self._unacked: list[Any] = []
        self._position = self._saved = 0
        self._last_block = self._last_tick = time.monotonic()

    def restore(self) -> None:
        shards = self._checkpoints.restore()
        if shards:
            self._processor.load(shards)
            self._position = self._checkpoints.position(self._checkpoints.table, self.partition) or 0
            self._saved = self._position

    def put(self, block: Block, acknowledge: Any) -> None:
        """Queue a block; ``acknowledge()`` is called when its effects and the state after it are durable."""
        self._queue.put_nowait((block, acknowledge))

    def stop_soon(self) -> None:
        """Let ``run`` end after the block in hand, with a last checkpoint."""
        self._stopping = True

    async def run(self) -> None:
        """Work until told to stop. What is queued is processed as it comes; checkpoints follow the clock."""
        deadline = time.monotonic() + self._interval
        while not self._stopping:
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    block, acknowledge = await self._queue.get()
            except TimeoutError:
                await self._tick()
                deadline = time.monotonic() + self._interval
                continue
            await self._take(block, acknowledge)
            if time.monotonic() >= deadline or sum(map(len, self._effects.rows.values())) >= FLUSH_ROWS:
                await self.checkpoint()
                deadline = time.monotonic() + self._interval
        await self.checkpoint()

    def status(self) -> dict[str, int]:
        """What was counted since the lane began and how far it is (see :mod:`stream.status`)."""
        return {
            **self.counts,
            "position": self._position,
            "saved": self._saved,
            "watermark": self._processor.watermark,
            "queued": self._queue.qsize(),
        }

    async def close(self) -> None:
        await self._sink.close()

    async def _take(self, block: Block, acknowledge: Any) -> None:
        self._last_block = time.monotonic()
        self._unacked.append(acknowledge)
        records = [record for record in block.records if record.offset >= self._position]
        if not records:
            return
        effects = await self._processor.process(Block(block.topic, block.partition, records))
        self._effects.merge(effects)
        self._position = block.last + 1
        try:
            self._flood.count(len(records) - len(effects.rejects), len(effects.rejects))
        except DeadLetterFlood:
            await self._write_effects()  # so that the reasons can be read; nothing is acknowledged
            raise

    async def _tick(self) -> None:
        now = time.monotonic()
        self._effects.merge(self._processor.tick(now - self._last_block, now - self._last_tick))
        self._last_tick = now
        if self._unacked or self._effects.messages or self._effects.rows:
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Effects, then state, then acknowledgement."""
        await self._write_effects()
        await self._checkpoints.save(self._position, self._processor.dump())
        self._saved = self._position
        unacked, self._unacked = self._unacked, []
        for acknowledge in unacked:
            acknowledge()

    async def _write_effects(self) -> None:
        effects, self._effects = self._effects, Effects()
        dead = [to_dict(self._dead_letter(reject)) for reject in effects.rejects]
        if dead:
            effects.rows["deadletters"].extend(dead)
            effects.messages.extend(("deadletters", None, letter, None) for letter in dead)
        for table, rows in effects.rows.items():
            await self._until_taken(self._sink.write, table, rows)
        for topic, messages in effects.by_topic().items():
            await self._until_taken(self._out.send, self._topic_name(topic), messages)
        for name, count in effects.counts.items():
            self.counts[name] += count
        self.counts["rejected"] += len(dead)

    async def _until_taken(self, write: Callable[[str, Any], Awaitable[None]], name: str, what: Any) -> None:
        """Write, and wait out a server that is away: back-pressure takes care of the rest."""
        while True:
            try:
                return await write(name, what)
            except SinkUnavailable as error:
                log.warning("%s/%d waits: %s", self.topic, self.partition, error)
                await asyncio.sleep(RETRY_SECONDS)

    def _dead_letter(self, reject: Reject) -> DeadLetter:
        pieces = TIME.split(reject.value[:4096].decode("utf-8", "replace"))
        payload = "".join(piece if TIME.fullmatch(piece) else mask(piece) for piece in pieces)
        return DeadLetter(self.topic, self.partition, reject.offset, mask(reject.reason), payload[:4096])
