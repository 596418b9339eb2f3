"""What a server's refusal means, and which row caused it.

ClickHouse answers with a numeric code. A few codes say "not now" and become :class:`SinkUnavailable`; every other one
says that the same rows will be refused again and becomes :class:`SinkRejected`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson

from stream.columns import Columns
from stream.sinks.base import Row, SinkError, SinkRejected, SinkUnavailable
from stream.sinks.rows import Records, Table

#: What a record of another shape raises.
MISSHAPEN = (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError)
#: A full disk: NOT_ENOUGH_SPACE and, where that was not foreseen, CANNOT_WRITE_TO_FILE_DESCRIPTOR.
DISK = frozenset({243, 75})
#: Overload, lost peers, full disks, restarts. Names: system.errors of ClickHouse.
NOT_NOW = frozenset({
    159,  # TIMEOUT_EXCEEDED
    201,  # QUOTA_EXCEEDED
    202,  # TOO_MANY_SIMULTANEOUS_QUERIES
    203,  # NO_FREE_CONNECTION
    209,  # SOCKET_TIMEOUT
    210,  # NETWORK_ERROR
    241,  # MEMORY_LIMIT_EXCEEDED
    242,  # TABLE_IS_READ_ONLY
    252,  # TOO_MANY_PARTS
    285,  # TOO_FEW_LIVE_REPLICAS
    319,  # UNKNOWN_STATUS_OF_INSERT
    394,  # QUERY_WAS_CANCELLED
    425,  # SYSTEM_ERROR
    999,  # KEEPER_EXCEPTION
    *DISK,
})  # fmt: skip


def refusal(code: int, text: str) -> SinkError:
    """The exception for a server's error ``code`` and message."""
    summary = " ".join(text.partition("Stack trace:")[0].split())[:1_000]
    if code in DISK:
        summary += " Make room on the disk of the store: what waits is written then."
    return SinkUnavailable(summary) if code in NOT_NOW else SinkRejected(summary)


def to_columns(table: Table, records: Records) -> Columns:
    """The columns of ``records`` (at least one); :class:`SinkRejected` shows the first record of another shape."""
    try:
        return table.columns(records)
    except MISSHAPEN as error:
        for number, record in enumerate(records, 1):
            try:
                table.columns([record])
            except MISSHAPEN as reason:
                raise SinkRejected(_message(table, number, len(records), f"{reason!r}", record)) from reason
        raise SinkRejected(f"{table.physical}: the rows do not have one shape: {error!r}") from error


async def write_or_name_the_bad_row(table: Table, rows: Columns, insert: Callable[[Columns], Awaitable[None]]) -> None:
    """``insert`` the rows; when they are refused, halve them until one is left and show it.

    The good rows before it are written on the way, which does no harm: rows with equal keys replace each other.
    """
    try:
        await insert(rows)
        return
    except SinkRejected as error:
        reason = error
    first, end = 0, len(rows)  # rows[first:end] was refused
    while end - first > 1:
        middle = (first + end) // 2
        try:
            await insert(rows.cut(first, middle))
            first = middle
        except SinkRejected as error:
            reason, end = error, middle
    raise SinkRejected(_message(table, first + 1, len(rows), str(reason), next(iter(rows.cut(first, end))))) from reason


def _message(table: Table, number: int, count: int, reason: str, row: Row) -> str:
    try:
        shown = orjson.dumps(row, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # not even JSON, e.g. half a surrogate pair
        shown = ascii(row)
    return f"{table.physical} refuses row {number} of {count}: {reason}. The row: {shown[:500]}"
