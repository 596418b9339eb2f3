"""``radar rules test``: what a rules file would have made of what was understood before. No server, no model.

It reads lines of ``radar dump --canonical`` (tables ``signals`` and ``windows``) or messages of the topic ``signals``,
puts them in the order of their panes, so that what came late is taken as if it had been on time, and lets the fusion
lane count and judge them, one for the whole shop. ``radar backtest`` compares two files on recorded events in all
detail.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from rich.table import Table

from serving.labels import ASPECTS, DEMANDS
from stream.agents.fusion import Message, read_behaviour, read_queries, read_request, read_text
from stream.backtest.lab import Record, Rows, Signals, alerts_of
from stream.detect.feedback import Precision, Suggestion
from stream.detect.lifecycle import duration
from stream.detect.policy import Rules
from stream.events import SOURCES
from stream.settings import Settings
from stream.simulate.shop import START
from stream.windows.behaviour import PANE_FEATURES

#: What the fusion lane counts; each raises KeyError, TypeError or ValueError for a message that is none.
READERS: Final[Mapping[str, Callable[[Message], object]]] = {
    "text": read_text, "panes": read_behaviour, "request": read_request, "queries": read_queries,
}  # fmt: skip
#: The columns of table ``signals`` that are those of a message.
SAME: Final = (
    "signal_id", "event_id", "ts", "channel", "user_id", "product_id", "category", "rating", "text", "fingerprint",
)  # fmt: skip

Identity = tuple[Any, ...]


class BadInput(ValueError):
    """A line that is neither; the message names it and what to do."""


async def try_rules(rules: Rules, signals: Signals, settings: Settings) -> Rows:
    """Every state of every alert that ``rules`` tell, as rows of the table ``alerts``."""
    return await alerts_of(signals, settings.model_copy(update={"partitions": 1}), rules)


def read_signals(lines: Iterable[bytes], pane_ms: int) -> Signals:
    """What is to be counted of ``lines``, up to the end of the last pane. Raises :class:`BadInput`."""
    signals, texts = Signals([[]], ""), set()
    panes: dict[int, dict[Identity, Message]] = defaultdict(dict)
    for number, line in enumerate(lines, 1):
        for identity, message in _read(number, line):
            ts = message["pane" if "pane" in message else "ts"]
            panes[ts - ts % pane_ms].setdefault(identity, message)
            signals.hear(message)
            texts.add(message.get("signal_id"))
    clocks = [{"kind": "watermark", "source": f"{topic}/0", "idle": False, "replay": True} for topic in SOURCES]
    for start, messages in sorted(panes.items()):
        stamped = [
            message | {"source": "input", "seq": [start, place], "mark": start}
            for place, message in enumerate(messages.values())
        ]
        told = (*stamped, *(clock | {"ts": start + pane_ms} for clock in clocks))
        signals.partitions[0] += [Record(0, 0, None, orjson.dumps(message)) for message in told]
    signals.first_ts, signals.last_ts = min(panes, default=0), max(panes, default=0)
    signals.events = Counter(texts=len(texts - {None}), panes=len(panes))
    return signals


def _read(number: int, line: bytes) -> list[tuple[Identity, Message]]:
    if not line.strip():
        return []
    try:
        row = orjson.loads(line)
        raw = "topic" in row and "table" not in row
        found = [] if raw else list(messages_of(row))
        for _, message in found:
            READERS[message["kind"]](message)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(
            f"line {number} is neither a row of `radar dump --canonical` nor a message of signals: {error!r}"
        ) from error
    if raw:
        raise BadInput(
            f"line {number} is a raw event, and its text is not understood yet: send the file through "
            "`radar replay`, write `radar dump --canonical -o run.jsonl` and test with that"
        )
    return found


def messages_of(row: Message) -> Iterator[tuple[Identity, Message]]:
    """The messages of ``signals`` that a line stands for, each with what tells it from all others of its pane."""
    kind = row.get("table") or row.get("kind")
    if kind == "signals":
        message = {name: row[name] for name in SAME} | {
            "kind": "text",
            "sentiment": {"label": row["sentiment"]},
            "aspects": _records(row, "aspect", ("sentiment", "prob", "evidence")),
            "demands": _records(row, "demand", ("prob", "evidence")),
        }
        for scope, place in (("product", row["product_id"]), ("category", row["category"])):
            if place:
                yield (scope, row["signal_id"]), message | {"scope": scope}
    elif kind == "windows":
        where = row["scope"], row["product_id"], row["category"]
        columns = {name: [row[name]] for name in ("product_id", "category", *PANE_FEATURES)}
        yield where, {"kind": "panes", "pane": row["pane_start"], "scope": row["scope"], "columns": columns}
    elif kind in READERS:
        yield (row["source"], *row["seq"]), row


def _records(row: Message, name: str, parts: Sequence[str]) -> list[Message]:
    """Parallel arrays of a table as the records that they were."""
    columns = [row[name], *(row[f"{name}_{part}"] for part in parts)]
    return [dict(zip((name, *parts), values, strict=True)) for values in zip(*columns, strict=True)]


def rules_table(rules: Rules) -> Table:
    """The rules for a terminal."""
    table = Table("rule", "version", "watches", "budget", "opens", "resolves", "sends")
    for rule in rules.rules:
        only = [*rule.labels, *rule.categories, *rule.products]
        table.add_row(
            rule.name,
            rule.version,
            f"{rule.kind} of {', '.join(rule.scopes)}" + (f", only {', '.join(only)}" if only else ""),
            f"1 in {rule.key_days:g} days a key, {rule.shop_per_day:g} a day",
            f"{rule.min_observed:g} seen, {rule.min_ratio:g} × expected"
            + (f", for {duration(rule.for_ms)}" if rule.for_ms else ""),
            f"surprise under {rule.close_surprise:g} for {duration(rule.keep_firing_ms)}",
            ", ".join(rule.routes) or "nowhere",
        )
    return table


def stats_tables(weeks: Iterable[Precision], advice: Iterable[Suggestion]) -> tuple[Table, Table]:
    """Precision by week, and what to do, for a terminal."""
    seen = Table("week of", "rule", "alerts", "useful", "not useful", "precision (95 %)")
    for week in weeks:
        low, high = week.interval
        share = "" if week.share is None else f"{week.share:.0%} ({low:.0%}–{high:.0%})"
        seen.add_row(week.since, week.rule, str(week.alerts), str(week.useful), str(week.not_useful), share)
    budgets = Table("rule", "budget", "why")
    for each in advice:
        change = f"key: 1 per {each.key_days:.3g} days, shop: {each.shop_per_day:.3g} per day"
        budgets.add_row(each.rule, change if each.factor != 1 else "as it is", each.why)
    return seen, budgets


def simulated(pane_ms: int, hours: int = 48, seed: int = 7) -> Iterator[bytes]:
    """What is said in a shop of 30 products with an ordinary crowd and five incidents, as rows of a dump; the same for
    the same arguments."""
    dice = random.Random(seed)
    labels = [("negative", name) for name in ASPECTS] + [("demand", name) for name in DEMANDS]
    rates = [[0.3 * dice.random() ** 3 for _ in labels] for _ in range(30)]  # an hour
    count = hours * 3_600_000 // pane_ms
    struck = {(dice.randrange(30), dice.choice(labels)): int(count * (n + 2) / 8) for n in range(5)}
    for pane in range(count):
        ts = START - START % pane_ms + pane * pane_ms
        for product, each in enumerate(rates):
            for label, hourly in zip(labels, each, strict=True):
                rises = 0 <= pane - struck.get((product, label), count) < 3_600_000 / pane_ms
                if dice.random() < (hourly + 15 * rises) * pane_ms / 3_600_000:
                    yield _review(ts, product, label, dice)
            if dice.random() < 2 * pane_ms / 3_600_000:
                yield _review(ts, product, ("", ""), dice)


def _review(ts: int, product: int, about: tuple[str, str], dice: random.Random) -> bytes:
    kind, label = about
    number, aspects, demands = f"{dice.getrandbits(64):016x}", int(kind == "negative"), int(kind == "demand")
    return orjson.dumps({
        "table": "signals", "signal_id": f"review/{number}", "event_id": number, "ts": ts, "channel": "review",
        "user_id": number, "product_id": f"p{product:03}", "category": f"c{product % 5}", "rating": 0, "text": "",
        "fingerprint": number, "sentiment": "neutral",
        "aspect": [label] * aspects, "aspect_sentiment": ["negative"] * aspects, "aspect_prob": [0.9] * aspects,
        "aspect_evidence": [[]] * aspects, "demand": [label] * demands, "demand_prob": [0.9] * demands,
        "demand_evidence": [[]] * demands,
    })  # fmt: skip
