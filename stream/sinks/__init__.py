"""Where results go. ``base`` is the contract, ``rows`` the shapes, ``schema/*.sql`` the tables, one file per server."""

from __future__ import annotations

from stream.settings import Settings
from stream.sinks.base import Sink


def open_sink(settings: Settings) -> Sink:
    """The sink that the settings name. The caller awaits ``open()`` before use and ``close()`` after it."""
    if settings.sink == "clickhouse":
        from stream.sinks.clickhouse import ClickHouseSink

        return ClickHouseSink(
            settings.clickhouse,
            user=settings.clickhouse_user,
            password=settings.clickhouse_password.get_secret_value(),
            database=settings.database,
        )
    if settings.sink == "chdb":
        from stream.sinks.chdb import ChdbSink

        return ChdbSink(settings.store, database=settings.database)
    raise ValueError(f"RADAR_SINK is {settings.sink!r}: set it to 'chdb' or 'clickhouse'")
