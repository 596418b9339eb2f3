"""Checkpoints: every prefix of the changelog is a complete state; lanes make things durable in the promised order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.checkpoint import Checkpoints
from stream.events import Reject
from stream.lanes import DeadLetterFlood, Effects, Flood, Lane
from stream.sinks.base import SinkUnavailable
from stream.transport import Block


class Table:
    """What Checkpoints needs of a Faust table, with the changelog kept to be cut anywhere."""

    def __init__(self, log: list[tuple[bytes, bytes]] | None = None) -> None:
        self.log = list(log or [])
        self.data = dict(self.log)

    async def send_changelog(self, partition: int, key: bytes, value: bytes) -> None:
        self.log.append((key, value))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.checkpoint.PART_BYTES", 2)


steps = st.lists(st.dictionaries(st.sampled_from("abc"), st.binary(max_size=7), max_size=3), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, st.integers(0, 100))
def test_any_prefix_of_the_changelog_restores_the_last_complete_checkpoint(
    changes: list[dict[str, bytes]], cut: int
) -> None:
    async def work() -> None:
        table, state = Table(), dict[str, bytes]()
        checkpoints, states = Checkpoints(table, 0), {0: (None, dict(state))}
        for position, changed in enumerate(changes, start=1):
            state |= changed
            await checkpoints.save(position, changed)
            states[len(table.log)] = (position, dict(state))
        kept = min(cut, len(table.log))
        recovered = Table(table.log[:kept])
        position, expected = states[max(length for length in states if length <= kept)]
        assert Checkpoints.position(recovered, 0) == position
        assert Checkpoints(recovered, 0).restore() == expected

    asyncio.run(work())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, steps, st.integers(0, 100))
def test_going_on_after_a_torn_checkpoint_is_sound(first: Any, second: Any, cut: int) -> None:
    async def work() -> None:
        table = Table()
        checkpoints = Checkpoints(table, 0)
        for position, changed in enumerate(first, start=1):
            await checkpoints.save(position, changed)
        table = Table(table.log[: min(cut, len(table.log))])
        checkpoints = Checkpoints(table, 0)
        state = checkpoints.restore()
        for position, changed in enumerate(second, start=100):
            state |= changed
            await checkpoints.save(position, changed)
        if second:
            assert Checkpoints(Table(table.log), 0).restore() == state

    asyncio.run(work())


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

    async def send_changelog(self, partition: int, key: bytes, value: bytes) -> None:
        self.done.append(f"state {key.decode()}")

    data: dict[bytes, bytes] = {}  # noqa: RUF012 - the table of a test

    async def process(self, block: Block) -> Effects:
        effects = Effects()
        effects.rows["signals"] += [{"n": record.offset} for record in block.records]
        effects.messages.append(("signals", None, {}, None))
        return effects

    def tick(self, silent_seconds: float, elapsed_seconds: float) -> Effects:
        return Effects()

    def dump(self) -> dict[str, bytes]:
        return {"x": b"1"}

    def load(self, shards: Any) -> None: ...

    async def close(self) -> None: ...


class Record:
    def __init__(self, offset: int) -> None:
        self.offset, self.value = offset, b"{}"


def lane(log: Any) -> Lane:
    log.data = {}
    return Lane("clicks", 0, log, Checkpoints(log, 0), log, log, Flood(0.5, 1_000), 0.01, lambda name: name)


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
    assert log.done[:5] == ["sink signals 2", "topic signals 1", "state 0/x/0/0", "state 0", "ack 1"]


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
        Flood(0.5, 100).count(0, 100)
    flood = Flood(0.5, 100_000)
    with pytest.raises(DeadLetterFlood):
        for _ in range(2_000):
            flood.count(1, 2)


def test_few_bad_records_among_many_good_ones_never_stop() -> None:
    flood = Flood(0.5, 100)
    for _ in range(5_000):
        flood.count(5, 1)


async def test_a_save_that_is_cancelled_ends_with_its_writes_done_or_not_begun() -> None:
    """A rebalance cancels a lane in the middle of a save: memory and changelog must not part ways."""
    table = Table()
    slow = table.send_changelog

    async def send(partition: int, key: bytes, value: bytes) -> None:
        await asyncio.sleep(0.01)
        await slow(partition, key, value)

    table.send_changelog = send  # type: ignore[method-assign]
    checkpoints = Checkpoints(table, 0)
    await checkpoints.save(1, {"a": b"1"})
    saving = asyncio.create_task(checkpoints.save(2, {"a": b"2"}))
    await asyncio.sleep(0.015)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    recovered = Table(table.log)
    assert Checkpoints.position(recovered, 0) == Checkpoints.position(table, 0)
    assert Checkpoints(recovered, 0).restore() == Checkpoints(table, 0).restore() == {"a": b"2"}


def test_a_time_in_a_dead_letter_stays_readable_and_a_phone_does_not() -> None:
    value = b'{"ts": 1772380800000, "text": "call 13812345678", "rating": 9}'
    letter = lane(Log())._dead_letter(Reject(5, "rating", value))
    assert '"ts": 1772380800000' in letter.payload
    assert "13812345678" not in letter.payload
