"""``radar rules test``: what a rules file would have made of texts that were understood before. No server, no model.

It reads lines of ``radar dump --canonical`` (tables ``signals`` and ``windows``) or messages of the topic ``signals``,
counts them in panes and lets the same engine look as in a worker, one for the whole shop. What comes late for its pane
is taken as if it had been on time. ``radar backtest`` compares two files on recorded events in all detail.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson
from rich.table import Table

from serving.labels import ASPECTS, DEMANDS
from stream.detect.cells import VOLUME, Candidate, Cell, Key, Scope, Source, merge
from stream.detect.engine import Engine
from stream.detect.feedback import Precision, Suggestion
from stream.detect.lifecycle import duration
from stream.detect.policy import Rules
from stream.records import Alert
from stream.simulate.shop import START
from stream.windows.behaviour import PANE_FEATURES
from stream.windows.tallies import BEHAVIOUR

QUOTE_CHARACTERS: Final = 280
BEHAVIOUR_KIND: Final = "demand_surge"
Panes = dict[int, dict[Key, Cell]]


class BadInput(ValueError):
    """A line that is neither; the message names it and what to do."""


def try_rules(rules: Rules, panes: Mapping[int, Mapping[Key, Cell]], pane_ms: int, window_panes: int) -> list[Alert]:
    """Every state of every alert over ``panes`` (by their start), with two windows of silence after them."""
    engine = Engine(rules.rules, pane_ms, window_panes)
    alerts = [alert for start in sorted(panes) for alert in engine.step(start, panes[start])]
    if panes:
        alerts += engine.step(max(panes) + 2 * window_panes * pane_ms, {})
    return alerts


def read_panes(lines: Iterable[bytes], pane_ms: int) -> tuple[Panes, int]:
    """The counts in ``lines`` by pane, and how many texts they have. Raises :class:`BadInput`."""
    panes: Panes = defaultdict(dict)
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
            kind = row.get("table") or row.get("kind")
            if kind in ("signals", "text"):
                if row["signal_id"] not in seen:
                    seen.add(row["signal_id"])
                    _count(panes[row["ts"] - row["ts"] % pane_ms], signal_cells(row))
            elif kind == "windows":
                _count(panes[row["pane_start"] - row["pane_start"] % pane_ms], behaviour_cells(row))
            elif "topic" in row:
                raise BadInput(
                    f"line {number} is a raw event, and its text is not understood yet: send the file through "
                    "`radar replay`, write `radar dump --canonical -o run.jsonl` and test with that"
                )
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"line {number} is neither a row of `radar dump --canonical` nor a message of signals: {error!r}"
            ) from error
    return panes, len(seen)


def _count(cells: dict[Key, Cell], more: Iterable[tuple[Key, Cell]]) -> None:
    for key, cell in more:
        cells[key] = merge(cells[key], cell) if key in cells else cell


def signal_cells(row: Mapping[str, Any]) -> Iterator[tuple[Key, Cell]]:
    """What a text counts for: on its product and in its category."""
    source: Source = "reviews" if row["channel"] == "review" else "chats"
    places: list[tuple[Scope, str]] = [("product", row["product_id"])] if row["product_id"] else []
    places += [("category", "")] if row["category"] else []
    for scope, product in places:
        yield Key(VOLUME, scope, product, row["category"], ""), _cell(source, None)
        for kind, label, prob, spans in opinions(row):
            quote = Candidate(prob, row["event_id"], row["text"][:QUOTE_CHARACTERS], spans)
            yield Key(kind, scope, product, row["category"], label), _cell(source, quote)


def opinions(row: Mapping[str, Any]) -> Iterator[tuple[str, str, float, tuple[tuple[int, int], ...]]]:
    """Kind, label, probability and evidence of each, from a message or from a row of the table."""
    if "aspects" in row:
        aspects = [(each["aspect"], each["sentiment"], each["prob"], each["evidence"]) for each in row["aspects"]]
        demands = [(each["demand"], each["prob"], each["evidence"]) for each in row["demands"]]
    else:
        names = ("aspect", "aspect_sentiment", "aspect_prob", "aspect_evidence")
        aspects = list(zip(*(row[name] for name in names), strict=True))
        demands = list(zip(*(row[name] for name in ("demand", "demand_prob", "demand_evidence")), strict=True))
    for label, sentiment, prob, spans in aspects:
        if sentiment == "negative":
            yield "negative_spike", label, prob, tuple((start, end) for start, end in spans)
    for label, prob, spans in demands:
        yield "demand_surge", label, prob, tuple((start, end) for start, end in spans)


def _cell(source: Source, quote: Candidate | None) -> Cell:
    cell = Cell()
    cell.add(source, 1.0, quote)
    return cell


def behaviour_cells(row: Mapping[str, Any]) -> Iterator[tuple[Key, Cell]]:
    """What the clicks of a pane count for."""
    if row["scope"] == "product":
        for place, name, weight in BEHAVIOUR:
            if count := row[PANE_FEATURES[place]]:
                label = name.partition("/")[2]
                yield (
                    Key(BEHAVIOUR_KIND, "product", row["product_id"], row["category"], label),
                    Cell(clicks=weight * count),
                )


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


def simulated(pane_ms: int, hours: int = 48, seed: int = 7) -> Panes:
    """Counts of a shop of 30 products with an ordinary crowd and five incidents; the same for the same arguments."""
    dice = random.Random(seed)
    labels = [("negative_spike", name) for name in ASPECTS] + [("demand_surge", name) for name in DEMANDS]
    keys = [[Key(kind, "product", f"p{n:03}", f"c{n % 5}", label) for kind, label in labels] for n in range(30)]
    rates = [[0.3 * dice.random() ** 3 for _ in labels] for _ in keys]  # an hour
    count = hours * 3_600_000 // pane_ms
    struck = {dice.choice(dice.choice(keys)): int(count * (n + 2) / 8) for n in range(5)}
    panes: Panes = {}
    for pane in range(count):
        cells: dict[Key, Cell] = {}
        for series, rate in zip(keys, rates, strict=True):
            for key, hourly in zip(series, rate, strict=True):
                rises = 0 <= pane - struck.get(key, count) < 3_600_000 / pane_ms
                if dice.random() < (hourly + 15 * rises) * pane_ms / 3_600_000:
                    _count(cells, [(key, Cell(reviews=1.0)), (key.volume, Cell(reviews=1.0))])
            if dice.random() < 2 * pane_ms / 3_600_000:
                _count(cells, [(series[0].volume, Cell(reviews=1.0))])
        panes[START - START % pane_ms + pane * pane_ms] = cells
    return panes
