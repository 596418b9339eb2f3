"""The dump: the same bytes for the same conclusions, whoever wrote them, how often, in what order and into what."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from servers import LoweredSink, is_old, needs_clickhouse, radar, radar_environment, start_clickhouse
from test_sinks_chdb import StoreProcess
from test_sinks_rows import T0, alert, one_of_each, signal, window

from stream import dump
from stream.cli import main
from stream.settings import Settings
from stream.sinks import open_sink
from stream.sinks.base import Sink
from stream.sinks.chdb import ChdbSink

DAY = 86_400_000


def whole_seconds(row: dict[str, Any]) -> dict[str, Any]:
    """A server of 2018 keeps no milliseconds."""
    return {name: v - v % 1_000 if type(v) is int and v >= T0 - DAY else v for name, v in row.items()}


def written(prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Rows of all tables, in several days and states."""
    letter = {"topic": f"{prefix}clicks", "partition": 1, "offset": 7, "reason": "not JSON", "payload": "{"}
    rows = [(table, row) for table, row in one_of_each().items() if table not in ("deadletters", "alerts")]
    rows += [("signals", signal(n, ts=T0 + n * DAY // 3)) for n in range(9)]
    rows += [("windows", window(n) | {"pane_start": T0 + n * DAY}) for n in range(3)]
    rows += [("alerts", alert(updated_at=T0)), ("deadletters", letter)]
    return [*rows, ("alerts", alert(state="resolved", closed_at=T0 + DAY, updated_at=T0 + DAY))]


async def write(sink: Sink, rows: list[tuple[str, dict[str, Any]]]) -> None:
    async with sink:
        for table, row in rows:
            await sink.write(table, [row])


async def dumped(settings: Settings) -> bytes:
    return b"".join([line async for _, line in dump.canonical(settings)])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path / "chdb") as store:
        yield store


@pytest.mark.stack
async def test_order_and_repetition_of_writes_are_not_in_it_and_all_else_is(store: StoreProcess) -> None:
    settings = Settings(home=store.path.parent, sink="chdb", store=store.address, database="one")
    await write(ChdbSink(store.address, database="one"), written())
    first = await dumped(settings)
    again = written(prefix="replay7-") * 2
    Random(1).shuffle(again)
    await write(ChdbSink(store.address, database="two"), again)
    other = settings.model_copy(update={"database": "two", "prefix": "replay7-"})
    assert await dumped(other) == first

    lines = [json.loads(line) for line in first.splitlines()]
    assert {line["table"] for line in lines} == set(dump.TABLES)
    assert [line["state"] for line in lines if line["table"] == "alerts"] == ["open", "resolved"]
    assert [line["pane_start"] for line in lines if line["table"] == "windows"][-3:] == [T0, T0 + DAY, T0 + 2 * DAY]
    assert all(list(line) == sorted(line) and "ingested_at" not in line for line in lines)
    assert len(lines) == len(written())

    await write(ChdbSink(store.address, database="two"), [("windows", window(1, revision=1, views=8))])
    changed = {a.table for a, b in zip(await dump.sums(settings), await dump.sums(other), strict=True) if a != b}
    assert changed == {"windows"}


@needs_clickhouse
@pytest.mark.stack
async def test_both_kinds_of_sink_give_the_same_bytes(
    store: StoreProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = Settings(home=tmp_path, sink="chdb", store=store.address)
    rows = [(table, whole_seconds(row)) for table, row in written()]
    await write(ChdbSink(store.address, database="radar"), rows)
    with start_clickhouse(tmp_path / "clickhouse") as server:
        if is_old(server):
            monkeypatch.setattr("stream.sinks.clickhouse.ClickHouseSink", LoweredSink)
        login: dict[str, Any] = {"clickhouse_user": "radar", "clickhouse_password": "sesame"}
        served = Settings(home=tmp_path, sink="clickhouse", clickhouse=server.address, **login)
        await write(open_sink(served), rows)
        assert await dumped(served) == await dumped(embedded) != b""


@pytest.mark.stack
def test_the_command_sums_up_or_writes_it_all_and_needs_no_stack(store: StoreProcess, tmp_path: Path) -> None:
    asyncio.run(write(ChdbSink(store.address, database="radar"), written()))
    environment = radar_environment(home=tmp_path, store=store.address)

    def run(*arguments: str) -> bytes:
        return subprocess.run(radar("dump", *arguments), env=environment, capture_output=True, check=True).stdout

    running = run("--canonical")
    store.stop()
    assert run("--canonical") == running
    run("--canonical", "-o", str(tmp_path / "dump"), "--table", "alerts", "--table", "windows")
    part = (tmp_path / "dump").read_bytes()
    assert part == b"".join(line for line in running.splitlines(True) if b'"alerts"' in line or b'"windows"' in line)
    sums = [line.split() for line in run().decode().splitlines()]
    assert [(int(rows), table) for _, rows, table in sums] == [
        (running.count(f'"table":"{table}"'.encode()), table) for table in sorted(dump.TABLES)
    ]


def test_an_unknown_table_is_wrong_usage_that_names_the_known_ones() -> None:
    done = CliRunner().invoke(main, ["dump", "--table", "orders"])
    assert done.exit_code == 2
    assert "orders" in done.output
    assert "windows" in done.output
