"""Checkpoints: every prefix of the changelog is a complete state; lanes make things durable in the promised order."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.checkpoint import Checkpoints, in_order
from stream.checkpoint import Log as Log_
from stream.events import Reject
from stream.lanes import DeadLetterFlood, Effects, Flood, Lane
from stream.sinks.base import SinkUnavailable
from stream.transport import Block


class Sent(NamedTuple):
    offset: int


class Table:
    """What Checkpoints needs of a Faust table, with the changelog kept to be cut anywhere."""

    def __init__(self, log: list[tuple[bytes, bytes | None]] | None = None) -> None:
        self.log = list(log or [])
        self.data = {key: value for key, value in dict(self.log).items() if value is not None}

    async def send_changelog(self, partition: int, key: bytes, value: bytes | None) -> Sent:
        self.log.append((key, value))
        return Sent(len(self.log) - 1)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.checkpoint.PART_BYTES", 2)


steps = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.none() | st.binary(max_size=7), max_size=3), min_size=1, max_size=8
)


def owner(table: Table) -> Checkpoints:
    checkpoints = Checkpoints(table, 0)
    checkpoints.restore()
    return checkpoints


def restored(log: list[Any]) -> tuple[dict[str, int], dict[str, bytes]]:
    return Checkpoints(Table(log), 0).restore()


def applied(state: dict[str, bytes], changes: dict[str, bytes | None]) -> dict[str, bytes]:
    return {name: data for name, data in {**state, **changes}.items() if data is not None}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=3), st.integers(0, 200))
def test_any_prefix_of_the_changelog_restores_the_last_complete_checkpoint(owners: list[Any], cut: int) -> None:
    """Whoever wrote it: the partition moves from owner to owner."""

    async def work() -> None:
        table, state, position = Table(), dict[str, bytes](), 0
        states: dict[int, Any] = {0: ({}, {})}
        for changes in owners:
            table = Table(table.log)
            checkpoints = owner(table)
            for changed in changes:
                position += 1
                state = applied(state, changed)
                before = len(table.log)
                await checkpoints.save({"clicks": position}, changed)
                head = next(
                    n for n in range(before, len(table.log)) if table.log[n][0].count(b"/") == 1 and table.log[n][1]
                )
                states[head + 1] = ({"clicks": position}, state)
        kept = min(cut, len(table.log))
        assert restored(table.log[:kept]) == states[max(length for length in states if length <= kept)]

    asyncio.run(work())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, steps, st.integers(0, 100))
def test_going_on_after_a_torn_checkpoint_is_sound(first: Any, second: Any, cut: int) -> None:
    async def work() -> None:
        table = Table()
        checkpoints = owner(table)
        for position, changed in enumerate(first):
            await checkpoints.save({"clicks": position}, changed)
        table = Table(table.log[: min(cut, len(table.log))])
        checkpoints = Checkpoints(table, 0)
        _, state = checkpoints.restore()
        for position, changed in enumerate(second, start=100):
            state = applied(state, changed)
            await checkpoints.save({"clicks": position}, changed)
        assert restored(table.log) == ({"clicks": 99 + len(second)}, state)

    asyncio.run(work())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, steps, steps, st.integers(0, 20))
def test_a_save_that_ends_after_the_partition_has_moved_spoils_nothing(
    first: Any, straggler: Any, second: Any, late: int
) -> None:
    """Its last writes come between those of the next owner. (No second save comes: the lane has lost its lease.)"""

    async def work() -> None:
        table = Table()
        old = owner(table)
        for changed in first:
            await old.save({"clicks": 1}, changed)
        heir = Table(table.log)
        checkpoints = Checkpoints(heir, 0)
        _, state = checkpoints.restore()
        begun = len(table.log)
        await old.save({"clicks": 9}, straggler[0])
        rest = table.log[begun:]
        for number, changed in enumerate(second):
            if number == late:
                heir.log += rest
                rest = []
            state = applied(state, changed)
            await checkpoints.save({"clicks": 3}, changed)
        heir.log += rest
        assert restored(heir.log) == ({"clicks": 3}, state)
        assert not Checkpoints(Table(heir.log), 0, owner=old.owner, epoch=old.epoch).is_latest()

    asyncio.run(work())


async def test_a_save_that_ends_after_the_partition_has_moved_takes_nothing_from_the_next_owner() -> None:
    """It replaces pieces that an owner before both wrote, and those the next owner still names."""
    table = Table()
    await owner(table).save({"clicks": 1}, {"a": b"12", "b": b"34"})
    old = owner(table)
    heir = Table(table.log)
    checkpoints = Checkpoints(heir, 0)
    checkpoints.restore(generation=7)
    begun = len(table.log)
    await old.save({"clicks": 2}, {"a": b"56", "b": None})
    await checkpoints.save({"clicks": 1}, {"c": b"78"})
    heir.log += table.log[begun:]
    assert restored(heir.log) == ({"clicks": 1}, {"a": b"12", "b": b"34", "c": b"78"})


async def test_the_changelog_uses_its_keys_again() -> None:
    table = Table()
    checkpoints = owner(table)
    for number in range(200):
        await checkpoints.save({"clicks": number}, {"a": b"1234", f"b{number}": b"5", f"b{number - 3}": None})
    assert len({key for key, _ in table.log}) < 15
    assert len(table.data) < 10
    assert all(value is not None for _, value in table.log)


async def test_a_log_is_folded_before_it_outweighs_what_it_tells() -> None:
    live: dict[str, bytes] = {}
    log = Log_("rows")
    for _ in range(500):
        whole = b"x" * 100_000
        changes = log.fold(whole) if log.due() else log.append(b"y" * 1_000)
        live = applied(live, changes)
        assert len(live) < 40
    assert sum(map(len, live.values())) < 300_000
    again = Log_("rows")
    for _, number, data in in_order(live, "rows"):
        again.seen(number, len(data))
    assert again.append(b"") == log.append(b"")


class Log:
    """A sink, a producer and a processor that write down what is done, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.away = 0
        self.watermark = 0

    async def write(self, table: str, rows: Any) -> None:
        if self.away:
            self.away -= 1
            raise SinkUnavailable("away")
        self.done.append(f"sink {table} {len(rows)}")

    async def send(self, topic: str, messages: Any) -> None:
        self.done.append(f"topic {topic} {len(messages)}")

    async def send_changelog(self, partition: int, key: bytes, value: bytes) -> Sent:
        self.done.append(f"state {'head' if key.count(b'/') == 1 else 'piece'}")
        return Sent(len(self.done))

    data: dict[bytes, bytes] = {}  # noqa: RUF012 - the table of a test

    async def process(self, block: Block) -> Effects:
        effects = Effects()
        effects.rows["signals"] += [{"n": record.offset} for record in block.records]
        effects.messages.append(("signals", None, {}, None))
        return effects

    def tick(self, silent_seconds: float, elapsed_seconds: float) -> Effects:
        return Effects()

    def resume(self, topic: str, position: int) -> int:
        return position

    def dump(self) -> dict[str, bytes]:
        return {"x": b"1"}

    def load(self, shards: Any) -> None: ...

    async def close(self) -> None: ...


class Record:
    def __init__(self, offset: int) -> None:
        self.offset, self.value = offset, b"{}"


def lane(log: Any) -> Lane:
    log.data = {}
    return Lane(["clicks", "said"], 0, log, Checkpoints(log, 0), log, log, Flood(0.5, 1_000), 0.01, lambda name: name)


async def run_once(log: Log, blocks: list[Block]) -> None:
    one = lane(log)
    for block in blocks:
        one.put(block, lambda last=block.last: log.done.append(f"ack {last}"))
    task = asyncio.create_task(one.run())
    await asyncio.sleep(0.1)
    one.stop_soon()
    await asyncio.wait_for(task, 10)


async def test_effects_come_before_state_and_state_before_acknowledgement() -> None:
    log = Log()
    await run_once(log, [Block("clicks", 0, [Record(0), Record(1)])])
    assert log.done[:5] == ["sink signals 2", "topic signals 1", "state piece", "state head", "ack 1"]


async def test_records_that_the_state_holds_already_are_left_out() -> None:
    log = Log()
    again = [Block("clicks", 0, [Record(0), Record(1)]), Block("clicks", 0, [Record(1), Record(2)])]
    await run_once(log, again)
    assert sum(int(entry.split()[-1]) for entry in log.done if entry.startswith("sink")) == 3
    assert [entry for entry in log.done if entry.startswith("ack")] == ["ack 1", "ack 2"]


async def test_nothing_is_acknowledged_while_the_sink_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.lanes.RETRY_SECONDS", 0.05)
    log = Log()
    log.away = 3
    await run_once(log, [Block("clicks", 0, [Record(0)])])
    assert log.done[0] == "sink signals 1"
    assert log.done[-1].startswith(("ack", "state"))


async def test_a_flood_leaves_its_reasons_and_acknowledges_nothing() -> None:
    log = Log()

    async def refuse(block: Block) -> Effects:
        return Effects(rejects=[Reject(record.offset, "bad", b"{") for record in block.records])

    log.process = refuse  # type: ignore[method-assign]
    one = lane(log)
    one.put(Block("clicks", 0, [Record(offset) for offset in range(1_000)]), lambda: log.done.append("ack"))
    with pytest.raises(DeadLetterFlood):
        await asyncio.wait_for(one.run(), 10)
    assert log.done == ["sink deadletters 1000", "topic deadletters 1000"]


def test_a_flood_of_bad_records_stops_by_run_and_by_share() -> None:
    with pytest.raises(DeadLetterFlood, match="RADAR_DEADLETTER"):
        Flood(0.5, 100).count(0, 99, range(100))
    flood = Flood(0.5, 100_000)
    with pytest.raises(DeadLetterFlood):
        for first in range(0, 6_000, 3):
            flood.count(first, first + 2, [first, first + 1])


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 12), st.integers(1, 60))
def test_a_run_of_bad_records_is_seen_wherever_the_blocks_are_cut(bad: list[bool], limit: int, cut: int) -> None:
    longest = max(len(run) for run in "".join("x" if each else " " for each in bad).split(" "))
    flood, stopped = Flood(1.0, limit), False
    for first in range(0, len(bad), cut):
        last = min(first + cut, len(bad)) - 1
        try:
            flood.count(first, last, [offset for offset in range(first, last + 1) if bad[offset]])
        except DeadLetterFlood:
            stopped = True
            break
    assert stopped == (longest >= limit)


def test_few_bad_records_among_many_good_ones_never_stop() -> None:
    flood = Flood(0.5, 100)
    for first in range(0, 30_000, 6):
        flood.count(first, first + 5, [first])


async def test_a_save_that_is_cancelled_ends_with_its_writes_done() -> None:
    """A rebalance cancels a lane in the middle of a save: memory and changelog must not part ways."""
    table = Table()
    slow = table.send_changelog

    async def send(partition: int, key: bytes, value: bytes | None) -> Sent:
        await asyncio.sleep(0.01)
        return await slow(partition, key, value)

    table.send_changelog = send  # type: ignore[method-assign]
    checkpoints = owner(table)
    await checkpoints.save({"clicks": 1}, {"a": b"1"})
    saving = asyncio.create_task(checkpoints.save({"clicks": 2}, {"a": b"2"}))
    await asyncio.sleep(0.015)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    assert restored(table.log) == Checkpoints(table, 0).restore() == ({"clicks": 2}, {"a": b"2"})


async def test_a_lane_that_was_paused_goes_on_where_it_was() -> None:
    """A rebalance that leaves the partition here: what was queued comes again, what was processed does not."""
    log = Log()
    one = lane(log)
    one.restore()
    one.put(Block("clicks", 0, [Record(0), Record(1)]), lambda: log.done.append("ack 1"))
    task = asyncio.create_task(one.run())
    while "ack 1" not in log.done:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    one.put(Block("clicks", 0, [Record(2)]), lambda: log.done.append("ack of before"))
    one.pause()
    assert one.whole
    assert one.position("clicks") == 2
    one.put(Block("clicks", 0, [Record(2), Record(3)]), lambda: log.done.append("ack 3"))
    task = asyncio.create_task(one.run())
    while "ack 3" not in log.done:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    one.stop_soon()
    await task
    assert sum(int(entry.split()[-1]) for entry in log.done if entry.startswith("sink")) == 4
    assert "ack of before" not in log.done


async def test_a_lane_stopped_inside_a_block_does_not_go_on_from_memory() -> None:
    log = Log()

    async def hang(block: Block) -> Effects:
        await asyncio.sleep(60)
        return Effects()

    log.process = hang  # type: ignore[method-assign]
    one = lane(log)
    one.restore()
    one.put(Block("clicks", 0, [Record(0)]), lambda: None)
    task = asyncio.create_task(one.run())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not one.whole


async def test_messages_do_not_wait_for_the_checkpoint_and_rows_do() -> None:
    log = Log()
    log.data = {}
    one = Lane(["clicks"], 0, log, Checkpoints(log, 0), log, log, Flood(0.5, 1_000), 60.0, str)  # type: ignore[arg-type]
    one.put(Block("clicks", 0, [Record(0)]), lambda: log.done.append("ack"))
    task = asyncio.create_task(one.run())
    await asyncio.sleep(0.4)
    assert log.done == ["topic signals 1"]
    one.stop_soon()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_lane_says_what_it_waits_for() -> None:
    log = Log()
    log.away = 10**9
    one = lane(log)
    one.put(Block("clicks", 0, [Record(0)]), lambda: None)
    task = asyncio.create_task(one.run())
    await asyncio.sleep(0.1)
    assert one.doing == "writing to table signals"
    assert one.stalled_seconds > 0
    assert one.name == "clicks/0"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_time_in_a_dead_letter_stays_readable_and_a_phone_does_not() -> None:
    value = b'{"ts": 1772380800000, "text": "call 13812345678", "rating": 9}'
    log, letters = Log(), []

    async def refuse(block: Block) -> Effects:
        return Effects(rejects=[Reject(5, "rating", value)])

    async def keep(table: str, rows: Any) -> None:
        letters.extend(rows)

    log.process, log.write = refuse, keep  # type: ignore[method-assign]
    await run_once(log, [Block("said", 0, [Record(0), Record(1), Record(2)])])
    (letter,) = letters
    assert letter["topic"] == "said"
    assert '"ts": 1772380800000' in letter["payload"]
    assert "13812345678" not in letter["payload"]
