"""Everything that the radar has concluded, in one form: runs over the same topics give the same bytes.

One JSON object a line, with its table and sorted keys, ordered by table, day of event time and line. Left out is what a
run adds of its own: the time of writing, and ``RADAR_PREFIX`` in the names of topics. Times are epoch milliseconds.
Both kinds of sink give the same bytes. Memory holds one day of one table.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from functools import cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from stream.alerts import Source, StoppedStore, source
from stream.settings import Settings
from stream.sinks.rows import ddl

#: What is read for each table of the dump, and the column of its event time.
TABLES: Final = {
    "alert_actions": ("alert_actions", "ts"),
    "alerts": ("alert_transitions", "updated_at"),
    "deadletters": ("deadletters", ""),
    "recommendations": ("recommendations", "ts"),
    "sessions": ("sessions", "started_at"),
    "signals": ("signals", "ts"),
    "windows": ("windows", "pane_start"),
}
OWN: Final = "ingested_at"  # the one column that is about the writing of a row


class Sum(NamedTuple):
    """A table in short: equal sums, equal tables."""

    table: str
    rows: int
    sha256: str


async def canonical(settings: Settings, tables: Iterable[str] = TABLES) -> AsyncIterator[tuple[str, bytes]]:
    """The lines of ``tables`` with the table of each, from the sink that the settings name or the directory that a
    stopped stack left. Raises :class:`~stream.sinks.base.SinkError`."""
    async with source(settings) as store:
        for table in sorted(tables):
            for where in await _days(store, table):
                rows = await _ask(store, f"SELECT {_columns(table)} FROM {TABLES[table][0]} WHERE {where}")
                for line in sorted(_line(table, row, settings.prefix) for row in rows):
                    yield table, line


async def sums(settings: Settings, tables: Iterable[str] = TABLES) -> list[Sum]:
    """Number of rows and SHA-256 of the lines of each table."""
    counts, digests = dict.fromkeys(sorted(tables), 0), {table: sha256() for table in tables}
    async for table, line in canonical(settings, tables):
        counts[table] += 1
        digests[table].update(line)
    return [Sum(table, count, digests[table].hexdigest()) for table, count in counts.items()]


async def _days(store: Source, table: str) -> list[str]:
    """Conditions that cut a table into its days, in order."""
    view, time = TABLES[table]
    if not time:
        return ["1"]
    days = await _ask(store, f"SELECT DISTINCT toString(toDate({time})) AS day FROM {view} ORDER BY day")
    return [f"toDate({time}) = '{day['day']}'" for day in days]


async def _ask(store: Source, sql: str) -> list[dict[str, Any]]:
    if isinstance(store, StoppedStore):
        from stream.sinks.chdb import query_directory

        return await asyncio.to_thread(query_directory, store.path, sql, store.database)
    return await store.query(sql)


def _columns(table: str) -> str:
    """What to select: times as numbers, under names that ClickHouse does not take for the columns themselves."""
    return ", ".join(
        f"toUnixTimestamp64Milli({name}) AS {name}_" if "DateTime64" in kind else f"`{name}` AS {name}_"
        for name, kind in _types(table)
    )


@cache
def _types(table: str) -> list[tuple[str, str]]:
    """Names and types of the columns of a dumped table."""
    schema = "\n".join(ddl())
    physical = re.findall(rf"^CREATE VIEW IF NOT EXISTS {TABLES[table][0]} AS\s.*?FROM (\w+)", schema, re.M)[0]
    body = re.findall(rf"^CREATE TABLE IF NOT EXISTS {physical} \((.*?)^\)", schema, re.M | re.S)[0]
    return [(name, kind) for name, kind in re.findall(r"^    (\w+) (.+?),?$", body, re.M) if name != OWN]


def _line(table: str, row: dict[str, Any], prefix: str) -> bytes:
    values: dict[str, Any] = {"table": table}
    for name, kind in _types(table):
        value = row[f"{name}_"]
        if kind == "Float64":  # in the JSON of chDB, 1 is a float too
            value = float(value)
        elif kind == "Array(Float64)":
            value = [float(each) for each in value]
        values[name] = value
    if table == "deadletters":
        values["topic"] = values["topic"].removeprefix(prefix)
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
