"""Key terms: the words that stand out in the texts of a place and a period against the time before, with quotes.

An alert says that something happened; key terms say what people call it, also where no label fits. They are the
keywords of the stored signals, compared by the log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi &
Quinn, "Fightin' Words", Political Analysis 2008): the prior is how the whole shop speaks, so that a word is not taken
for news because it is rare. A text that is sent again counts once.

:func:`standing_out` is pure; :func:`read` asks the store, running or stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from rich.table import Table

from stream.alerts import Source, _ask

BEFORE_MS: Final = 28 * 86_400_000  #: how long before the period its past begins
PRIOR: Final = 500.0  #: words that the prior is worth
LEAST: Final = 3  #: texts of the period that must hold a term
SURE: Final = 1.96  #: standard errors from which a term stands out
QUOTES: Final = 2


class Count(NamedTuple):
    """Texts that hold a term: of the place in the period, of the place before, and of the whole shop in both."""

    term: str
    recent: int
    before: int
    everywhere: int


class Standing(NamedTuple):
    """A term that stands out, by ``score`` standard errors."""

    term: str
    recent: int
    before: int
    score: float


def standing_out(counts: Sequence[Count]) -> list[Standing]:
    """The terms that stand out in the period, clearest first. ``counts`` are all terms of the place."""
    recent, before = sum(count.recent for count in counts), sum(count.before for count in counts)
    everywhere = sum(count.everywhere for count in counts)
    found = []
    for count in counts:
        prior = PRIOR * count.everywhere / everywhere
        odds = _log_odds(count.recent + prior, recent + PRIOR) - _log_odds(count.before + prior, before + PRIOR)
        score = odds / math.sqrt(1 / (count.recent + prior) + 1 / (count.before + prior))
        if count.recent >= LEAST and score >= SURE:
            found.append(Standing(count.term, count.recent, count.before, round(score, 2)))
    return sorted(found, key=lambda standing: (-standing.score, standing.term))


def _log_odds(part: float, whole: float) -> float:
    return math.log(part) - math.log(max(whole - part, 0.5))


async def read(
    source: Source, since: int, until: int, *, product: str = "", category: str = "", most: int = 12
) -> list[dict[str, Any]]:
    """Up to ``most`` key terms from ``since`` to before ``until`` (epoch milliseconds of event time), with quotes.

    Of a product, a category, or the shop. Raises :class:`~stream.sinks.base.SinkError`.
    """
    place = f"product_id = {_quoted(product)}" if product else f"category = {_quoted(category)}" if category else "1"
    period = f"({place} AND ts >= {_time(since)})"
    counts = await _ask(
        source,
        f"""
        SELECT term, uniqExact(fingerprint) AS everywhere, uniqExactIf(fingerprint, {period}) AS recent,
               uniqExactIf(fingerprint, {place} AND ts < {_time(since)}) AS before
        FROM signals ARRAY JOIN keywords AS term
        WHERE ts >= {_time(max(0, since - BEFORE_MS))} AND ts < {_time(until)}
        GROUP BY term HAVING recent + before > 0 ORDER BY term
        """,
    )
    standing = standing_out([Count(row["term"], *(int(row[name]) for name in Count._fields[1:])) for row in counts])
    quotes = await _quotes(source, [each.term for each in standing[:most]], f"{period} AND ts < {_time(until)}")
    return [{**each._asdict(), "quotes": quotes[each.term]} for each in standing[:most]]


async def newest(source: Source) -> int:
    """Event time of the newest stored text, 0 without any."""
    (row,) = await _ask(source, "SELECT toUnixTimestamp64Milli(max(ts)) AS newest FROM signals")
    return int(row["newest"])


def as_table(terms: Iterable[dict[str, Any]]) -> Table:
    """The terms for a terminal."""
    table = Table("term", "texts", "before", "score", "says")
    for each in terms:
        said = " / ".join(quote["text"][:80] for quote in each["quotes"])
        table.add_row(each["term"], str(each["recent"]), str(each["before"]), f"{each['score']:.1f}", said)
    return table


async def _quotes(source: Source, terms: Sequence[str], where: str) -> dict[str, list[dict[str, Any]]]:
    """The newest texts of each term, masked as they are stored, no text twice."""
    quotes: dict[str, list[dict[str, Any]]] = {term: [] for term in terms}
    if not terms:
        return quotes
    rows = await _ask(
        source,
        f"""
        SELECT term, event_id, ts_ms, text FROM (
            SELECT term, event_id, toUnixTimestamp64Milli(ts) AS ts_ms, text, fingerprint
            FROM signals ARRAY JOIN keywords AS term
            WHERE {where} AND term IN ({", ".join(map(_quoted, terms))})
            ORDER BY ts_ms DESC, event_id LIMIT 1 BY term, fingerprint
        ) ORDER BY ts_ms DESC, event_id LIMIT {QUOTES} BY term
        """,
    )
    for row in rows:
        quotes[row["term"]].append({"event_id": row["event_id"], "ts": int(row["ts_ms"]), "text": row["text"]})
    return quotes


def _quoted(text: str) -> str:
    """A string literal of ClickHouse."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _time(epoch_ms: int) -> str:
    return f"fromUnixTimestamp64Milli({epoch_ms}, 'UTC')"
