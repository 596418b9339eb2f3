"""Fusion: signals of one product (or category) from all sources → panes → rows of ``windows``, detectors → alerts.

The lane counts what the source lanes send, closes a pane when the joint watermark of all sources has passed it, writes
its tallies and lets the detectors look. A message that was counted before (a source lane went back to its last
checkpoint) is known by its source and sequence and skipped: the sequence of a source grows, and a lane repeats itself
in the same order.

**Late messages.** Each message has a *mark*: its source's watermark just before it, rounded down to a pane boundary
(``mark`` of a text; one pane before the boundary at which a click lane sends). Marks of a source grow, and it reports a
boundary after every message with an earlier mark. A message for a pane that ends after its mark is on time: the lane
counts it at once, since the joint watermark cannot have passed that pane before the source's own. Any other message is
a correction: it is held and counted at the boundary ``mark + pane_ms``. When the joint watermark comes to a boundary,
each source has reported it, so exactly the corrections with earlier marks are there. What is counted when thus depends
on each source's own sequence and not on how the sources interleave, where blocks end, what is repeated, or restarts.
A correction adds to its closed pane, whose rows are written again with the next revision, and to the sliding windows
that are judged from this boundary on; alerts told before stay as they are. Where the mark is ``correct_ms`` or more
past the end of the pane, the message is too late: it is counted as ``dropped_late`` and nowhere else.

**Unmet demand.** One of the lanes also gets all requests of the shop (``queries`` of click lanes, ``request`` of text
lanes), which it counts in panes of their own by the same rules; see :mod:`stream.detect.unmet`.

(In live operation the clock may run past a silent source. Then the lane's own position takes the place of the mark, and
the order in ``signals`` decides; still neither blocks nor restarts do.)

**Memory** is bounded by ``max_keys`` tallies in a pane (see :mod:`stream.windows.tallies` for which ones stay; those
dropped are counted as ``overflow``), kept until the pane can no longer be corrected; by as many different requests in
an open pane, and as many places whose trade is remembered; by the ids of the texts in the sliding window; and by the
detectors' own bound on silent series.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from operator import add
from sys import intern
from typing import Any, Final, NamedTuple

import orjson

from stream.checkpoint import Changes, Segments
from stream.detect import stock, unmet
from stream.detect.baseline import read_quotes, write_quotes
from stream.detect.cells import Candidate, Cell, Key, Source
from stream.detect.copies import About, Copies, Text, author, place
from stream.detect.engine import Engine
from stream.detect.impact import CARTS, PURCHASES, Trade, dearness, decay, faintest, impact, priced
from stream.detect.lifecycle import action_id, read_action
from stream.detect.policy import Rules
from stream.detect.rules import RulesFile
from stream.detect.score import Score
from stream.detect.stock import Shelf
from stream.detect.unmet import Clusters, Requests, Terms
from stream.events import Reject
from stream.journal import Journal
from stream.lanes import Effects
from stream.preprocess.keywords import keywords
from stream.records import Alert, AlertAction, Span, to_dict
from stream.settings import Settings
from stream.transport import Block
from stream.windows.behaviour import PANE_FEATURES
from stream.windows.tallies import CLICK_WEIGHT, Tally, Where, beyond, rank, window_columns
from stream.windows.watermark import MinWatermark

QUOTE_CHARACTERS: Final = 280
QUERY_SCORE: Final = 0.5  # of a query as evidence: texts say more
#: A review of so many stars complains; where its words do not say of what, of the product overall.
LOW_RATING: Final = 2
RATING_SCORE: Final = 0.5  # of such a review as evidence
LANE: Final[Where] = ("shop", "", "")  # all products of a lane together
INTEGERS: Final = frozenset({int})
Message = dict[str, Any]
Pane = dict[Where, Tally]


class Said(NamedTuple):
    """What is counted of a text: ``counts`` are TEXT_FEATURES, an opinion is (label, probability, evidence, part
    that the stars say)."""

    where: Where
    text_id: str
    text: Text
    source: Source
    counts: tuple[int, ...]
    opinions: list[tuple[str, float, list[Span], float]]
    message: Message


class Asked(NamedTuple):
    """What is counted of a text that asks for what the catalogue does not have."""

    terms: Terms
    text_id: str
    text: Text
    source: Source
    candidate: Candidate


class Fusion:
    """The processor of one partition of ``signals``."""

    def __init__(
        self, settings: Settings, sources: Iterable[str], model: str, rules: Callable[[], Rules] | None = None
    ) -> None:
        """``rules`` gives those in force; None: those of the settings, as they are now."""
        self._length, self._correct = settings.pane_ms, settings.correct_ms
        self._window = settings.window_panes * settings.pane_ms
        self._limit = settings.max_keys
        self._clock = MinWatermark(sources)
        self._closed_to = 0
        self._applied: dict[str, list[int]] = {}
        self._panes: dict[int, Pane] = defaultdict(dict)  # open, and closed ones that may still be corrected
        self._late: dict[int, dict[tuple[Any, ...], Message]] = defaultdict(dict)  # by the boundary that counts them
        self._requests: dict[int, Requests] = defaultdict(dict)  # open panes
        self._clusters = Clusters(settings.pane_ms)
        self._trade: dict[Where, Trade] = {}
        self._decay = decay(settings.pane_ms)
        self._copies = Copies()
        first = rules() if rules else RulesFile(settings.rules).rules
        self._rules, self._in_force = first, rules or (lambda: first)
        self._partitions = settings.partitions
        self._engine = Engine(
            first.shared_by(settings.partitions),
            settings.pane_ms,
            settings.window_panes,
            model=model,
            max_silent=settings.max_keys,
            about=self._about,
            price=self._price,
            days=first.days,
        )
        self._saved = b""
        self._tallied = Journal[Where]("panes", lambda start: self._panes[start], self._tally)
        self._read = Journal[str]("texts", self._copies.ids, self._copies.row)
        self._held = Journal[tuple[Any, ...]](
            "late", lambda due: self._late[due], lambda due, key: self._late[due][key]
        )
        self._series = Journal[tuple[str, ...]](
            "series", lambda _: map(tuple, self._engine.known_keys()), self._baseline
        )
        self._asked = Journal[Terms]("requests", lambda start: self._requests[start], self._request_row)
        self._terms = Journal[str]("terms", lambda _: self._clusters, lambda _, term: self._clusters.row(term))
        self._traded = Journal[Where]("trade", lambda _: self._trade, self._trade_row)
        self._handlers = {
            "text": self._text, "panes": self._behaviour, "request": self._request, "queries": self._queries,
            "watermark": self._watermark, "action": self._action,
        }  # fmt: skip

    @property
    def watermark(self) -> int:
        return self._clock.value

    async def process(self, block: Block) -> Effects:
        effects = Effects()
        for record in block.records:
            try:
                message = orjson.loads(record.value)
                effects.counts[self._handlers[message["kind"]](message, effects)] += 1
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                effects.rejects.append(Reject(record.offset, f"not a signal: {error!r}", record.value or b""))
            if self._clock.value >= self._closed_to + self._length:
                self._advance(effects)
        effects.counts["records"] += len(block)
        return effects

    def tick(self, silent_seconds: float, elapsed_seconds: float) -> Effects:
        return Effects()

    def resume(self, topic: str, position: int) -> int:
        return position

    # Messages; each gives the name of the count it goes under

    def _watermark(self, message: Message, effects: Effects) -> str:
        self._clock.report(message["source"], message["ts"], message["idle"], message["replay"])
        return "watermarks"

    def _text(self, message: Message, effects: Effects) -> str:
        said, start = read_text(message), self._floor(message["ts"])
        if aside := self._set_aside(message, start, message["mark"]):
            return aside
        if not self._remember(start, said):
            return "redelivered"
        pane = self._panes[start]
        count_text(pane, said)
        self._tallied.changed[start].add(said.where)
        self._make_room(start, effects, self._limit + self._limit // 8)
        return "texts"

    def _behaviour(self, message: Message, effects: Effects) -> str:
        places, counts, shelves = read_behaviour(message)
        start = self._floor(message["pane"])
        if aside := self._set_aside(message, start, message["seq"][0] - self._length):
            return aside
        count_behaviour(self._panes[start], places, counts, shelves)
        self._tallied.changed[start].update(places)
        self._make_room(start, effects, self._limit + self._limit // 8)
        return "panes"

    def _request(self, message: Message, effects: Effects) -> str:
        asked, start = read_request(message), self._floor(message["ts"])
        if aside := self._set_aside(message, start, message["mark"]):
            return aside
        if not self._remember(start, asked):
            return "redelivered"
        count_request(self._requests[start], asked)
        self._asked.changed[start].add(asked.terms)
        self._bound_requests(start, effects, self._limit + self._limit // 8)
        return "requests"

    def _queries(self, message: Message, effects: Effects) -> str:
        queries, start = read_queries(message), self._floor(message["pane"])
        if aside := self._set_aside(message, start, message["seq"][0] - self._length):
            return aside
        count_queries(self._requests[start], queries)
        self._asked.changed[start].update(terms for terms, _, _ in queries)
        self._bound_requests(start, effects, self._limit + self._limit // 8)
        return "queries"

    def _action(self, message: Message, effects: Effects) -> str:
        action = read_action(message)
        effects.rows["alert_actions"].append(to_dict(AlertAction(action_id=action_id(action), **action._asdict())))
        for alert in self._engine.act(action):
            self._tell(alert, effects)
        return "actions"

    def _set_aside(self, message: Message, start: int, mark: int) -> str:
        """Why a message is not counted now; "" for one that is."""
        return "repeated" if self._repeated(message) else self._hold(message, start, mark)

    def _repeated(self, message: Message) -> bool:
        last = self._applied.get(message["source"])
        if last is not None and message["seq"] <= last:
            return True
        self._applied[message["source"]] = message["seq"]
        return False

    def _hold(self, message: Message, start: int, mark: int) -> str:
        """Keep a correction until its boundary; "" for a message that is on time."""
        mark = max(self._floor(mark), self._closed_to)
        if start >= mark:
            return ""
        if start + self._length + self._correct <= mark:
            return "dropped_late"
        due, key = mark + self._length, (message["source"], *message["seq"])
        self._late[due][key] = message
        self._held.changed[due].add(key)
        return "late"

    def _remember(self, start: int, said: Said | Asked) -> bool:
        """Whether a text is new in its pane."""
        new = self._copies.add(start, said.text_id, said.text)
        if new:
            self._read.changed[start].add(said.text_id)
        return new

    def _make_room(self, start: int, effects: Effects, room: int) -> None:
        """Drop the tallies beyond the limit once there are more than ``room``."""
        pane = self._panes[start]
        if len(pane) > room:
            for where in beyond(pane, self._limit):
                del pane[where]
                self._tallied.changed[start].add(where)
                effects.counts["overflow"] += 1

    def _bound_requests(self, start: int, effects: Effects, room: int) -> None:
        requests = self._requests[start]
        if len(requests) > room:
            for terms in unmet.beyond(requests, self._limit):
                del requests[terms]
                self._asked.changed[start].add(terms)
                effects.counts["overflow"] += 1

    # Time

    def _floor(self, ts: int) -> int:
        return ts - ts % self._length

    def _advance(self, effects: Effects) -> None:
        """Pass the boundaries up to the joint watermark, one after the other; those where nothing happens but the last
        are left out."""
        if self._in_force() is not self._rules:
            self._rules = self._in_force()
            self._engine.reload(self._rules.shared_by(self._partitions), self._rules.days)
        last = self._floor(self._clock.value)
        ends = {start + self._length for start in (*self._panes, *self._requests) if self._closed_to <= start < last}
        for end in sorted({last, *ends, *(due for due in self._late if due < last)}):
            self._closed_to = end
            late = self._correct_panes(end, effects)
            for alert in self._engine.step(end - self._length, self._close(end - self._length, effects), late):
                self._tell(alert, effects)
            for alert in self._engine.watch(end - self._length, self._stock_risks(end), stock.OPEN_AT):
                self._tell(alert, effects)
            self._forget(end)

    def _close(self, start: int, effects: Effects) -> dict[Key, Cell]:
        """Write the rows of a pane; what the detectors count of it."""
        cells = self._close_requests(start, effects)
        if start not in self._panes:
            return cells
        self._make_room(start, effects, self._limit)
        rows = []
        for where, tally in self._panes[start].items():
            rows.append(tally.row(start, where))
            cells.update(tally.cells(where))
            tally.without_quotes()
        self._sell(start, self._panes[start])
        if rows:
            effects.columns["windows"].append(window_columns(rows))
        effects.counts["windows"] += len(rows)
        return cells

    def _close_requests(self, start: int, effects: Effects) -> dict[Key, Cell]:
        if start not in self._requests:
            return {}
        self._bound_requests(start, effects, self._limit)
        self._asked.drop(start)
        return self._cluster(start + self._length, self._requests.pop(start))

    def _cluster(self, now: int, requests: Requests) -> dict[Key, Cell]:
        self._clusters.learn(now, requests, self._engine.firing(unmet.KIND))
        self._terms.changed[0] |= self._clusters.changed
        self._clusters.changed.clear()
        return unmet.cells(requests, self._clusters)

    def _stock_risks(self, end: int) -> dict[Key, Score]:
        """Of the products that the pane before ``end`` tells of."""
        pane, risks = end // self._length - 1, {}
        lane = self._trade.get(LANE)
        if lane is None or not self._engine.watches(stock.KIND):
            return {}
        for where, tally in self._panes.get(end - self._length, {}).items():
            trade = self._trade.get(where)
            if tally.shelf is not None and trade is not None:
                score = stock.judge(tally.shelf, trade, lane, pane, self._decay, self._length)
                if score is not None:
                    risks[Key(stock.KIND, *where, "stock")] = score
        return risks

    def _stock_note(self, where: Where, end: int) -> str:
        tally = self._panes[end - self._length][where]
        assert tally.shelf is not None, "its risk was judged"
        pane = end // self._length - 1
        return stock.note(
            tally.shelf, stock.rate(self._trade[where], self._trade[LANE], pane, self._decay, self._length)
        )

    def _correct_panes(self, boundary: int, effects: Effects) -> dict[int, dict[Key, Cell]]:
        """Count the corrections that are due; what the detectors count of them, by pane."""
        cells: dict[int, dict[Key, Cell]] = {}
        additions, requests = self._corrections(boundary, effects)
        for start, late in sorted(requests.items()):
            cells[start] = self._cluster(boundary, late)
        for start, pane in additions.items():
            cells.setdefault(start, {})
            for where in sorted(pane, key=rank):
                tally = self._panes[start].get(where)
                if tally is None:
                    if len(self._panes[start]) >= self._limit:
                        effects.counts["overflow"] += 1
                        continue
                    tally = self._panes[start][where] = Tally()
                cells[start].update(pane[where].cells(where))
                pane[where].without_quotes()
                tally.add(pane[where])
                tally.revision += 1
                self._tallied.changed[start].add(where)
                effects.columns["windows"].append(window_columns([tally.row(start, where)]))
                effects.counts["corrected"] += 1
            self._sell(boundary - self._length, pane)
        return cells

    def _sell(self, start: int, tallies: Pane) -> None:
        """Remember what was sold; what came late counts for the pane in which it came.

        Most products of a pane were only looked at. That is remembered of the categories and of all together alone.
        """
        pane, products = start // self._length, []
        for where, tally in tallies.items():
            asked = int(tally.labels["demand/restock"].texts) if "demand/restock" in tally.labels else 0
            behaviour = tally.behaviour
            if where[0] == "product":
                behaviour = priced(behaviour, tally.shelf.price if tally.shelf else 0.0)
                products.append(behaviour)
                if not (asked or behaviour[CARTS] or behaviour[PURCHASES]):
                    continue
            self._trade.setdefault(where, Trade(pane, pane)).add(pane, behaviour, asked, self._decay)
            self._traded.changed[0].add(where)
        if products:
            total = tuple(map(sum, zip(*products, strict=True)))
            self._trade.setdefault(LANE, Trade(pane, pane)).add(pane, total, 0, self._decay)
            self._traded.changed[0].add(LANE)
        if len(self._trade) > self._limit + self._limit // 8:
            for where in faintest(self._trade, pane, self._decay, self._limit):
                del self._trade[where]
                self._traded.changed[0].add(where)

    def _corrections(self, boundary: int, effects: Effects) -> tuple[dict[int, Pane], dict[int, Requests]]:
        """By pane: what is to be added to its tallies, and the requests that came late for it."""
        additions: dict[int, Pane] = defaultdict(dict)
        requests: dict[int, Requests] = defaultdict(dict)
        for _, message in sorted(self._late.pop(boundary, {}).items()):
            kind, start = message["kind"], self._floor(message["pane" if "pane" in message else "ts"])
            if kind == "panes":
                count_behaviour(additions[start], *read_behaviour(message))
            elif kind == "queries":
                count_queries(requests[start], read_queries(message))
            elif not self._remember(start, text := read_request(message) if kind == "request" else read_text(message)):
                effects.counts["redelivered"] += 1
            elif isinstance(text, Asked):
                count_request(requests[start], text)
            else:
                count_text(additions[start], text)
        self._held.drop(boundary)
        return additions, requests

    def _forget(self, now: int) -> None:
        """Let go of what no correction and no window can touch from the boundary ``now`` on."""
        for start in [start for start in self._panes if start + self._length + self._correct <= now]:
            del self._panes[start]
            self._tallied.drop(start)
        kept = max(self._length + self._correct, self._window)
        for start in [start for start in self._copies.panes if start + kept <= now]:
            self._copies.forget(start)
            self._read.drop(start)

    def _tell(self, alert: Alert, effects: Effects) -> None:
        where = alert.scope, alert.product_id, alert.category
        weight = CLICK_WEIGHT.get(alert.kind, 1.0)
        touched = impact(alert, self._trade.get(where), self._trade.get(LANE), weight)
        row = to_dict(alert) | {"impact": touched}
        effects.rows["alerts"].append(row)
        effects.messages.append(("alerts", alert.alert_id, row, None))
        effects.counts[f"alerts_{alert.state}"] += 1

    def _price(self, key: Key) -> float:
        return dearness(self._trade.get((key.scope, key.product_id, key.category)), self._trade.get(LANE))

    def _about(self, key: Key, start: int, end: int) -> About:
        """What else there is to say of a window that an alert is about."""
        if key.kind == stock.KIND:
            return About(self._stock_note((key.scope, key.product_id, key.category), end))
        about = self._copies.origin(key, start, end).about
        if key.kind != unmet.KIND:
            return about
        asked = f"asked for: {', '.join(self._clusters.names(key.label, end))}"
        return about._replace(note="; ".join(filter(None, (about.note, asked))))

    # State

    def _tally(self, start: int, where: Where) -> list[Any] | None:
        tally = self._panes[start].get(where)
        return tally.to_list() if tally else None

    def _request_row(self, start: int, terms: Terms) -> list[Any] | None:
        cell = self._requests[start].get(terms)
        return [cell.reviews, cell.chats, cell.clicks, write_quotes(cell)] if cell else None

    def _trade_row(self, _: int, where: Where) -> list[Any] | None:
        trade = self._trade.get(where)
        return trade.to_list() if trade else None

    def _baseline(self, _: int, series: tuple[str, ...]) -> list[Any] | None:
        return self._engine.snapshot(Key(*series)) or None  # type: ignore[arg-type]

    def dump(self) -> Changes:
        self._series.changed[0].update(map(tuple, self._engine.dirty_keys()))
        self._engine.mark_saved()
        changes: dict[str, bytes | None] = {}
        for journal in (
            self._tallied, self._read, self._held, self._series, self._asked, self._terms, self._traded,
        ):  # fmt: skip
            changes |= journal.dump()
        changes |= self._engine.book.dump()
        clock = orjson.dumps([self._clock.dump(), self._closed_to, self._applied])
        if clock != self._saved:
            changes["clock"] = self._saved = clock
        return changes

    def load(self, segments: Segments) -> None:
        self._saved = segments["clock"]
        clock, self._closed_to, self._applied = orjson.loads(self._saved)
        self._clock.load(clock)
        for start, where, row in self._tallied.load(segments):
            tally = self._panes[start][where] = Tally.from_list(row)
            if start < self._closed_to:
                tally.without_quotes()
        for start, text_id, row in self._read.load(segments):
            self._copies.add(start, text_id, Text(*row))
        for due, key, message in self._held.load(segments):
            self._late[due][key] = message
        for _, series, row in self._series.load(segments):
            self._engine.restore(Key(*series), row)  # type: ignore[arg-type]
        self._engine.book.load(segments)
        for start, terms, (reviews, chats, clicks, quotes) in self._asked.load(segments):
            self._requests[start][terms] = Cell(reviews, chats, clicks, list(read_quotes(quotes)))
        for _, term, row in self._terms.load(segments):
            self._clusters.restore(term, row)
        for _, where, row in self._traded.load(segments):
            self._trade[where] = Trade(*row)


# Reading checks all of a message before anything is counted


def read_text(message: Message) -> Said:
    """A message of kind "text". Raises KeyError, TypeError or ValueError where it is none."""
    scope, category, rating = message["scope"], message["category"], message["rating"]
    where: Where = (scope, message["product_id"] if scope == "product" else "", category)
    review = message["channel"] == "review"
    low = review and 0 < rating <= LOW_RATING and message["sentiment"]["label"] != "positive"
    opinions = [
        (f"negative/{aspect['aspect']}", aspect["prob"], aspect["evidence"], 0.5 * low)
        for aspect in message["aspects"]
        if aspect["sentiment"] == "negative"
    ]
    if low and not opinions:
        opinions = [("negative/overall", RATING_SCORE, [], 1.0)]
    opinions += [
        (f"demand/{demand['demand']}", demand["prob"], demand["evidence"], 0.0) for demand in message["demands"]
    ]
    counts = (int(review), int(not review), int(message["sentiment"]["label"] == "negative"), rating, int(rating > 0))
    labels = tuple(intern(name) for name, *_ in opinions)
    text = Text(place(*where), message["ts"], int(message["fingerprint"], 16), author(message["user_id"]), labels)
    source: Source = "reviews" if review else "chats"
    return Said(where, f"{scope}/{message['signal_id']}", text, source, counts, opinions, message)


def read_request(message: Message) -> Asked:
    """A message of kind "request". Raises as :func:`read_text` does."""
    source: Source = "reviews" if message["channel"] == "review" else "chats"
    _, prob, spans = min(
        (-demand["prob"], demand["prob"], demand["evidence"])
        for demand in message["demands"]
        if demand["demand"] in unmet.ASKING
    )
    where = place("shop", "", unmet.UNLISTED)
    text = Text(where, message["ts"], int(message["fingerprint"], 16), author(message["user_id"]))
    terms = tuple(map(str, message["terms"]))
    return Asked(terms, f"shop/{message['signal_id']}", text, source, quote(message, prob, spans))


def read_queries(message: Message) -> list[tuple[Terms, int, Candidate]]:
    """A message of kind "queries": key terms, count and quote of each. Raises as :func:`read_text` does."""
    found = []
    for query, count in message["rows"]:
        if type(count) is not int:
            raise TypeError("searches are whole numbers")
        terms = unmet.key_terms(keywords(query)) or unmet.key_terms([query])
        if terms:
            found.append((terms, count, Candidate(QUERY_SCORE, "", query, ())))
    return found


def read_behaviour(message: Message) -> tuple[list[Where], list[tuple[int, ...]], list[Shelf | None]]:
    """A message of kind "panes": places, their PANE_FEATURES and shelves. Raises as :func:`read_text` does."""
    columns = message["columns"]
    features = [columns[name] for name in PANE_FEATURES]
    if not INTEGERS.issuperset(map(type, chain.from_iterable(features))):
        raise TypeError("counts of behaviour are whole numbers")
    counts = list(zip(*features, strict=True))
    scopes = [message["scope"]] * len(counts)
    unknown = [None] * len(counts)
    shelves = zip(*(columns.get(name, unknown) for name in ("stock", "lead_time_days", "price")), strict=True)
    return (
        list(zip(scopes, columns["product_id"], columns["category"], strict=True)),
        counts,
        [
            None if stock is None else Shelf(int(stock), float(days), float(price or 0))
            for stock, days, price in shelves
        ],
    )


def count_text(pane: Pane, said: Said) -> None:
    tally = pane.get(said.where)
    if tally is None:
        tally = pane[said.where] = Tally()
    tally.texts = tuple(map(add, tally.texts, said.counts))
    for label, prob, evidence, stars in said.opinions:
        cell = tally.labels.get(label)
        if cell is None:
            cell = tally.labels[label] = Cell()
        cell.add(said.source, 1.0 - stars, quote(said.message, prob, evidence) if cell.admits(prob) else None)
        if stars:
            cell.add("ratings", stars)


def count_request(requests: Requests, asked: Asked) -> None:
    requests.setdefault(asked.terms, Cell()).add(asked.source, 1.0, asked.candidate)


def count_queries(requests: Requests, queries: list[tuple[Terms, int, Candidate]]) -> None:
    for terms, count, candidate in queries:
        requests.setdefault(terms, Cell()).add("clicks", float(count), candidate)


def count_behaviour(
    pane: Pane, places: list[Where], counts: list[tuple[int, ...]], shelves: list[Shelf | None]
) -> None:
    for where, row, shelf in zip(places, counts, shelves, strict=True):
        tally = pane.get(where)
        if tally is None:
            pane[where] = Tally(row, shelf=shelf)
        else:
            tally.behaviour = tuple(map(add, tally.behaviour, row))
            tally.note_shelf(shelf)


def quote(message: Mapping[str, Any], prob: float, spans: list[Span]) -> Candidate:
    """A text as evidence: cut to the neighbourhood of its first span when it is long."""
    text = message["text"]
    start = 0
    if len(text) > QUOTE_CHARACTERS and spans:
        start = max(0, min(spans[0][0] - QUOTE_CHARACTERS // 4, len(text) - QUOTE_CHARACTERS))
    end = start + QUOTE_CHARACTERS
    inside = tuple((a - start, b - start) for a, b in spans if start <= a and b <= end)
    return Candidate(prob, message["event_id"], text[start:end], inside)
