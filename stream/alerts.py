"""Reading alerts back, for people and for programs.

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

from stream.settings import Settings
from stream.sinks import open_sink
from stream.sinks.base import Sink, SinkUnavailable

#: What the label of each kind is called outside, in its place among FIELDS.
LABEL = {"negative_spike": "aspect", "demand_surge": "demand"}
KINDS, STATES = tuple(LABEL), ("open", "resolved")
FIELDS = (
    "alert_id", "kind", "product_id", "category", "label", "severity", "state", "opened_at", "closed_at",
    "window_start", "window_end", "observed", "expected", "band", "contributions", "evidence", "rule", "rule_version",
    "model",
)  # fmt: skip

SELECT = """
SELECT alert_id, kind, product_id, category, label, severity, state,
       toUnixTimestamp64Milli(opened_at) AS opened, toUnixTimestamp64Milli(closed_at) AS closed,
       toUnixTimestamp64Milli(updated_at) AS updated,
       toUnixTimestamp64Milli(window_start) AS started, toUnixTimestamp64Milli(window_end) AS ended,
       observed, expected, band_lo, band_hi, source, source_share, quote_event_id, quote_text, quote_spans,
       rule, rule_version, model, toUnixTimestamp(ingested_at) AS ingested
"""
UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
#: A row may become visible some seconds after the time the server stamped on it.
OVERLAP_SECONDS = 60

Alert = dict[str, Any]


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
    sql = f"{SELECT} FROM alerts WHERE {where} ORDER BY updated DESC, alert_id"
    if isinstance(source, Sink):
        rows = await source.query(sql)
    else:
        from stream.sinks.chdb import query_directory

        rows = await asyncio.to_thread(query_directory, source.path, sql, source.database)
    return [_alert(row) for row in rows]


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
    table = Table("opened", "state", "sev", "what", "where", "seen", "expected", "says")
    for alert in alerts:
        quote = alert["evidence"][0]["text"] if alert["evidence"] else ""
        lo, hi = alert["band"]
        closed = f" {human(alert['closed_at'])}" if alert["closed_at"] else ""
        row = (
            human(alert["opened_at"]),
            f"{alert['state']}{closed}",
            str(alert["severity"]),
            f"{alert['kind']}: {label_of(alert)}",
            place_of(alert),
            f"{alert['observed']:g}",
            f"{alert['expected']:.3g} ({lo:.3g}–{hi:.3g})",
            quote if len(quote) <= 60 else quote[:59] + "…",
        )
        # Text, not markup: brackets and control characters in a customer's words mean nothing here.
        table.add_row(*(Text("".join(c if c.isprintable() else " " for c in cell)) for cell in row))
    return table


def label_of(alert: Alert) -> str:
    """The aspect or demand that an alert is about."""
    return str(alert.get("aspect") or alert.get("demand") or alert.get("label") or "")


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
        "band": [row["band_lo"], row["band_hi"]],
        "contributions": dict(zip(row["source"], row["source_share"], strict=True)),
        "evidence": [
            {"event_id": event_id, "text": text, "spans": [list(span) for span in spans]}
            for event_id, text, spans in zip(row["quote_event_id"], row["quote_text"], row["quote_spans"], strict=True)
        ],
    }
    return {LABEL.get(row["kind"], field) if field == "label" else field: values[field] for field in FIELDS}
