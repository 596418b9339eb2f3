"""Alerts read back, from a store that runs and from what it left."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_sinks_chdb import StoreProcess
from test_sinks_rows import T0, alert

from stream import alerts
from stream.records import AlertAction, to_dict
from stream.settings import Settings
from stream.sinks import rows
from stream.sinks.base import SinkUnavailable
from stream.sinks.chdb import ChdbSink

NOW = 1_700_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path / "chdb") as store:
        yield store


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2h", NOW - 7_200_000),
        ("3d", NOW - 259_200_000),
        ("90s", NOW - 90_000),
        (str(T0), T0),
        ("2014-01-01T00:00:00.123", T0),
        ("2014-01-01T00:00:00.123Z", T0),
        ("2014-01-01T08:00:00.123+08:00", T0),
        ("2014-01-01", T0 - 123),
    ],
)
def test_since_reads_what_people_write(text: str, ms: int) -> None:
    assert alerts.since_ms(text, NOW) == ms


@pytest.mark.parametrize("text", ["", "yesterday", "2 hours", "h", "-2h", "2014-13-01"])
def test_since_says_what_it_can_read(text: str) -> None:
    with pytest.raises(ValueError, match="2h, 3d"):
        alerts.since_ms(text, NOW)


@pytest.mark.parametrize("bad", [{"kind": "spike"}, {"state": "closed"}, {"kind": "x' OR 1"}])
async def test_an_unknown_kind_or_state_is_refused(bad: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say "):
        await alerts.list_alerts(alerts.StoppedStore(tmp_path), **bad)  # type: ignore[arg-type]


@pytest.mark.stack
def test_alerts_come_back_as_they_went_in_and_after_the_stack_stopped(store: StoreProcess) -> None:
    surge = alert(
        1, kind="demand_surge", label="restock", scope="category", product_id="", evidence=[], updated_at=T0 + 60_000
    )
    closed = alert(state="resolved", closed_at=T0 + 90_000, updated_at=T0 + 90_000)

    async def check() -> list[alerts.Alert]:
        sink = ChdbSink(store.address, database="radar")
        await sink.open()
        await sink.write("alerts", [alert(), surge])
        await sink.write("alerts", [closed])

        ids = [a["alert_id"] for a in await alerts.list_alerts(sink)]
        assert ids == ["a0", "a1"]
        for question, answer in (
            ({"state": "open"}, ["a1"]),
            ({"state": "resolved"}, ["a0"]),
            ({"kind": "demand_surge"}, ["a1"]),
            ({"since": T0 + 60_001}, ["a0"]),
            ({"since": T0 + 90_001}, []),
            ({"since": T0, "kind": "negative_spike", "state": "open"}, []),
        ):
            assert [a["alert_id"] for a in await alerts.list_alerts(sink, **question)] == answer  # type: ignore[arg-type]
        found = await alerts.list_alerts(sink)
        await sink.close()
        return found

    found = asyncio.run(check())
    store.stop()
    assert asyncio.run(alerts.list_alerts(alerts.StoppedStore(store.path))) == found
    spike, demand = json.loads(json.dumps(found))
    assert spike == {
        "alert_id": "a0",
        "kind": "negative_spike",
        "product_id": "p1",
        "category": "kettles",
        "aspect": "packaging",
        "severity": 7,
        "state": "resolved",
        "opened_at": T0,
        "closed_at": T0 + 90_000,
        "window_start": T0 - 3_600_000,
        "window_end": T0,
        "observed": 12,
        "expected": 3.5,
        "band": [0, 8.25],
        "contributions": {"reviews": 0.75, "chats": 0.25, "clicks": 0},
        "evidence": [
            {"event_id": "r1", "text": "盒子破了 [red]torn[/red]", "spans": [[0, 4], [5, 9]]},
            {"event_id": "r2", "text": "crushed", "spans": []},
        ],
        "rule": "negative-spike",
        "rule_version": "3",
        "model": "demand/1",
        "updated_at": T0 + 90_000,
        "note": "",
        "cause": "opened: surprise 5.2 of 4.9",
        "statistic": "burst",
        "since": T0 - 3_600_000,
        "surprise": 5.2,
        "threshold": 4.9,
        "weight": 1,
        "reopened": 0,
        "until": None,
        "verdict": "",
        "group_key": "category=kettles label=packaging",
        "group_id": "g1",
        "origin": "organic",
        "origin_figures": {"texts": 14, "copied": 0},
        "impact": {"customers": 8.5, "revenue": 850},
    }
    assert (demand["demand"], demand["closed_at"], demand["evidence"]) == ("restock", None, [])
    assert "aspect" not in demand

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(alerts.as_table(found))
    shown = console.export_text()
    for words in (
        "2014-01-01 00:00:00",
        "resolved 2014-01-01 00:01:30",
        "3.5 (0–8.25)",
        "[red]torn[/red]",
        "all of kettles",
    ):
        assert words in shown


def test_a_table_shows_no_control_characters() -> None:
    found = {"closed": None, "held": None} | dict.fromkeys(("opened", "started", "ended", "updated", "begun"), T0)
    hostile = alerts._alert(rows.alert(alert()) | found | {"quote_text": ["\x1b[2J\x1b]0;x\x07 gone", "b"]})
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(alerts.as_table([hostile]))
    assert "\x1b" not in console.export_text()
    assert "\x07" not in console.export_text()


@pytest.mark.stack
async def test_an_alert_is_found_by_the_first_digits_of_its_id_and_has_its_newest_verdict(store: StoreProcess) -> None:
    def said(n: int, alert_id: str, action: str) -> dict[str, Any]:
        return to_dict(AlertAction(f"c{n}", alert_id, action, T0 + n, "ann", "", 0, 0))

    async with ChdbSink(store.address, database="radar") as sink:
        ids = ["3f2a" + "0" * 12, "3f2b" + "0" * 12, "77" + "0" * 14]
        await sink.write("alerts", [alert(alert_id=alert_id, opened_at=T0 + n) for n, alert_id in enumerate(ids)])
        assert (await alerts.find(sink, "3f2a"))["alert_id"] == ids[0]
        assert (await alerts.find(sink, ids[1]))["alert_id"] == ids[1]
        for wrong, reason in (("3f2", "no alert id"), ("x' OR 1", "no alert id"), ("9999", "no alert has an id")):
            with pytest.raises(alerts.NoAlert, match=reason):
                await alerts.find(sink, wrong)
        await sink.write("alerts", [alert(alert_id="3f2a1" + "0" * 11)])
        with pytest.raises(alerts.NoAlert, match="more than one"):
            await alerts.find(sink, "3f2a")

        actions = [said(1, ids[0], "useful"), said(2, ids[0], "not_useful"), said(3, ids[0], "ack")]
        await sink.write("alert_actions", [*actions, said(4, ids[2], "useful")])
        verdicts = {each.opened_at: each.verdict for each in await alerts.judged(sink) if each.opened_at > T0}
        assert verdicts == {T0 + 1: "", T0 + 2: "useful"}
        assert sorted(each.verdict for each in await alerts.judged(sink)) == ["", "", "not_useful", "useful"]


@pytest.mark.stack
async def test_following_shows_every_state_once_whatever_is_written_again(store: StoreProcess) -> None:
    sink, reader = ChdbSink(store.address, database="radar"), ChdbSink(store.address, database="radar")
    await sink.open()
    await reader.open()
    await sink.write("alerts", [alert()])
    seen: list[tuple[str, str]] = []

    async def watch() -> None:
        async for found in alerts.follow(reader, seconds=0.05):
            seen.append((found["alert_id"], found["state"]))  # noqa: PERF401

    watching = asyncio.create_task(watch())
    resolved = alert(state="resolved", closed_at=T0 + 1_000, updated_at=T0 + 1_000)
    for batch in ([alert()], [resolved], [alert(), resolved], [alert(1, updated_at=T0 - 5_000)]):
        await sink.write("alerts", batch)
        await asyncio.sleep(0.2)
    watching.cancel()
    assert seen == [("a0", "open"), ("a0", "resolved"), ("a1", "open")]
    await sink.close()
    await reader.close()


@pytest.mark.stack
async def test_the_source_is_the_store_and_after_it_stopped_the_directory(store: StoreProcess) -> None:
    settings = Settings(home=store.path.parent, sink="chdb", store=store.address, database="shop")
    async with alerts.source(settings) as source:
        assert isinstance(source, ChdbSink)
        await source.write("alerts", [alert()])
        running = await alerts.list_alerts(source)
    store.stop()
    async with alerts.source(settings) as source:
        assert source == alerts.StoppedStore(store.path, "shop")
        assert await alerts.list_alerts(source) == running != []
        with pytest.raises(SinkUnavailable, match="radar up"):
            await anext(alerts.follow(source))
    with pytest.raises(SinkUnavailable, match="radar up"):
        async with alerts.source(settings.model_copy(update={"home": store.path / "elsewhere"})):
            pass
