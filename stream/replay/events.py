"""What an event is before it is a Kafka record, and files of them.

An *event file* is JSONL in the order of arrival, ``{"topic", "key", "value"}`` a line (``docs/events.md``). Several
files are merged by event time while they are read, so memory stays small whatever their size, and the order within
each file stays as it is: an event that came late comes late again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import orjson

from stream.events import SOURCES

TOPICS: Final = (*SOURCES, "catalog")


class Event(NamedTuple):
    """One record before it is one: ``value`` is the event, or text that is sent just as it is (an invalid record)."""

    topic: str
    key: str | None
    value: dict[str, Any] | str
    ts: int

    def line(self) -> bytes:
        """This event as a line of an event file."""
        return orjson.dumps(
            {"topic": self.topic, "key": self.key, "value": self.value}, option=orjson.OPT_APPEND_NEWLINE
        )

    def payload(self) -> bytes:
        return self.value.encode() if isinstance(self.value, str) else orjson.dumps(self.value)


class BadEventFile(ValueError):
    """A line that is no event; the message names file and line and says what to do."""


class EventFiles:
    """The events of several files, merged by event time; each iteration reads them again from the start.

    Raises :class:`BadEventFile` at a line that is no event. With ``keep_invalid`` a value that is not a readable event
    is passed on as it is, for the worker to reject.
    """

    def __init__(self, files: Sequence[Path], keep_invalid: bool = False) -> None:
        self._files, self._keep_invalid = files, keep_invalid
        self._open: dict[Path, IO[bytes]] = {}

    def __iter__(self) -> Iterator[Event]:
        if len(self._files) == 1:
            return self._read(self._files[0])
        return merged([self._read(path) for path in self._files])

    def done(self) -> float:
        """How much of the files the latest iteration has read, from 0 to 1."""
        size = sum(path.stat().st_size for path in self._files)
        read = sum(path.stat().st_size if file.closed else file.tell() for path, file in self._open.items())
        return read / size if size else 1.0

    def _read(self, path: Path) -> Iterator[Event]:
        ts = 0  # a record without a time belongs where it stands
        with path.open("rb") as lines:
            self._open[path] = lines
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    continue
                try:
                    event = _read_line(line, ts, self._keep_invalid)
                except ValueError as error:
                    raise BadEventFile(f"{path}:{number}: {error}") from error
                ts = event.ts
                yield event


def read_events(files: Sequence[Path], keep_invalid: bool = False) -> Iterator[Event]:
    """The events of :class:`EventFiles`, once."""
    return iter(EventFiles(files, keep_invalid))


def merged(streams: Iterable[Iterable[Event]]) -> Iterator[Event]:
    """Streams as one, each in its own order: an event takes its turn by the newest event time of its stream so far."""
    return map(itemgetter(1), merge(*map(_with_clock, streams), key=itemgetter(0)))


def _with_clock(events: Iterable[Event]) -> Iterator[tuple[int, Event]]:
    newest = 0
    for event in events:
        newest = max(newest, event.ts)
        yield newest, event


def _read_line(line: bytes, ts: int, keep_invalid: bool) -> Event:
    try:
        record = orjson.loads(line)
        topic, key, value = record["topic"], record["key"], record["value"]
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error}); remove the line or record it again") from error
    except (TypeError, KeyError) as error:
        raise ValueError('expected {"topic": …, "key": …, "value": …}; is this an event file?') from error
    if topic not in TOPICS:
        raise ValueError(f"unknown topic {topic!r}; expected one of {', '.join(TOPICS)}")
    if key is not None and type(key) is not str:
        raise ValueError(f"the key has to be text or null, not {key!r}")
    if type(value) is dict and topic == "catalog":
        return Event(topic, key, value, record.get("ts", ts))
    if type(value) is dict and type(value.get("ts")) is int:
        return Event(topic, key, value, value["ts"])
    if not keep_invalid:
        raise ValueError(
            "the value is no event with a time 'ts' in epoch milliseconds; --keep-invalid sends it as it is"
        )
    return Event(topic, key, value if type(value) in (dict, str) else orjson.dumps(value).decode(), ts)


def write_events(events: Iterable[Event], path: Path) -> Counter[str]:
    """Writes an event file; returns the number of events per topic."""
    written: Counter[str] = Counter()
    with path.open("wb") as file:
        for event in events:
            file.write(event.line())
            written[event.topic] += 1
    return written
