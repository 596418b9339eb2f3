"""Reads public data sets and other people's exports as events, for ``radar import``.

Each importer gives :class:`~stream.replay.Event` in the order of event time. A row that cannot be used is skipped,
counted and explained in the :class:`Report`, with file, line and remedy; a file that cannot be used at all raises
:class:`BadFile`. Event ids come from the content (of reviews also from the line, because two people may write the
same), so importing a file again gives the same ids and the radar counts nothing twice. Files that are not in the order
of time are sorted in temporary files and need little memory; only reviews without times are kept in memory.

=============  ==========================================================================================
``reviews``    CSV or JSON lines, also inside a .zip: one review a row, columns found by name or named by you
``yoochoose``  RecSys 2015: the prepared tab-separated files, and the original clicks and buys
``rees46``     REES46 Open CDP ("eCommerce behavior data"): a month as CSV
``otto``       OTTO RecSys 2022: one session a line
=============  ==========================================================================================
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, Final
from zipfile import BadZipFile, ZipFile

import orjson

from stream.records import content_id
from stream.replay import Event

DEFAULT_START: Final = 1_767_225_600_000  # 1 January 2026 UTC, for reviews without times
SORT_CHUNK: Final = 500_000
MOST_NOTES: Final = 20

#: Column names by which ``reviews`` finds what it needs, best first.
ALIASES: Final = {
    "text": ("text", "review", "sentence", "comment", "content", "review_body", "reviewText"),
    "rating": ("rating", "stars", "score", "star_rating", "overall"),
    "label": ("label", "sentiment"),
    "product": ("product_id", "product", "cat", "category", "asin"),
    "user": ("user_id", "user", "customer_id", "reviewerID"),
    "time": ("ts", "time", "timestamp", "date", "created_at", "unixReviewTime"),
}
LABEL_RATINGS: Final = {
    "1": 5, "pos": 5, "positive": 5, "正面": 5, "0": 1, "-1": 1, "neg": 1, "negative": 1, "负面": 1,
    "neutral": 3, "中性": 3,
}  # fmt: skip
REES46_ACTIONS: Final = {"view": "view", "cart": "cart", "remove_from_cart": "uncart", "purchase": "purchase"}
OTTO_ACTIONS: Final = {"clicks": "view", "carts": "cart", "orders": "purchase"}


class BadFile(ValueError):
    """A file that is not of the format; the message says what was expected and what to do."""


@dataclass(slots=True)
class Report:
    """How an import went; filled while its events are drawn."""

    events: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)  # the first skipped rows, each with file, line and remedy

    def skip(self, path: Path, line: int, reason: object) -> None:
        self.skipped += 1
        if len(self.notes) < MOST_NOTES:
            self.notes.append(f"{path}:{line}: {reason}")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a review file; what is None is looked for among :data:`ALIASES`."""

    text: str | None = None
    rating: str | None = None
    label: str | None = None
    product: str | None = None
    user: str | None = None
    time: str | None = None

    def find(self, path: Path, header: Sequence[str]) -> dict[str, str]:
        """The column for each role that the file has. Raises :class:`BadFile`."""
        found = {}
        for role, wanted in asdict(self).items():
            if wanted is not None and wanted not in header:
                raise BadFile(f"{path} has no column {wanted!r}; it has {', '.join(header)}")
            column = wanted or next((name for name in ALIASES[role] if name in header), None)
            if column:
                found[role] = column
        if "text" not in found:
            raise BadFile(
                f"{path} has no column of texts that I know; name one of {', '.join(header)} as the text column"
            )
        return found


def reviews(
    path: Path,
    report: Report,
    columns: Columns = Columns(),
    start: int = DEFAULT_START,
    per_hour: float = 120.0,
    product: str = "imported",
    products_per_category: int = 1,
) -> Iterator[Event]:
    """Reviews of any table. ``product`` is the product id where no column names one.

    Files without times are mixed by a hash, because most are sorted by label, and get times from ``start`` on,
    ``per_hour`` of them. Where the product column is only a category, ``products_per_category`` > 1 splits each by a
    hash of the text. A label counts as a rating: positive 5, neutral 3, negative 1.
    """
    if per_hour <= 0 or products_per_category < 1:
        raise ValueError("the reviews per hour have to be positive, the products per category at least 1")
    header, rows = _table(path, report)
    names = columns.find(path, header)

    def read() -> Iterator[Event]:
        for line, row in rows:
            try:
                yield _review(
                    row, names, content_id(path.name, line, row.get(names["text"])), product, products_per_category
                )
            except ValueError as error:
                report.skip(path, line, error)

    if "time" in names:
        yield from _counted(_by_time(read()), report)
        return
    mixed = sorted(read(), key=lambda event: str(event.value["event_id"]))  # type: ignore[index]
    for place, event in enumerate(mixed):
        ts = start + int(place * 3_600_000 / per_hour)
        report.events += 1
        yield Event(event.topic, event.key, {**event.value, "ts": ts}, ts)  # type: ignore[dict-item]


def _review(row: dict[str, Any], names: dict[str, str], event_id: str, product: str, split: int) -> Event:
    cells = {role: str(row[column]).strip() for role, column in names.items() if row.get(column) not in (None, "")}
    text = cells.get("text", "").lstrip("\ufeff").strip()
    if not text:
        raise ValueError("no text; fill it in or leave the row out")
    product_id = cells.get("product", product)
    if split > 1:
        product_id = f"{product_id}-{int(content_id(text), 16) % split}"
    ts = _time(cells["time"]) if "time" in cells else 0
    if "time" in names and not ts:
        raise ValueError(f"no time in column {names['time']!r}; give epoch milliseconds, seconds or an ISO date")
    value: dict[str, Any] = {
        "event_id": event_id,
        "ts": ts,
        "user_id": cells.get("user", f"u{event_id[:6]}"),
        "product_id": product_id,
        "text": text,
    }
    if rating := _rating(cells):
        value["rating"] = rating
    return Event("reviews", product_id, value, ts)


def _rating(cells: dict[str, str]) -> int:
    """1 to 5, from the rating or else the label; 0: neither is there."""
    if "rating" in cells:
        try:
            rating = round(float(cells["rating"]))
        except (ValueError, OverflowError):
            rating = 0
        if not 1 <= rating <= 5:
            raise ValueError(f"rating {cells['rating']!r} is not a number from 1 to 5")
        return rating
    if "label" not in cells:
        return 0
    label = cells["label"].lower()
    if label not in LABEL_RATINGS:
        raise ValueError(f"label {cells['label']!r} is none of {', '.join(LABEL_RATINGS)}; name another label column")
    return LABEL_RATINGS[label]


def yoochoose(path: Path, report: Report) -> Iterator[Event]:
    """Clicks and buys of RecSys 2015; a session stands for its shopper."""
    lines = _lines(path)
    first = next(lines, "")
    prepared = first.split() == ["SessionId", "ItemId", "Time"]
    if not prepared and len(first.split(",")) not in (4, 5):
        raise BadFile(
            f"{path}:1 is neither 'SessionId ItemId Time' (prepared, tab-separated) nor a row of yoochoose-clicks.dat "
            f"or yoochoose-buys.dat: {first.strip()[:80]!r}"
        )

    def read() -> Iterator[Event]:
        for line, text in enumerate(lines if prepared else chain([first], lines), 2 if prepared else 1):
            if text.isspace():
                continue
            try:
                if prepared:
                    session, item, time = text.split()
                    yield _click("yoochoose", _time(time), session, session, "view", item)
                else:
                    session, time, item, *more = text.strip().split(",")
                    bought = {"price": float(more[0]), "quantity": int(more[1])} if len(more) == 2 else {}
                    yield _click(
                        "yoochoose", _time(time), session, session, "purchase" if bought else "view", item, **bought
                    )
            except ValueError as error:
                report.skip(path, line, f"not a row of this file ({error}); download it again or remove the row")

    yield from _counted(_by_time(read()), report)


def rees46(path: Path, report: Report) -> Iterator[Event]:
    """Views, carts and purchases of a REES46 month; these files are in the order of time."""
    header, rows = _table(path, report)
    needed = ("event_time", "event_type", "product_id", "price", "user_id", "user_session")
    if missing := [name for name in needed if name not in header]:
        raise BadFile(
            f"{path} is not a REES46 file: it has no {', '.join(missing)}; its columns are {', '.join(header)}"
        )

    def read() -> Iterator[Event]:
        for line, row in rows:
            try:
                yield _click(
                    "rees46",
                    _time(row["event_time"]),
                    row["user_id"],
                    row["user_session"],
                    _action(REES46_ACTIONS, row["event_type"]),
                    row["product_id"],
                    price=float(row["price"]),
                )
            except ValueError as error:
                report.skip(path, line, f"not a row of a REES46 file ({error}); download it again or remove the row")

    yield from _counted(read(), report)


def otto(path: Path, report: Report) -> Iterator[Event]:
    """Clicks, carts and orders of OTTO; one session is one shopper over weeks, and the radar cuts it into visits."""

    def read() -> Iterator[Event]:
        for line, text in enumerate(_lines(path), 1):
            if text.isspace():
                continue
            try:
                data = orjson.loads(text)
                session, events = str(data["session"]), data["events"]
                visits = [
                    _click(
                        "otto",
                        int(event["ts"]),
                        session,
                        session,
                        _action(OTTO_ACTIONS, event["type"]),
                        str(event["aid"]),
                    )
                    for event in events
                ]
            except (ValueError, KeyError, TypeError) as error:
                report.skip(
                    path,
                    line,
                    f'not {{"session": …, "events": [{{"aid", "ts", "type"}}]}} ({error!r}); remove the line',
                )
            else:
                yield from visits

    yield from _counted(_by_time(read()), report)


IMPORTERS: Final[dict[str, Callable[[Path, Report], Iterator[Event]]]] = {
    "reviews": reviews, "yoochoose": yoochoose, "rees46": rees46, "otto": otto,
}  # fmt: skip


def _click(source: str, ts: int, user: str, session: str, action: str, item: str, **extra: Any) -> Event:
    """A click; the same row again is the same event, in whichever file it stands."""
    if not (user and session and item):
        raise ValueError("user, session or product is empty")
    value = {
        "event_id": content_id(source, ts, user, session, action, item),
        "ts": ts,
        "user_id": user,
        "session_id": session,
        "action": action,
        "product_id": item,
    }
    return Event("clicks", user, value | extra, ts)


def _action(actions: dict[str, str], name: Any) -> str:
    if name not in actions:
        raise ValueError(f"{name!r} is none of {', '.join(actions)}")
    return actions[name]


def _time(text: str) -> int:
    """Epoch milliseconds of epoch seconds, epoch milliseconds or an ISO date (UTC where it names no zone)."""
    try:
        number = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text.removesuffix(" UTC"))
        return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000)
    if not 0 <= number < 1e14:
        raise ValueError(f"{text!r} is no time")
    return round(number if number > 1e11 else number * 1_000)


def _counted(events: Iterable[Event], report: Report) -> Iterator[Event]:
    for event in events:
        report.events += 1
        yield event


def _by_time(events: Iterable[Event]) -> Iterator[Event]:
    """Sorted by time; what does not fit into one chunk waits in temporary files."""
    events, time = iter(events), attrgetter("ts")
    with ExitStack() as files:
        runs: list[Iterator[Event]] = []
        while chunk := sorted(islice(events, SORT_CHUNK), key=time):
            if not runs and len(chunk) < SORT_CHUNK:
                yield from chunk
                return
            runs.append(_spill(chunk, files.enter_context(tempfile.TemporaryFile())))
        yield from merge(*runs, key=time)


def _spill(chunk: list[Event], file: IO[bytes]) -> Iterator[Event]:
    file.writelines(event.line() for event in chunk)
    file.seek(0)
    return (Event(**record, ts=record["value"]["ts"]) for record in map(orjson.loads, file))


def _table(path: Path, report: Report) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """Column names and (line, row) of a CSV or JSON-lines file; rows that do not fit are skipped."""
    lines = _lines(path)
    first = next(lines, "")
    if not first.strip():
        raise BadFile(f"{path} is empty or starts with an empty line; put the column names into the first line")
    if first.lstrip().startswith("["):
        raise BadFile(f"{path} is one JSON array; make it one object a line, e.g. with: jq -c '.[]' {path.name}")
    if first.startswith("{"):
        return _json_rows(path, chain([first], lines), first, report)
    reader = csv.reader(chain([first], lines))
    header = next(reader)
    return header, _csv_rows(path, reader, header, report)


def _csv_rows(path: Path, reader: Any, header: list[str], report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        for cells in reader:
            if len(cells) == len(header):
                yield reader.line_num, dict(zip(header, cells, strict=True))
            elif cells:
                reason = f"{len(cells)} fields instead of {len(header)}; put texts with commas into double quotes"
                report.skip(path, reader.line_num, reason)
    except csv.Error as error:
        raise BadFile(f"{path}:{reader.line_num}: {error}; look for a double quote that is never closed") from error


def _json_rows(
    path: Path, lines: Iterable[str], first: str, report: Report
) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                row = orjson.loads(line)
            except ValueError as error:
                report.skip(path, number, f"not JSON ({error}); remove the line")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                report.skip(path, number, "not a JSON object; remove the line")

    try:
        return list(orjson.loads(first)), rows()
    except ValueError as error:
        raise BadFile(f"{path}:1 looks like JSON and is none ({error}); give one object a line, or CSV") from error


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, or of the one table inside a .zip. Raises :class:`BadFile`."""
    with ExitStack() as files:
        try:
            if path.suffix == ".zip":
                archive = files.enter_context(ZipFile(path))
                tables = [name for name in archive.namelist() if name.endswith((".csv", ".json", ".jsonl", ".txt"))]
                if len(tables) != 1:
                    raise BadFile(f"{path} holds {len(tables)} tables ({', '.join(tables)}); unpack it and name one")
                raw: IO[bytes] = files.enter_context(archive.open(tables[0]))
            else:
                raw = files.enter_context(path.open("rb"))
            yield from io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        except BadZipFile as error:
            raise BadFile(f"{path} is not a readable .zip ({error}); download it again") from error
        except UnicodeDecodeError as error:
            raise BadFile(f"{path} is not UTF-8; convert it: iconv -f GB18030 -t UTF-8 {path.name}") from error
