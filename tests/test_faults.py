"""Faults it survives: whatever happens on the way, the dump is that of the undisturbed run, byte for byte.

One broker serves all runs, each on topics and tables of its own (``faults.py``); workers score in process. The long
versions, and those that only take longer, are marked ``faults`` and left to ``make test-faults``. Broker faults are in
``test_production.py``: the embedded broker forgets everything when it dies.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from faults import (
    Cutter,
    OldSink,
    Record,
    Run,
    assert_same,
    clock_that_can_be_shifted,
    fill,
    parts,
    script,
    shop,
    small_disk,
    start_store,
    whole_seconds,
    without_offsets,
)
from servers import CLICKHOUSE, Server, is_old, start_clickhouse, start_tansu

from stream.app import LIGHT_BLOCKS
from stream.dump import TABLES
from stream.events import SOURCES
from stream.replay import Event, replay_events
from stream.status import read_lanes

pytestmark = pytest.mark.stack

SEED = 20
long = pytest.param(True, marks=pytest.mark.faults, id="long")
short = pytest.param(False, id="short")
Dump = list[bytes]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_tansu(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_store(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="module")
def run(broker: Server, store: Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Makes a run by its name; on the module's store unless told otherwise."""

    def make(name: str, **settings: Any) -> Run:
        home = tmp_path_factory.mktemp(name)
        return Run(broker.address, home, **{"sink": "chdb", "store": f"http://{store.address}", **settings})

    return make


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return script(shop())


@pytest.fixture(scope="module")
def undisturbed(run: Callable[..., Run], records: list[Record]) -> Dump:
    """What one worker leaves when nothing happens."""

    async def work() -> Dump:
        async with run("undisturbed") as one:
            await one.start(0)
            await one.feed(records)
            return await one.finish()

    dump = asyncio.run(work())
    assert {orjson.loads(line)["table"] for line in dump} == set(TABLES) - {"alert_actions"}
    return dump


@pytest.mark.parametrize("many", [short, long])
async def test_workers_killed_at_random_moments(
    many: bool, run: Callable[..., Run], records: list[Record], undisturbed: Dump
) -> None:
    kills, seconds = (50, 180.0) if many else (4, 14.0)
    dice = Random(SEED)
    async with run("killed") as one:
        await one.start(0, 1)
        for part in parts(records, kills + 1, dice):
            await one.feed(part, seconds * len(part) / len(records))
            victim = dice.choice(list(one.workers))
            one.workers[victim].kill()
            one.launch(victim)
        assert_same(await one.finish(), undisturbed)


@pytest.mark.parametrize("many", [short, long])
async def test_workers_that_come_and_go(
    many: bool, run: Callable[..., Run], records: list[Record], undisturbed: Dump
) -> None:
    """The first one stays: what it keeps goes on in memory, but for a text lane that was stopped while it scored."""
    async with run("rebalanced") as one:
        await one.start(0)
        first, *rest = parts(records, (10 if many else 2) + 1)
        await one.feed(first)
        for number, part in enumerate(rest):
            feeding = asyncio.create_task(one.feed(part, 2.0))
            if number % 2:
                one.workers[1].send(signal.SIGTERM)
                assert await one.workers.pop(1).exit() == 0, one.log(1)
            else:
                await one.start(1)
            await feeding
        assert_same(await one.finish(), undisturbed)
        kept = [int(count) for count in re.findall(r"lanes: .*; (\d+) kept", one.log(0))]
        assert len(kept) > len(rest) // 2  # two changes may make one rebalance
        assert sum(count >= 2 for count in kept[1:]) > len(kept[1:]) // 2, kept


async def test_a_worker_that_hangs_until_its_partitions_have_moved(
    run: Callable[..., Run], records: list[Record], undisturbed: Dump
) -> None:
    async with run("hung") as one:
        await one.start(0, 1)
        first, second, third = parts(records, 3)
        await one.feed(first)
        one.workers[1].send(signal.SIGSTOP)
        await one.feed(second)
        await one.until(lambda: one.workers[0].lanes() == 8)
        one.workers[1].send(signal.SIGCONT)
        await one.feed(third, 5.0)
        assert_same(await one.finish(), undisturbed)


@pytest.mark.parametrize("many", [short, long])
async def test_clickhouse_away(
    many: bool, run: Callable[..., Run], records: list[Record], undisturbed: Dump, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Killed and started again; clicks are read meanwhile, as many blocks as there is room for."""
    with start_clickhouse(tmp_path / "server") if CLICKHOUSE else start_store(tmp_path / "store") as server:
        settings: dict[str, Any] = {"store": f"http://{server.address}"}
        old = bool(CLICKHOUSE) and is_old(server)
        if CLICKHOUSE:
            settings = {"sink": "clickhouse", "clickhouse": server.address, "clickhouse_user": "radar"}
            settings |= {"clickhouse_password": "sesame", "lowered": old}
        if old:
            monkeypatch.setattr("stream.sinks.clickhouse.ClickHouseSink", OldSink)
        async with run("away", **settings) as one:
            await one.start(0)
            first, second, third = parts(records, 3)
            await one.feed(first, 3.0)
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            away = asyncio.create_task(asyncio.sleep(60.0 if many else 8.0))
            await one.feed(second, 6.0)
            clicks = f"{one.settings.prefix}clicks/0"
            await one.until(lambda: read_lanes(one.settings)[clicks]["queued"] > 1)
            await away
            assert read_lanes(one.settings)[clicks]["queued"] <= 2 * LIGHT_BLOCKS + 1  # of clicks, of said, and in hand
            await asyncio.to_thread(server.start)
            await one.feed(third)
            found = await one.finish()
            assert_same(whole_seconds(found) if old else found, whole_seconds(undisturbed) if old else undisturbed)
            assert "waits" in one.log()


async def test_connections_to_the_store_that_break_anywhere(
    run: Callable[..., Run], records: list[Record], undisturbed: Dump, store: Server
) -> None:
    async with Cutter(store.port, Random(SEED)) as cutter, run("cut", store=f"http://127.0.0.1:{cutter.port}") as one:
        await one.start(0)
        cutter.armed = True
        await one.feed(records, 8.0)
        assert_same(await one.finish(store=f"http://{store.address}"), undisturbed)
        assert cutter.cuts > 4


@pytest.mark.faults
async def test_the_store_killed_while_it_takes_rows(
    run: Callable[..., Run], records: list[Record], undisturbed: Dump, tmp_path: Path
) -> None:
    dice = Random(SEED)
    with start_store(tmp_path) as store:
        async with run("store", store=f"http://{store.address}") as one:
            await one.start(0)
            for part in parts(records, 5, dice):
                feeding = asyncio.create_task(one.feed(part, 1.5))
                await asyncio.sleep(dice.uniform(0.2, 1.5))
                await asyncio.to_thread(store.stop, signal.SIGKILL)
                await asyncio.to_thread(store.start)
                await feeding
            assert_same(await one.finish(), undisturbed)


async def test_the_disk_of_the_store_full(
    run: Callable[..., Run], records: list[Record], undisturbed: Dump, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 64) as place, start_store(tmp_path / "store", place / "chdb") as store:
        async with run("full", store=f"http://{store.address}") as one:
            await one.start(0)
            first, second, third = parts(records, 3)
            await one.feed(first)
            ballast = fill(place)
            await one.feed(second)
            await one.until(lambda: "Make room on the disk" in one.log())
            assert f"Cannot write in {place / 'chdb'}" in one.log()
            ballast.unlink()
            await one.feed(third)
            assert_same(await one.finish(), undisturbed)


@pytest.mark.faults
async def test_a_clock_that_is_set_an_hour_forth_and_back(
    run: Callable[..., Run], records: list[Record], undisturbed: Dump
) -> None:
    async with run("clock") as one:
        shift, environment = clock_that_can_be_shifted(one.home)
        await one.start(0, 1, **environment)
        for part, seconds in zip(parts(records, 4), (0, 3_600, -3_600, 0), strict=True):
            shift.write_text(str(seconds))
            await one.feed(part, 2.0)
        assert_same(await one.finish(), undisturbed)


async def test_repeated_and_disordered_delivery(run: Callable[..., Run], undisturbed: Dump) -> None:
    """Each event up to the allowed lateness after its time, and one in twenty once more, some minutes late."""
    async with run("disordered") as one:
        await one.start(0)
        await one.feed(script(disordered(shop(), Random(SEED), one.settings.lateness_ms)))
        assert_same(without_offsets(await one.finish()), without_offsets(undisturbed))


def disordered(events: list[Event], dice: Random, lateness: int) -> list[Event]:
    arriving = [(event.ts + dice.randrange(lateness), n, event) for n, event in enumerate(events)]
    for n, event in enumerate(events):
        valid = event.topic in SOURCES and type(event.value) is dict and not event.value["event_id"].startswith("h")
        if valid and dice.random() < 0.05:
            arriving.append((event.ts + dice.randrange(dice.choice((lateness, 600_000))), n, event))
    return [event for _, _, event in sorted(arriving, key=lambda each: each[:2])]


async def test_a_flood_of_garbage_stops_the_worker_loudly_and_loses_nothing(
    run: Callable[..., Run], records: list[Record], undisturbed: Dump
) -> None:
    async with run("flood") as one:
        await one.start(0)
        first, rest = parts(records, 2)
        garbage = [Record("clicks", 0, None, b"\xff" + str(n).encode(), first[-1].at) for n in range(1_500)]
        await one.feed([*first, *garbage])
        assert await one.workers.pop(0).exit() == 1
        assert "RADAR_DEADLETTER_RUN" in one.log()
        await one.start(1, RADAR_DEADLETTER_RATIO="1", RADAR_DEADLETTER_RUN="1000000")
        await one.feed(rest)
        found = without_offsets(await one.finish())
        letters = [line for line in found if b'"payload":"\xef\xbf\xbd' in line]
        assert len(letters) == len(garbage)
        assert_same([line for line in found if line not in letters], without_offsets(undisturbed))


async def test_told_to_end_in_the_middle_of_a_block(
    run: Callable[..., Run], records: list[Record], undisturbed: Dump
) -> None:
    async with run("ended") as one:
        await one.start(0)
        first, second, third = parts(records, 3)
        for part in (first, second):
            await one.feed(part)
            one.workers[0].send(signal.SIGTERM)
            assert await one.workers[0].exit() == 0, one.log()
            await one.start(0)
        await one.feed(third)
        assert_same(await one.finish(), undisturbed)
        assert "crashed" not in one.log()


@pytest.mark.parametrize(
    ("clicks", "texts", "speed"),
    [
        pytest.param(37, 5, None),
        pytest.param(1, 1, 4_000.0, marks=pytest.mark.faults),
        pytest.param(8_000, 128, 1_000.0, marks=pytest.mark.faults),
    ],
)
async def test_other_blocks_and_another_pace(
    clicks: int, texts: int, speed: float | None, run: Callable[..., Run], undisturbed: Dump
) -> None:
    """A replay of the same events puts heartbeats elsewhere, and so dead letters at other offsets."""
    async with run("paced", block_records=clicks, block_texts=texts) as one:
        await one.start(0)
        await replay_events((event for event in shop() if event.topic in SOURCES), one.settings, speed, patience=60)
        assert_same(without_offsets(await one.finish()), without_offsets(undisturbed))
