"""The production sink against a real ClickHouse server, and beside the embedded one.

Debian's clickhouse-server (18.16, of 2018) is enough for the native protocol (see ``servers.py``). Skipped where there
is no server: ``apt-get install clickhouse-server`` brings it.
"""

from __future__ import annotations

import asyncio
import re
import signal as signals
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from servers import LoweredSink, Server, needs_clickhouse, start_clickhouse
from test_sinks_chdb import StoreProcess, free_port
from test_sinks_rows import LONE_SURROGATE, T0, alert, one_of_each, signal, window

from stream.sinks.base import SinkRejected, SinkUnavailable
from stream.sinks.chdb import ChdbSink
from stream.sinks.clickhouse import ClickHouseSink


def sink_for(server: Server, **changes: Any) -> LoweredSink:
    arguments = {"user": "radar", "password": "sesame", "database": "shop"} | changes
    return LoweredSink(f"127.0.0.1:{server.port}", **arguments)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_clickhouse(tmp_path_factory.mktemp("clickhouse"))
    yield server
    server.stop()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path / "chdb") as store:
        yield store


@pytest_asyncio.fixture
async def sink(server: Server) -> AsyncIterator[LoweredSink]:
    sink = sink_for(server)
    await sink.open()
    for statement in sink.ddl():
        if table := re.match(r"CREATE TABLE IF NOT EXISTS (\w+)", statement):
            await sink.query(f"TRUNCATE TABLE {table[1]}")
    yield sink
    await sink.close()


@needs_clickhouse
@pytest.mark.stack
async def test_every_table_takes_its_record_and_replaying_adds_nothing(sink: LoweredSink) -> None:
    for _ in range(3):
        for table, record in one_of_each().items():
            await sink.write(table, [record])
    for table in one_of_each():
        assert await sink.query(f"SELECT count() AS n FROM {table}") == [{"n": 1}]


@needs_clickhouse
@pytest.mark.stack
async def test_the_newest_state_of_an_alert_wins(sink: LoweredSink) -> None:
    await sink.write("alerts", [alert(state="resolved", closed_at=T0 + 9_000, updated_at=T0 + 9_000), alert(1)])
    await sink.write("alerts", [alert()])
    assert await sink.query("SELECT alert_id, state FROM alerts ORDER BY alert_id") == [
        {"alert_id": "a0", "state": "resolved"},
        {"alert_id": "a1", "state": "open"},
    ]
    assert await sink.query("SELECT count() AS n FROM alert_transitions") == [{"n": 3}]


@needs_clickhouse
@pytest.mark.stack
async def test_the_highest_revision_of_a_window_wins(sink: LoweredSink) -> None:
    for revision, views in ((0, 7), (2, 9), (1, 8)):
        await sink.write("windows", [window(revision=revision, views=views)])
    assert await sink.query("SELECT views, dwell_ms, label_count FROM windows") == [
        {"views": 9, "dwell_ms": 5_000_000_000, "label_count": [1, 2]}
    ]


@needs_clickhouse
@pytest.mark.stack
async def test_a_bad_row_is_named(sink: LoweredSink) -> None:
    for bad in ({"rating": 1_000}, {"text": 5}, {"text": LONE_SURROGATE}, {"aspects": "none"}, {"keywords": None}):
        batch = [signal(n) for n in range(50)]
        batch[31] |= bad
        with pytest.raises(SinkRejected, match=r"row 32 of 50.*reviews/3/31"):
            await sink.write("signals", batch)
    await sink.write("signals", [signal(n) for n in range(50)])
    assert await sink.query("SELECT count() AS n FROM signals") == [{"n": 50}]


@needs_clickhouse
@pytest.mark.stack
async def test_a_server_that_dies_is_unavailable_and_after_recovery_both_sinks_hold_the_same(
    server: Server, sink: LoweredSink, store: StoreProcess
) -> None:
    embedded = ChdbSink(store.address, database="shop")
    await embedded.open()
    batches = [
        [signal(n, ts=T0 - T0 % 1000 + n * 1000) for n in range(start, start + 500)] for start in range(0, 5_000, 500)
    ]
    for batch in batches:
        await embedded.write("signals", batch)

    failures = 0
    for number, batch in enumerate(batches):
        if number == 4:
            server.stop(signals.SIGKILL)
        while True:  # as a worker does: the same rows again until they are in
            try:
                await sink.write("signals", batch)
                break
            except SinkUnavailable as error:
                failures += 1
                assert str(server.port) in str(error)
                if failures == 2:
                    await asyncio.to_thread(server.start)
    await sink.write("signals", batches[3])
    assert failures >= 2

    columns = "signal_id, toUnixTimestamp(ts) AS at, text, rating, sentiment_score, aspect, aspect_sentiment, " \
              "aspect_prob, demand, demand_strength, keywords, entity_text, fingerprint, late"  # fmt: skip
    sql = f"SELECT {columns} FROM signals ORDER BY signal_id"
    there, here = await sink.query(sql), await embedded.query(sql)
    assert len(there) == 5_000
    assert [{k: list(v) if isinstance(v, tuple) else v for k, v in row.items()} for row in there] == here
    await embedded.close()


@needs_clickhouse
@pytest.mark.stack
async def test_wrong_passwords_and_queries_are_refused_in_the_servers_words(server: Server, sink: LoweredSink) -> None:
    with pytest.raises(SinkRejected, match=r"(?i)password"):
        await sink_for(server, password="wrong").open()
    with pytest.raises(SinkRejected, match="nothing"):
        await sink.query("SELECT * FROM nothing")
    assert await sink.query("SELECT 1 AS one") == [{"one": 1}]


async def test_no_server_is_unavailable_and_says_where_it_looked() -> None:
    sink = ClickHouseSink(f"127.0.0.1:{free_port()}", user="radar", password="", database="radar")
    with pytest.raises(SinkUnavailable, match="RADAR_CLICKHOUSE"):
        await sink.open()
    await sink.close()
    await sink.close()


async def test_a_server_that_does_not_answer_is_unavailable_within_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.sinks.clickhouse.CONNECT_SECONDS", 0.3)
    monkeypatch.setattr("stream.sinks.clickhouse.ANSWER_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sink = ClickHouseSink(f"127.0.0.1:{silent.getsockname()[1]}", user="radar", password="", database="radar")
        with pytest.raises(SinkUnavailable, match="does not answer"):
            await asyncio.wait_for(sink.open(), 5)
        await sink.close()
