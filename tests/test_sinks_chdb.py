"""The embedded store as its users meet it: a process that serves a directory."""

from __future__ import annotations

import asyncio
import contextlib
import signal as signals
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from test_sinks_rows import LONE_SURROGATE, T0, alert, one_of_each, signal, window

from stream.sinks.base import SinkRejected, SinkUnavailable
from stream.sinks.chdb import ChdbSink, query_directory

pytestmark = pytest.mark.stack


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class StoreProcess:
    def __init__(self, path: Path) -> None:
        self.path, self.port = path, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "stream.sinks.chdb", "--path", str(self.path), "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/ping", timeout=1) as answer:
                assert answer.read() == b"Ok.\n"
                return
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            time.sleep(0.1)
        raise AssertionError("the store did not start")

    def stop(self, number: int = signals.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        if self.process.stderr:
            self.process.stderr.close()
        return code

    def __enter__(self) -> StoreProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def post(self, query: str, body: str = "", **headers: str) -> tuple[int, str]:
        url = f"{self.address}/?{query}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path / "chdb") as store:
        yield store


@pytest_asyncio.fixture
async def sink(store: StoreProcess) -> AsyncIterator[ChdbSink]:
    sink = ChdbSink(store.address, database="radar")
    await sink.open()
    yield sink
    await sink.close()


async def test_every_table_takes_its_record_and_replaying_adds_nothing(sink: ChdbSink) -> None:
    for _ in range(3):
        for table, record in one_of_each().items():
            await sink.write(table, [record])
    for table in one_of_each():
        assert await sink.query(f"SELECT count() AS n FROM {table}") == [{"n": 1}]
    [row] = await sink.query("SELECT ts, text, aspect_evidence, entity_start, entity_end, late FROM signals")
    assert row == {
        "ts": "2014-01-01 00:00:01.123",
        "text": signal(1)["text"],
        "aspect_evidence": [[[0, 4], [10, 13]], []],
        "entity_start": [3],
        "entity_end": [5],
        "late": 0,
    }


async def test_an_analyst_counts_negative_aspects_per_product_and_hour(sink: ChdbSink) -> None:
    await sink.write("signals", [signal(n, late=False) for n in range(10)])
    found = await sink.query(
        """SELECT product_id, toStartOfHour(ts) AS hour, a AS aspect, count() AS texts
           FROM signals ARRAY JOIN aspect AS a, aspect_sentiment AS s
           WHERE s = 'negative' AND NOT late GROUP BY product_id, hour, aspect ORDER BY product_id"""
    )
    assert [(row["product_id"], row["aspect"], row["texts"]) for row in found] == [
        (f"p{n}", "packaging", 2) for n in range(5)
    ]


async def test_the_highest_revision_of_a_window_wins_whatever_the_order_of_writing(sink: ChdbSink) -> None:
    for revision, views in ((0, 7), (2, 9), (1, 8)):
        await sink.write("windows", [window(revision=revision, views=views), window(2)])
    assert await sink.query(
        """SELECT product_id, sum(views) AS views, max(revision) AS revision, sum(n) AS texts
           FROM windows ARRAY JOIN label AS l, label_count AS n WHERE scope = 'product' AND l = 'negative/packaging'
           GROUP BY product_id ORDER BY product_id"""
    ) == [
        {"product_id": "p1", "views": 9, "revision": 2, "texts": 2},
        {"product_id": "p2", "views": 7, "revision": 0, "texts": 2},
    ]


async def test_the_newest_state_of_an_alert_wins_whatever_the_order_of_writing(sink: ChdbSink) -> None:
    resolved = alert(state="resolved", closed_at=T0 + 9_000, updated_at=T0 + 9_000)
    await sink.write("alerts", [resolved])
    await sink.write("alerts", [alert(), alert(1)])
    newest = "SELECT alert_id, state FROM alerts ORDER BY alert_id"
    assert await sink.query(newest) == [
        {"alert_id": "a0", "state": "resolved"},
        {"alert_id": "a1", "state": "open"},
    ]
    assert await sink.query("SELECT count() AS n FROM alerts WHERE alert_id = 'a0' AND state = 'open'") == [{"n": 0}]
    assert await sink.query("SELECT count() AS n FROM alert_transitions") == [{"n": 3}]


async def test_rows_of_many_months_fit_into_one_write(sink: ChdbSink) -> None:
    await sink.write("signals", [signal(n, ts=T0 + n * 31 * 86_400_000) for n in range(150)])
    assert await sink.query("SELECT uniq(toYYYYMM(ts)) AS months, count() AS n FROM signals") == [
        {"months": 150, "n": 150}
    ]


async def test_kill_9_after_a_write_loses_nothing(store: StoreProcess, sink: ChdbSink) -> None:
    for start in range(0, 200, 20):
        await sink.write("signals", [signal(n) for n in range(start, start + 20)])
    assert store.stop(signals.SIGKILL) == -signals.SIGKILL
    with pytest.raises(SinkUnavailable, match="radar up"):
        await sink.write("signals", [signal(200)])
    store.start()
    await sink.write("signals", [signal(n) for n in range(190, 201)])
    assert await sink.query("SELECT count() AS n, uniqExact(signal_id) AS ids FROM signals") == [{"n": 201, "ids": 201}]


async def test_kill_9_during_writes_loses_nothing_that_was_confirmed(store: StoreProcess, sink: ChdbSink) -> None:
    confirmed = 0

    async def write() -> None:
        nonlocal confirmed
        with contextlib.suppress(SinkUnavailable):
            while True:
                await sink.write("signals", [signal(n) for n in range(confirmed, confirmed + 500)])
                confirmed += 500

    writing = asyncio.create_task(write())
    await asyncio.sleep(1)
    store.stop(signals.SIGKILL)
    await writing
    assert confirmed > 0
    store.start()
    [row] = await sink.query("SELECT uniqExact(signal_id) AS n FROM signals")
    assert confirmed <= row["n"] <= confirmed + 500


async def test_a_bad_row_is_named(sink: ChdbSink) -> None:
    batch = [signal(n) for n in range(50)]
    batch[31]["rating"] = 1_000
    with pytest.raises(SinkRejected, match=r"row 32 of 50.*reviews/3/31"):
        await sink.write("signals", batch)
    batch[31] |= {"rating": 1, "sentiment": {"label": "negative", "score": "very"}}
    with pytest.raises(SinkRejected, match=r"row 32 of 50.*reviews/3/31"):
        await sink.write("signals", batch)
    batch[31] = signal(31, text=LONE_SURROGATE)
    with pytest.raises(SinkRejected, match=r"row 32 of 50.*reviews/3/31"):
        await sink.write("signals", batch)
    batch[31] = signal(31)
    await sink.write("signals", batch)
    assert await sink.query("SELECT count() AS n FROM signals") == [{"n": 50}]


async def test_a_query_with_an_error_carries_clickhouses_words(sink: ChdbSink) -> None:
    with pytest.raises(SinkRejected, match="UNKNOWN_TABLE"):
        await sink.query("SELECT * FROM nothing")


def test_the_directory_has_one_owner_and_can_be_read_afterwards(store: StoreProcess) -> None:
    async def write() -> None:
        sink = ChdbSink(store.address, database="radar")
        await sink.open()
        await sink.write("alerts", [alert()])
        await sink.close()
        await sink.close()

    asyncio.run(write())
    second = subprocess.run(
        [sys.executable, "-m", "stream.sinks.chdb", "--path", str(store.path), "--port", "0"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert second.returncode == 1
    assert f"is in use by process {store.process.pid}, which serves it at {store.address}" in second.stderr
    with pytest.raises(SinkUnavailable, match="is in use"):
        query_directory(store.path, "SELECT 1 AS one")
    assert store.stop() == 0
    for _ in range(2):
        assert query_directory(store.path, "SELECT alert_id FROM alerts") == [{"alert_id": "a0"}]
    with pytest.raises(SinkRejected, match="UNKNOWN_TABLE"):
        query_directory(store.path, "SELECT * FROM nothing")


def test_a_directory_without_data_says_so(tmp_path: Path) -> None:
    with pytest.raises(SinkUnavailable, match="no chDB data yet"):
        query_directory(tmp_path, "SELECT 1")
    assert not any(tmp_path.iterdir())


def test_a_taken_port_is_a_plain_message(store: StoreProcess, tmp_path: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "stream.sinks.chdb", "--path", str(tmp_path / "other"), "--port", str(store.port)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert second.returncode == 1
    assert "address already in use" in second.stderr
    assert "Traceback" not in second.stderr


def test_the_http_interface_speaks_clickhouses_essentials(store: StoreProcess) -> None:
    assert store.post("", "SELECT 1, 'a'") == (200, "1\ta\n")
    assert store.post("query=SELECT%201%20AS%20x%20FORMAT%20JSONEachRow") == (200, '{"x":1}\n')
    assert store.post("default_format=CSV", "SELECT 1, 'a'") == (200, '1,"a"\n')
    assert store.post("", "CREATE DATABASE d") == (200, "")
    assert store.post("database=d", "CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n") == (200, "")
    assert store.post("database=d&query=INSERT%20INTO%20t%20FORMAT%20JSONEachRow", '{"n":1}\n{"n":2}') == (200, "")
    assert store.post("", "SELECT sum(n) FROM d.t") == (200, "3\n")
    assert store.post("", "SELECT sum(n) FROM t")[0] == 400  # the database of one request is not that of the next
    status, text = store.post("database=nowhere", "SELECT 1")
    assert (status, text[:9]) == (400, "Code: 81.")
    status, text = store.post("", "SELECT nonsense")
    assert (status, text[:9]) == (400, "Code: 47.")


def test_a_web_page_cannot_use_the_store(store: StoreProcess) -> None:
    assert store.post("", "SELECT 1", Origin="https://example.org")[0] == 403
    with pytest.raises(urllib.error.HTTPError):  # a GET needs no Origin
        urllib.request.urlopen(f"{store.address}/?query=SELECT%201", timeout=5)
