"""Reading alerts back, for people and for programs, and saying what an operator does with one.

The functions read from an open :class:`~stream.sinks.base.Sink` or, after the stack stopped, from its chDB directory:
:func:`source` finds out which.
An alert leaves here as a plain object with the fields of :data:`FIELDS`, times in epoch milliseconds; the table shows
the same in words.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from stream.detect.feedback import Judged
from stream.detect.lifecycle import Action, action_id
from stream.security import client_security
from stream.settings import Settings
from stream.sinks import open_sink
from stream.sinks.base import Sink, SinkUnavailable
from stream.sinks.kafka import KafkaOut

#: What the label of each kind is called outside, in its place among FIELDS.
LABEL = {
    "negative_spike": "aspect", "demand_surge": "demand", "price_sensitivity": "demand", "stock_risk": "label",
    "unmet_demand": "term", "silence": "label",
}  # fmt: skip
KINDS, STATES = tuple(LABEL), ("open", "acknowledged", "silenced", "snoozed", "resolved")
FIELDS = (
    "alert_id", "kind", "product_id", "category", "label", "severity", "state", "opened_at", "closed_at",
    "window_start", "window_end", "observed", "expected", "band", "contributions", "evidence", "rule", "rule_version",
    "model", "updated_at", "note", "cause", "statistic", "since", "surprise", "threshold", "weight", "reopened",
    "until", "verdict", "group_key", "group_id", "origin", "origin_figures",
    "impact",
)  # fmt: skip

SELECT = """
SELECT alert_id, kind, product_id, category, label, severity, state,
       toUnixTimestamp64Milli(opened_at) AS opened, toUnixTimestamp64Milli(closed_at) AS closed,
       toUnixTimestamp64Milli(updated_at) AS updated,
       toUnixTimestamp64Milli(window_start) AS started, toUnixTimestamp64Milli(window_end) AS ended,
       observed, expected, band_lo, band_hi, source, source_share, quote_event_id, quote_text, quote_spans,
       rule, rule_version, model, note, cause, statistic, toUnixTimestamp64Milli(since) AS begun, surprise, threshold,
       weight, reopened, toUnixTimestamp64Milli(until) AS held, verdict, group_key, group_id,
       origin, origin_figure, origin_value, impact_figure, impact_value, toUnixTimestamp(ingested_at) AS ingested
"""
#: Alerts with their newest verdict.
JUDGED = """
SELECT rule, toUnixTimestamp64Milli(opened_at) AS opened, said
FROM alerts LEFT JOIN (
    SELECT alert_id, argMax(action, ts) AS said FROM alert_actions
    WHERE action IN ('useful', 'not_useful') GROUP BY alert_id
) AS labels USING alert_id
ORDER BY opened, rule
"""
UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
#: A row may become visible some seconds after the time the server stamped on it.
OVERLAP_SECONDS = 60
TAKEN_SECONDS = 10.0  # a worker takes an action within a moment

Alert = dict[str, Any]


class NoAlert(ValueError):
    """The id of an alert that is not there; the message says what to do."""


class StoppedStore(NamedTuple):
    """A chDB directory that no store serves now."""

    path: Path
    database: str = "radar"


Source = Sink | StoppedStore


@asynccontextmanager
async def source(settings: Settings) -> AsyncIterator[Source]:
    """The sink that the settings name, open; in place of an embedded store that does not run, its directory."""
    sink = open_sink(settings)
    try:
        await sink.open()
    except SinkUnavailable:
        await sink.close()
        directory = settings.home / "chdb"
        if settings.sink != "chdb" or not directory.is_dir():
            raise
        yield StoppedStore(directory, settings.database)
        return
    try:
        yield sink
    finally:
        await sink.close()


async def list_alerts(
    source: Source, *, since: int | None = None, kind: str | None = None, state: str | None = None
) -> list[Alert]:
    """Alerts in their newest state, the latest change first.

    ``since``, in epoch milliseconds of event time, keeps those that opened, changed or closed then or later.
    """
    where = _where(since, kind, state)
    rows = await _ask(source, f"{SELECT} FROM alerts WHERE {where} ORDER BY updated DESC, alert_id")
    return [_alert(row) for row in rows]


async def find(source: Source, alert_id: str) -> Alert:
    """The alert with this id, or with an id that begins so. Raises :class:`NoAlert`."""
    if not re.fullmatch(r"[0-9a-f]{4,16}", alert_id):
        raise NoAlert(
            f"{alert_id!r} is no alert id: say 4 to 16 of its hexadecimal digits; `radar alerts --json` has them"
        )
    rows = await _ask(source, f"{SELECT} FROM alerts WHERE startsWith(alert_id, '{alert_id}') LIMIT 2")
    if len(rows) != 1:
        raise NoAlert(f"{'no' if not rows else 'more than one'} alert has an id that begins with {alert_id}")
    return _alert(rows[0])


async def judged(source: Source) -> list[Judged]:
    """Every alert with its newest verdict."""
    return [Judged(row["rule"], row["opened"], row["said"]) for row in await _ask(source, JUDGED)]


async def say(settings: Settings, alert: Alert, action: Action) -> Alert | None:
    """Tell the worker that has ``alert`` what an operator does; the state that follows.

    None: no worker has taken it within :data:`TAKEN_SECONDS`; it will when it runs. The action goes into the topic
    ``signals``, where the alert's own counts come from, so its place among the panes is the same after any restart.
    Raises :class:`~stream.sinks.base.SinkError`.
    """
    out = KafkaOut(settings.brokers, client_security(settings))
    key = alert["product_id"] or f"category/{alert['category']}"
    try:
        await out.send(settings.topic("signals"), [(key, {"kind": "action", **action._asdict()})])
    finally:
        await out.close()
    async with source(settings) as store:
        for _ in range(int(TAKEN_SECONDS / 0.2)):
            if await _ask(store, f"SELECT 1 AS taken FROM alert_actions WHERE action_id = '{action_id(action)}'"):
                return await find(store, alert["alert_id"])
            await asyncio.sleep(0.2)
    return None


async def _ask(source: Source, sql: str) -> list[dict[str, Any]]:
    if isinstance(source, Sink):
        return await source.query(sql)
    from stream.sinks.chdb import query_directory

    return await asyncio.to_thread(query_directory, source.path, sql, source.database)


async def follow(
    source: Source, *, since: int | None = None, kind: str | None = None, state: str | None = None, seconds: float = 1.0
) -> AsyncIterator[Alert]:
    """Every state of every alert once, as they arrive; looks again each ``seconds``. Runs until the caller stops."""
    if isinstance(source, StoppedStore):
        raise SinkUnavailable("Nothing writes alerts now: start the stack with `radar up`, or leave out --follow")
    where = _where(since, kind, state)
    seen: set[tuple[str, int]] = set()  # alert and time of its state; a worker that restarts writes some again
    newest = 0
    while True:
        recent = f"ingested_at >= toDateTime({max(newest - OVERLAP_SECONDS, 0)})"
        rows = await source.query(
            f"{SELECT} FROM alert_transitions WHERE {where} AND {recent} ORDER BY updated, alert_id"
        )
        for row in rows:
            newest = max(newest, row["ingested"])
            if (row["alert_id"], row["updated"]) not in seen:
                seen.add((row["alert_id"], row["updated"]))
                yield _alert(row)
        await asyncio.sleep(seconds)


def since_ms(text: str, now_ms: int) -> int:
    """``2h``, ``3d``, an ISO 8601 time (UTC unless it says otherwise) or epoch milliseconds, as epoch milliseconds."""
    text = text.strip()
    if ago := re.fullmatch(r"(\d+)([smhdw])", text):
        return now_ms - int(ago[1]) * UNITS_MS[ago[2]]
    if re.fullmatch(r"\d{9,}", text):
        return int(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"cannot read {text!r} as a time: say 2h, 3d, 2026-01-31T08:00 or epoch milliseconds"
        ) from None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def as_table(alerts: Iterable[Alert]) -> Table:
    """The alerts as a table for a terminal, one row each; times are UTC."""
    table = Table("id", "opened", "state", "sev", "what", "where", "seen", "expected", "says")
    for alert in alerts:
        quote = alert["evidence"][0]["text"] if alert["evidence"] else ""
        lo, hi = alert["band"]
        closed = f" {human(alert['closed_at'])}" if alert["closed_at"] else ""
        row = (
            alert["alert_id"][:8],
            human(alert["opened_at"]),
            f"{alert['state']}{closed}",
            str(alert["severity"]),
            f"{alert['kind']}: {label_of(alert)}",
            place_of(alert) + (" (coordinated?)" if alert["origin"] == "coordinated" else ""),
            f"{alert['observed']:g}",
            f"{alert['expected']:.3g} ({lo:.3g}–{hi:.3g})",
            quote if len(quote) <= 60 else quote[:59] + "…",
        )
        # Text, not markup: brackets and control characters in a customer's words mean nothing here.
        table.add_row(*(Text("".join(c if c.isprintable() else " " for c in cell)) for cell in row))
    return table


def label_of(alert: Alert) -> str:
    """The aspect or demand that an alert is about."""
    return str(alert.get(LABEL.get(alert["kind"], "label")) or alert.get("label") or "")


def place_of(about: Alert) -> str:
    """Where it rises, for a person: a product, or a whole category."""
    return about["product_id"] or f"all of {about['category']}"


def human(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _where(since: int | None, kind: str | None, state: str | None) -> str:
    for name, value, allowed in (("kind", kind, KINDS), ("state", state, STATES)):
        if value is not None and value not in allowed:
            raise ValueError(f"{name} {value!r}: say {' or '.join(allowed)}")
    conditions = ["1"]
    if since is not None:
        conditions.append(f"updated_at >= fromUnixTimestamp64Milli({int(since)}, 'UTC')")
    if kind is not None:
        conditions.append(f"kind = '{kind}'")
    if state is not None:
        conditions.append(f"state = '{state}'")
    return " AND ".join(conditions)


def _alert(row: dict[str, Any]) -> Alert:
    values = row | {
        "opened_at": row["opened"],
        "closed_at": row["closed"],
        "window_start": row["started"],
        "window_end": row["ended"],
        "updated_at": row["updated"],
        "since": row["begun"],
        "until": row["held"],
        "origin_figures": dict(zip(row["origin_figure"], row["origin_value"], strict=True)),
        "impact": dict(zip(row["impact_figure"], row["impact_value"], strict=True)),
        "band": [row["band_lo"], row["band_hi"]],
        "contributions": dict(zip(row["source"], row["source_share"], strict=True)),
        "evidence": [
            {"event_id": event_id, "text": text, "spans": [list(span) for span in spans]}
            for event_id, text, spans in zip(row["quote_event_id"], row["quote_text"], row["quote_spans"], strict=True)
        ],
    }
    return {LABEL.get(row["kind"], field) if field == "label" else field: values[field] for field in FIELDS}
