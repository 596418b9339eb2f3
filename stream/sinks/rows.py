"""From records to table rows: the one place that knows both shapes.

What goes to the server are exactly the columns of ``schema/<table>.sql`` that a worker writes (``ingested_at`` comes
from the server); times are aware datetimes or arrays of ``datetime64[ms]``, nested lists become parallel arrays. The
functions are pure and raise ``KeyError``, ``TypeError`` or ``ValueError`` on a record of another shape. Physical tables
carry a version: whoever changes a column adds the ``_v2`` table to the schema file, points the view at it and changes
the name here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stream.columns import Columns
from stream.records import Recommendation, Session, Window
from stream.sinks.base import Row

SCHEMA = Path(__file__).parent / "schema"
END_MS = 9_214_646_400_000  # 2262-01-01: DateTime64 ends soon after
SESSION = tuple(field.name for field in fields(Session))
Records = Sequence[Row] | Columns


def signal(record: Row) -> dict[str, Any]:
    aspects, demands, entities = record["aspects"], record["demands"], record["entities"]
    return {
        "signal_id": record["signal_id"],
        "event_id": record["event_id"],
        "ts": moment(record["ts"]),
        "channel": record["channel"],
        "user_id": record["user_id"],
        "product_id": record["product_id"],
        "category": record["category"],
        "session_id": record["session_id"],
        "rating": small(record["rating"]),
        "text": record["text"],
        "language": record["language"],
        "sentiment": record["sentiment"]["label"],
        "sentiment_score": record["sentiment"]["score"],
        "aspect": [a["aspect"] for a in aspects],
        "aspect_sentiment": [a["sentiment"] for a in aspects],
        "aspect_prob": [a["prob"] for a in aspects],
        "aspect_evidence": [a["evidence"] for a in aspects],
        "demand": [d["demand"] for d in demands],
        "demand_strength": [d["strength"] for d in demands],
        "demand_prob": [d["prob"] for d in demands],
        "demand_evidence": [d["evidence"] for d in demands],
        "keywords": record["keywords"],
        "entity_type": [e["type"] for e in entities],
        "entity_text": [e["text"] for e in entities],
        "entity_start": [e["span"][0] for e in entities],
        "entity_end": [e["span"][1] for e in entities],
        "fingerprint": record["fingerprint"],
        "late": int(record["late"]),
        "model": record["model"],
    }


def alert(record: Row) -> dict[str, Any]:
    lo, hi = record["band"]
    quotes, shares = record["evidence"], record["contributions"]
    return {
        "alert_id": record["alert_id"],
        "kind": record["kind"],
        "scope": record["scope"],
        "product_id": record["product_id"],
        "category": record["category"],
        "label": record["label"],
        "severity": small(record["severity"]),
        "state": record["state"],
        "opened_at": moment(record["opened_at"]),
        "closed_at": moment(record["closed_at"]) if record["closed_at"] else None,
        "updated_at": moment(record["updated_at"]),
        "window_start": moment(record["window_start"]),
        "window_end": moment(record["window_end"]),
        "observed": record["observed"],
        "expected": record["expected"],
        "band_lo": lo,
        "band_hi": hi,
        "source": list(shares),
        "source_share": list(shares.values()),
        "quote_event_id": [q["event_id"] for q in quotes],
        "quote_text": [q["text"] for q in quotes],
        "quote_spans": [q["spans"] for q in quotes],
        "rule": record["rule"],
        "rule_version": record["rule_version"],
        "model": record["model"],
        "note": record["note"],
        "cause": record["cause"],
        "statistic": record["statistic"],
        "since": moment(record["since"]),
        "surprise": record["surprise"],
        "threshold": record["threshold"],
        "weight": record["weight"],
        "reopened": record["reopened"],
        "until": moment(record["until"]) if record["until"] else None,
        "verdict": record["verdict"],
        "group_key": record["group_key"],
        "group_id": record["group_id"],
        "origin": record["origin"],
        "origin_figure": list(record["origin_figures"]),
        "origin_value": list(record["origin_figures"].values()),
        "impact_figure": list(record["impact"]),
        "impact_value": list(record["impact"].values()),
    }


def alert_action(record: Row) -> dict[str, Any]:
    return {
        "action_id": record["action_id"],
        "alert_id": record["alert_id"],
        "action": record["action"],
        "ts": moment(record["ts"]),
        "author": record["by"],
        "note": record["note"],
        "until": moment(record["until"]) if record["until"] else None,
        "duration": record["duration"],
    }


def recommendations(records: Records) -> Columns:
    columns = _named(records, Recommendation._fields)
    columns["ts"] = moments(columns["ts"])
    lists = columns.pop("products")
    for name, part in (("recommended", "product_id"), ("recommended_score", "score"), ("recommended_reason", "reason")):
        columns[name] = [[product[part] for product in products] for products in lists]
    columns["reason"] = columns.pop("reason")  # the last column
    return Columns(columns)


def sessions(records: Records) -> Columns:
    columns = _named(records, SESSION)
    for name in ("started_at", "ended_at"):
        columns[name] = moments(columns[name])
    columns["cut"] = np.asarray(columns["cut"], np.uint8)
    return Columns(columns)


def windows(records: Records) -> Columns:
    columns = _named(records, Window._fields)
    columns["pane_start"] = moments(columns["pane_start"])
    return Columns(columns)


def _named(records: Records, names: Sequence[str]) -> dict[str, Any]:
    table = records if isinstance(records, Columns) else Columns.of(records)
    if sorted(table.names) != sorted(names):
        raise KeyError(f"expected the fields {', '.join(names)}; found {', '.join(table.names)}")
    return {name: table[name] for name in names}


def deadletter(record: Row) -> dict[str, Any]:
    return {name: record[name] for name in ("topic", "partition", "offset", "reason", "payload")}


def moment(epoch_ms: int) -> datetime:
    """Epoch milliseconds as an aware datetime; out of the range of DateTime64 is a ``ValueError``."""
    if not 0 <= epoch_ms < END_MS:
        raise ValueError(f"time {epoch_ms} is not between 1970 and 2262")
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def moments(epoch_ms: Any) -> Any:
    """The same for a column, as an array of ``datetime64[ms]`` in UTC."""
    times = np.asarray(epoch_ms)
    if times.dtype != np.int64:
        raise TypeError("times are whole milliseconds")
    for wrong in times[(times < 0) | (times >= END_MS)][:1].tolist():
        moment(wrong)
    return times.astype("M8[ms]")


def small(number: int) -> int:
    """A number that fits UInt8; ClickHouse would keep the lowest 8 bits of any other without a word."""
    if not 0 <= number <= 255:
        raise ValueError(f"{number} is not between 0 and 255")
    return number


class Table(NamedTuple):
    physical: str
    columns: Callable[[Records], Columns]


def each(row: Callable[[Row], dict[str, Any]]) -> Callable[[Records], Columns]:
    """Columns from records one by one."""
    return lambda records: Columns.of([row(record) for record in records])


TABLES: dict[str, Table] = {
    "signals": Table("signals_v1", each(signal)),
    "alerts": Table("alerts_v2", each(alert)),
    "alert_actions": Table("alert_actions_v1", each(alert_action)),
    "recommendations": Table("recommendations_v1", recommendations),
    "sessions": Table("sessions_v2", sessions),
    "windows": Table("windows_v1", windows),
    "deadletters": Table("deadletters_v1", each(deadletter)),
}


def table(name: str) -> Table:
    """The table called ``name``; a ``ValueError`` lists the ones there are."""
    try:
        return TABLES[name]
    except KeyError:
        raise ValueError(f"no table {name!r}; there are {', '.join(TABLES)}") from None


def ddl() -> list[str]:
    """Every statement of ``schema/*.sql``, in order and without a database name: run them in the one you want."""
    statements = []
    for path in sorted(SCHEMA.glob("*.sql")):
        lines = (line for line in path.read_text().splitlines() if not line.lstrip().startswith("--"))
        statements += [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]
    return statements
