"""Records become rows; refusals become exceptions. No server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from stream import records
from stream.columns import Columns
from stream.settings import Settings
from stream.sinks import open_sink, refusals, rows
from stream.sinks.base import SinkRejected, SinkUnavailable
from stream.windows.behaviour import PANE_FEATURES
from stream.windows.tallies import TEXT_FEATURES

T0 = 1_388_534_400_123  # 2014-01-01T00:00:00.123Z
LONE_SURROGATE = "half \ud83d"


def signal(n: int, **changes: Any) -> dict[str, Any]:
    record = records.Signal(
        signal_id=f"reviews/{n % 4}/{n}",
        event_id=f"r{n}",
        ts=T0 + n * 1000,
        channel="review",
        user_id=f"u{n % 7}",
        product_id=f"p{n % 5}",
        category="kettles",
        session_id="",
        rating=1 + n % 5,
        text=f"包装破了, the box {n} arrived torn 📦",
        language="zh",
        sentiment={"label": "negative", "score": -0.9375},
        aspects=[
            {"aspect": "packaging", "sentiment": "negative", "prob": 0.875, "evidence": [(0, 4), (10, 13)]},
            {"aspect": "logistics", "sentiment": "neutral", "prob": 0.5, "evidence": []},
        ],
        demands=[{"demand": "restock", "strength": 0.75, "prob": 0.625, "evidence": [(1, 2)]}] if n % 2 else [],
        keywords=["包装", "box"],
        entities=[{"type": "size", "text": "XL", "span": (3, 5)}],
        fingerprint="00ff00ff00ff00ff",
        late=n % 3 == 0,
        model="demand/1",
    )
    return records.to_dict(record) | changes


def alert(n: int = 0, **changes: Any) -> dict[str, Any]:
    record = records.Alert(
        alert_id=f"a{n}",
        kind="negative_spike",
        scope="product",
        product_id="p1",
        category="kettles",
        label="packaging",
        severity=7,
        state="open",
        opened_at=T0,
        closed_at=0,
        updated_at=T0,
        window_start=T0 - 3_600_000,
        window_end=T0,
        observed=12,
        expected=3.5,
        band=(0.0, 8.25),
        contributions={"reviews": 0.75, "chats": 0.25, "clicks": 0.0},
        evidence=[
            records.Quote("r1", "盒子破了 [red]torn[/red]", [(0, 4), (5, 9)]),
            records.Quote("r2", "crushed", []),
        ],
        rule="negative-spike",
        rule_version="3",
        model="demand/1",
        cause="opened: surprise 5.2 of 4.9",
        since=T0 - 3_600_000,
        surprise=5.2,
        threshold=4.9,
        group_key="category=kettles label=packaging",
        group_id="g1",
        origin="organic",
        origin_figures={"texts": 14.0, "copied": 0.0},
        impact={"customers": 8.5, "revenue": 850.0},
    )
    return records.to_dict(record) | changes


def session(n: int = 1) -> records.Session:
    return records.Session(
        session_key=f"u{n}/1",
        user_id=f"u{n}",
        session_id="s1",
        started_at=T0,
        ended_at=T0 + 60_000,
        events=14,
        views=9,
        dwell_ms=41_000,
        searches=2,
        empty_searches=1,
        carts=1,
        uncarts=0,
        favorites=1,
        checkouts=0,
        purchases=0,
        returns=0,
        abandoned=1,
        price_low=9.5,
        price_high=1299.0,
        compared=2,
        products=["p1", "p2"],
        chats=2,
        demands=["discount", "restock"],
        sentiment=-0.25,
        intent="comparing",
        cut=False,
    )


def window(n: int = 1, revision: int = 0, views: int = 7) -> dict[str, Any]:
    counts = dict.fromkeys(records.Window._fields[5:-2], 0) | {"views": views, "dwell_ms": 5_000_000_000, "reviews": 3}
    place = {"pane_start": T0, "scope": "product", "product_id": f"p{n}", "category": "kettles", "revision": revision}
    return place | counts | {"label": ["demand/restock", "negative/packaging"], "label_count": [1, 2]}


def one_of_each() -> dict[str, dict[str, Any]]:
    return {
        "signals": signal(1),
        "alerts": alert(),
        "alert_actions": records.to_dict(records.AlertAction("c1", "a0", "snooze", T0, "ann", "later", T0 + 60_000, 0)),
        "recommendations": records.to_dict(
            records.Recommendation(
                "t1",
                T0,
                "u1",
                "s1",
                "sold_out",
                "p1",
                [{"product_id": "p2", "score": 0.5, "reason": "same size"}],
                "why",
            )
        ),
        "sessions": records.to_dict(session()),
        "windows": window(),
        "deadletters": records.to_dict(records.DeadLetter("clicks", 1, 42, "not JSON", "{,")),
    }


def columns_of(statement: str) -> list[str]:
    body = statement[statement.index("(") + 1 : statement.index(") ENGINE")]
    return re.findall(r"^\s+(\w+) ", body, re.MULTILINE)


@pytest.mark.parametrize("name", rows.TABLES)
def test_a_row_has_exactly_the_columns_of_its_table(name: str) -> None:
    table = rows.table(name)
    statement = next(s for s in rows.ddl() if f"EXISTS {table.physical} (" in s)
    assert [*table.columns([one_of_each()[name]]).names, "ingested_at"] == columns_of(statement)


@pytest.mark.parametrize("name", rows.TABLES)
def test_public_name_is_a_view_that_sees_each_row_once(name: str) -> None:
    view = next(s for s in rows.ddl() if f"VIEW IF NOT EXISTS {name} " in s)
    assert f"FROM {rows.table(name).physical} FINAL" in view


def test_nothing_expires_by_event_time() -> None:
    ttls = [line for s in rows.ddl() for line in s.splitlines() if line.startswith("TTL")]
    assert len(ttls) == 5
    assert all(line.startswith("TTL ingested_at ") for line in ttls)


def test_signal_arrays_run_in_parallel() -> None:
    row = rows.signal(signal(1))
    assert row["ts"] == datetime(2014, 1, 1, 0, 0, 1, 123_000, UTC)
    assert list(zip(row["aspect"], row["aspect_sentiment"], row["aspect_prob"], strict=True)) == [
        ("packaging", "negative", 0.875),
        ("logistics", "neutral", 0.5),
    ]
    assert row["aspect_evidence"] == [[(0, 4), (10, 13)], []]
    assert (row["sentiment"], row["sentiment_score"], row["late"]) == ("negative", -0.9375, 0)


def test_an_open_alert_has_no_closing_time() -> None:
    assert rows.alert(alert())["closed_at"] is None
    assert rows.alert(alert(closed_at=T0))["closed_at"] == datetime(2014, 1, 1, 0, 0, 0, 123_000, UTC)


def test_a_session_or_window_of_another_shape_is_refused() -> None:
    for name, record in (("sessions", records.to_dict(session())), ("windows", window())):
        del record["views"]
        with pytest.raises(SinkRejected, match="row 1 of 1: KeyError"):
            refusals.to_columns(rows.table(name), [record])


def test_the_counts_of_windows_are_those_of_the_lanes_in_their_order() -> None:
    assert records.Window._fields[5:-2] == (*PANE_FEATURES, *TEXT_FEATURES)


@pytest.mark.parametrize("ms", [0, 1, 999, 1_700_000_000_001, 4_102_444_800_999])
def test_a_moment_keeps_its_milliseconds(ms: int) -> None:
    when = rows.moment(ms)
    assert int(when.replace(microsecond=0).timestamp()) * 1000 + when.microsecond // 1000 == ms


@pytest.mark.parametrize(
    "changes",
    [{"ts": "yesterday"}, {"ts": 10**16}, {"ts": -1}, {"rating": 300}, {"aspects": [{}]}, {"sentiment": None}],
)
def test_a_record_of_another_shape_is_named(changes: dict[str, Any]) -> None:
    batch = [signal(0), signal(1), signal(2, **changes), signal(3)]
    with pytest.raises(SinkRejected, match=r"row 3 of 4.*reviews/2/2"):
        refusals.to_columns(rows.table("signals"), batch)


def test_an_unknown_table_says_which_there_are() -> None:
    with pytest.raises(ValueError, match="signals, alerts"):
        rows.table("signal")


@pytest.mark.parametrize("bad", [{0}, {9}, {4, 7}, set(range(10))])
def test_the_first_bad_row_is_found_and_those_before_it_are_written(bad: set[int]) -> None:
    written: list[int] = []

    async def insert(part: Columns) -> None:
        if any(row["n"] in bad for row in part):
            raise SinkRejected("no")
        written.extend(row["n"] for row in part)

    batch = Columns({"n": list(range(10))})
    first = min(bad)
    with pytest.raises(
        SinkRejected, match=rf"signals_v1 refuses row {first + 1} of 10: no. The row: {{\"n\":{first}}}"
    ):
        asyncio.run(refusals.write_or_name_the_bad_row(rows.table("signals"), batch, insert))
    assert sorted(set(written)) == list(range(first))


def test_a_row_that_is_not_even_json_can_be_shown() -> None:
    async def insert(part: Columns) -> None:
        raise SinkRejected("no")

    bad = Columns({"text": [LONE_SURROGATE]})
    with pytest.raises(SinkRejected, match="half"):
        asyncio.run(refusals.write_or_name_the_bad_row(rows.table("signals"), bad, insert))


@pytest.mark.parametrize(("code", "error"), [(241, SinkUnavailable), (252, SinkUnavailable), (27, SinkRejected)])
def test_overload_is_told_from_refusal(code: int, error: type[Exception]) -> None:
    assert type(refusals.refusal(code, "text")) is error


def test_open_sink_follows_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from stream.sinks.chdb import ChdbSink
    from stream.sinks.clickhouse import ClickHouseSink

    kinds: dict[str, Callable[..., object]] = {"chdb": ChdbSink, "clickhouse": ClickHouseSink}
    for name, kind in kinds.items():
        assert type(open_sink(Settings(sink=name))) is kind
    with pytest.raises(ValueError, match="RADAR_SINK"):
        open_sink(Settings(sink="oracle"))
    with pytest.raises(ValueError, match="host:port"):
        open_sink(Settings(sink="clickhouse", clickhouse="somewhere"))
