"""Clicks: block → columns → wait for the watermark → sessions and product panes → triggers, sessions, behaviour.

Clicks are held until the watermark passes them and then taken in the order of event time, so sessions and panes do not
depend on the order of arrival, and a redelivered click is dropped where it lies beside itself. A closed pane goes to
``signals`` as whole counts, not as changes, so sending it again is harmless. What was searched in vain in it goes to
the one lane that looks for unmet demand.

A click that comes behind the watermark but no more than ``correct_ms`` is late: at the end of the pane in which it
arrived it is counted in the open session that it falls into, and sent to ``signals`` as a correction of its pane.

The lane also reads ``said`` of its partition, what the same shoppers wrote in chats, and joins it with their sessions.
What waits for the watermark is not saved: after a restart it is read again (:meth:`Clicks.resume`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import orjson
from msgspec.structs import astuple

from stream.agents.clock import SourceClock
from stream.checkpoint import Changes, Log, Segments, in_order
from stream.columns import Columns
from stream.detect import unmet
from stream.events import ACTIONS, Click, ClickColumns, decode_clicks
from stream.lanes import Effects
from stream.recommend.catalogue import Catalogue
from stream.recommend.intent import Intent
from stream.recommend.rank import trigger
from stream.records import to_dict
from stream.settings import Settings
from stream.sinks.kafka import partition_of
from stream.transport import Block
from stream.windows.behaviour import COUNTS, NONE, PANE_FEATURES, SUMS, BehaviourPanes, Longs, Pane, Products
from stream.windows.chats import Chats, Said
from stream.windows.counted import Counted
from stream.windows.queries import Queries, most_frequent, normalised
from stream.windows.sessions import COLUMN, Sessions, Taken, Told
from stream.windows.watermark import BEGINNING, MinWatermark

CHUNK: Final = 1_000  # products in one message
ACTION: Final = {name: place for place, name in enumerate(ACTIONS)}
EMPTY, ABANDONS, COMPARISONS, PRICED = (
    COUNTS.index(name) for name in ("empty_searches", "abandons", "comparisons", "priced")
)
NO_QUERIES: Final[Mapping[int, str]] = {}
DWELL, CENTS = (SUMS.index(name) for name in ("dwell_ms", "price_cents"))


class Clicks:
    """The processor of one partition of ``clicks`` and ``said``."""

    def __init__(self, partition: int, settings: Settings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._source = f"clicks/{partition}"
        self._clock = SourceClock(self._source, settings)
        self._joint = MinWatermark([self._source, *(f"chats/{n}" for n in range(settings.partitions))])
        self._heard: dict[str, list[int]] = {}  # the last message applied, by source
        self._catalogue = catalogue
        self._products = Products(catalogue)
        self._product_log = Log("products")
        self._products_saved = 0
        self._room = settings.max_keys
        self._arrived: list[ClickColumns] = []
        self._waiting = decode_clicks((), 0, self._products.numbers).clicks  # for the watermark, in time
        self._late: dict[int, list[Click]] = defaultdict(list)  # by the boundary at which they are counted
        self._read = 0  # offset of the next click that was never seen
        self._taken_to = BEGINNING  # all clicks before this event time were taken
        self._counted = Counted(settings.pane_ms)
        self._sessions = Sessions(settings.session_gap_ms, settings.session_max_ms, self._products)
        self._panes = BehaviourPanes(settings.pane_ms, settings.max_keys)
        self._queries = Queries()
        self._chats = Chats(settings.session_gap_ms)
        self._ended: list[Columns] = []  # sessions on their way to the chats
        self._over: dict[str, bytes | None] = {}  # segments of closed panes
        self._saved: bytes = b""

    @property
    def watermark(self) -> int:
        return self._joint.value

    async def process(self, block: Block) -> Effects:
        effects = Effects()
        if block.topic.endswith("said"):
            self._listen(block, effects)
        else:
            self._read_clicks(block, effects)
        self._advance(effects)
        self._clock.report(effects)
        return effects

    def tick(self, silent_seconds: float, elapsed_seconds: float) -> Effects:
        effects = Effects()
        if self._clock.run_on(silent_seconds, elapsed_seconds):
            self._advance(effects)
            self._clock.report(effects, idle=True)
        return effects

    # What comes in

    def _read_clicks(self, block: Block, effects: Effects) -> None:
        decoded = decode_clicks(block.records, self._settings.ahead_ms, self._products.numbers)
        clicks, beats, rejects = decoded.clicks, decoded.beats, decoded.rejects
        if block.first < self._read:  # after a restart: what was held comes again, what was taken does too
            known = clicks.offset < self._read
            self._arrived.append(clicks.take(known & (clicks.ts >= self._taken_to)))
            clicks, seen = clicks.take(~known), int(known.sum())
            beats = [(place - seen, beat) for place, beat in beats if place >= seen]
            rejects = [reject for reject in rejects if reject.offset >= self._read]
        self._read = max(self._read, block.last + 1)
        effects.rejects = rejects
        mark = self._clock.advance(clicks.ts, beats)
        late = clicks.ts < mark
        effects.counts["records"] += len(clicks) + len(beats) + len(rejects)
        effects.counts["heartbeats"] += len(beats)
        effects.counts["late"] += int(late.sum())
        if late.any():
            self._put_late(clicks.take(late), mark[late], effects)
            clicks = clicks.take(~late)
        self._arrived.append(clicks)

    def _put_late(self, clicks: ClickColumns, mark: Longs, effects: Effects) -> None:
        pane = self._settings.pane_ms
        correctable = clicks.ts >= mark - self._settings.correct_ms
        effects.counts["dropped_late"] += int((~correctable).sum())
        newest = mark + self._settings.lateness_ms
        ends = (newest - newest % pane + pane).tolist()
        for i in np.flatnonzero(correctable).tolist():
            self._late[ends[i]].append(clicks.click(i))

    def _listen(self, block: Block, effects: Effects) -> None:
        """Messages of the chat lanes: what a shopper said, and how far the chats are."""
        for record in block.records:
            message = orjson.loads(record.value)
            source = message["source"]
            if message["kind"] == "watermark":
                self._joint.report(source, message["ts"], message["idle"], message["replay"])
            elif message["seq"] > self._heard.get(source, []):
                self._heard[source] = message["seq"]
                if not message["late"]:  # a late one may come after its session has gone out, or before
                    said = (message["ts"], message["signal_id"], message["session_id"], message["score"])
                    self._chats.hear(message["user_id"], Said(*said, tuple(message["demands"])))
        effects.counts["said"] += len(block)

    # Time

    def _advance(self, effects: Effects) -> None:
        """Take the clicks that the watermark has passed, pane by pane, and close what it has ended."""
        self._sort(effects)
        mark = self._clock.watermark
        for boundary in self._boundaries(mark.value):
            self._take_before(boundary, effects)
            self._end(self._sessions.close(boundary), effects)
            self._take_late(boundary, effects)
            self._end(self._sessions.shrink(self._settings.max_sessions), effects)
            self._counted.forget(boundary - self._settings.correct_ms - self._settings.pane_ms)
            for start, pane in self._panes.close(boundary):
                effects.counts["overflow"] += pane.overflow
                self._over.update(pane.log.drop())
                self._send_pane(self._source, [start], start, pane, effects)
            for start, queries in self._queries.close(boundary):
                self._send_queries(self._source, [start], start, queries, effects)
        self._take_before(mark.value, effects)
        self._end(self._sessions.close(mark.value), effects)
        self._joint.report(self._source, mark.value, False, mark.replay)
        complete = self._chats.join(self._ended, self._joint.value, self._sessions.covers, self._settings.max_sessions)
        self._ended = []
        if complete:
            effects.columns["sessions"] += complete
            effects.counts["sessions"] += sum(map(len, complete))
        self._make_room()

    def _boundaries(self, watermark: int) -> Iterator[int]:
        """The ends of panes up to ``watermark`` at which something has to be done."""
        pane = self._settings.pane_ms
        last = watermark - watermark % pane
        while self._panes.closed_to < last:
            first = self._waiting.ts[:1].tolist()
            ends = [time - time % pane + pane for time in (*first, *self._panes.open, *self._queries.panes)]
            yield min([last, *ends, *self._late])

    def _sort(self, effects: Effects) -> None:
        if self._arrived:
            delivered = ClickColumns.concat([self._waiting, *self._arrived])
            self._arrived = []
            self._waiting = in_time(delivered)
            effects.counts["redelivered"] += len(delivered) - len(self._waiting)

    def _take_before(self, watermark: int, effects: Effects) -> None:
        self._taken_to = max(self._taken_to, watermark)
        end = int(np.searchsorted(self._waiting.ts, watermark))
        if end:
            clicks, self._waiting = (
                self._waiting.take(slice(end)),
                self._waiting.take(np.arange(end, len(self._waiting))),
            )
            self._take(clicks, effects)

    def _take(self, clicks: ClickColumns, effects: Effects) -> None:
        """Clicks from one watermark to the next, in time."""
        effects.counts["clicks"] += len(clicks)
        self._counted.add(clicks.ts, clicks.checksum)
        taken = self._sessions.take(clicks)
        missed = {i: clicks.click(i).query or "" for i in np.flatnonzero(clicks.empty).tolist()}
        self._count(clicks, taken, missed)
        for i, query in missed.items():
            if not self._queries.add(self._pane_of(int(clicks.ts[i])), query):
                effects.counts["overflow"] += 1
        self._end(taken, effects, missed)

    # Panes

    def _count(self, clicks: ClickColumns, taken: Taken, missed: Mapping[int, str]) -> None:
        """``missed`` are the queries of empty searches, by place."""
        product = clicks.product.copy()
        nameless = [i for i in missed if product[i] == NONE]
        product[nameless] = self._products.numbers([self._missed(missed[i]) for i in nameless])
        feature = np.where(clicks.empty, EMPTY, COLUMN[clicks.action])
        about = product != NONE
        priced = about & ~np.isnan(clicks.price)
        cents = np.zeros(len(clicks), np.int64)
        cents[priced] = np.rint(clicks.price[priced] * 100)
        compared = np.zeros(len(clicks), np.bool_)
        compared[[told.place for told in taken.told if told.intent == "comparing"]] = True
        dwelt = taken.looked_at != NONE
        for pane, here in self._panes.by_pane(clicks.ts):
            pane.count(product[here & about], feature[here & about])
            pane.count(product[here & priced], np.full(int((here & priced).sum()), PRICED))
            pane.sum(product[here & priced], CENTS, cents[here & priced])
            pane.count(product[here & compared], np.full(int((here & compared).sum()), COMPARISONS))
            pane.sum(taken.looked_at[here & dwelt], DWELL, taken.dwell[here & dwelt])

    def _missed(self, query: str) -> str:
        """The product that an empty search was most likely for."""
        best = next(iter(self._catalogue.search(query, 1)), None)
        return best[0].product_id if best else ""

    def _take_late(self, boundary: int, effects: Effects) -> None:
        """Count the clicks that arrived late in the pane that ends now; as changes of their own panes."""
        panes: dict[int, Pane] = {}
        queries: dict[int, Counter[str]] = defaultdict(Counter)
        for click in sorted(self._late.pop(boundary, ()), key=lambda click: (click.ts, click.event_id)):
            seen = self._counted.seen(click.ts, click.event_id)
            if seen is not False:
                effects.counts["redelivered_late" if seen else "dropped_late"] += 1
                continue
            empty = click.action == "search" and click.results == 0
            amended = self._sessions.amend(click.user_id, click.ts, ACTION[click.action], click.price, empty)
            effects.counts["late_in_session"] += amended
            (product,) = self._products.numbers(
                [click.product_id or (self._missed(click.query or "") if empty else "")]
            )
            start = self._pane_of(click.ts)
            if empty and (query := normalised(click.query or "")):
                queries[start][query] += 1
            if product != NONE:
                pane = panes.setdefault(start, Pane(start, self._settings.max_keys))
                at = np.array([product], np.int32)
                pane.count(at, np.array([EMPTY if empty else COLUMN[ACTION[click.action]]]))
                if click.price is not None:
                    pane.count(at, np.array([PRICED]))
                    pane.sum(at, CENTS, np.array([round(click.price * 100)]))
        for start in sorted({*panes, *queries}):
            if start in panes:
                self._send_pane(f"{self._source}/late", [boundary, start], start, panes[start], effects)
            if start in queries:
                self._send_queries(f"{self._source}/late", [boundary, start], start, queries[start], effects)

    def _pane_of(self, ts: int) -> int:
        return ts - ts % self._settings.pane_ms

    def _send_pane(self, source: str, seq: list[int], start: int, pane: Pane, effects: Effects) -> None:
        """A pane by product and by category, to the partitions where their texts are counted."""
        self._products.refresh()
        numbers, table = pane.products[: pane.size], pane.table()
        category = self._products.category[numbers]
        groups = np.unique(category[category > 0])
        sums = np.array([table[category == group].sum(axis=0) for group in groups])
        ids, shelves = self._products.ids, self._products.categories
        products = [(ids[n], shelves[c]) for n, c in zip(numbers.tolist(), category.tolist(), strict=True)]
        categories = [("", shelves[group]) for group in groups]
        scopes: list[Any] = [("product", products, table), ("category", categories, sums)]
        for number, (scope, names, rows) in enumerate(scopes):
            at: dict[int, list[int]] = defaultdict(list)
            for i in sorted(range(len(names)), key=names.__getitem__):
                key = names[i][0] if scope == "product" else f"category/{names[i][1]}"
                at[partition_of(key, self._settings.partitions)].append(i)
            for partition, places in sorted(at.items()):
                for chunk in range(0, len(places), CHUNK):
                    part = places[chunk : chunk + CHUNK]
                    values = rows[part].T.tolist()
                    columns = {
                        "product_id": [names[i][0] for i in part],
                        "category": [names[i][1] for i in part],
                        **dict(zip(PANE_FEATURES, values, strict=True)),
                    }
                    if scope == "product":
                        columns |= self._shelves(columns["product_id"])
                    message: dict[str, Any] = {
                        "kind": "panes", "source": source, "seq": [*seq, number, chunk], "pane": start,
                        "scope": scope, "columns": columns,
                    }  # fmt: skip
                    effects.messages.append(("signals", None, message, partition))
                    effects.counts["panes"] += 1

    def _shelves(self, product_ids: list[Any]) -> dict[str, list[Any]]:
        """What the catalogue has of these products now; None for one that it does not know."""
        found = [self._catalogue.get(product_id) for product_id in product_ids]
        return {
            "stock": [product and product.stock for product in found],
            "lead_time_days": [product and product.lead_time_days for product in found],
            "price": [product and product.price for product in found],
        }

    def _send_queries(self, source: str, seq: list[int], start: int, pane: Counter[str], effects: Effects) -> None:
        """What was searched in vain in a pane, after the products of that pane."""
        rows, left_out = most_frequent(pane)
        effects.counts["overflow"] += left_out
        message = {"kind": "queries", "source": source, "seq": [*seq, 2, 0], "pane": start, "rows": rows}
        effects.messages.append(("signals", unmet.PLACE, message, None))

    # Sessions

    def _end(self, taken: Taken, effects: Effects, missed: Mapping[int, str] = NO_QUERIES) -> None:
        for told in taken.told:
            self._trigger(told, missed.get(told.place, ""), effects)
        if taken.left:
            ts, product = np.array(taken.left, np.int64).T
            for pane, here in self._panes.by_pane(ts):
                pane.count(product[here].astype(np.int32), np.full(int(here.sum()), ABANDONS))
        self._ended += taken.ended

    def _trigger(self, told: Told, query: str, effects: Effects) -> None:
        product_id = self._products.ids[told.product] if told.product != NONE else ""
        effects.counts[f"intent_{told.intent}"] += 1
        recommendation = trigger(
            Intent(told.intent, product_id, query if told.intent == "empty_search" else ""),
            ts=told.ts,
            user_id=told.user_id,
            session_id=told.session_id,
            catalogue=self._catalogue,
        )
        if recommendation is not None:
            row = to_dict(recommendation)
            effects.rows["recommendations"].append(row)
            effects.messages.append(("recommendations", told.user_id, row, None))
            effects.counts["recommendations"] += 1

    # State

    def _make_room(self) -> None:
        """Forget products that nothing open names, when there are many."""
        if len(self._products) > self._room:
            used = (self._waiting.product, self._sessions.used(), self._panes.used())
            new = self._products.keep(np.concatenate(used))
            self._waiting.product = new[self._waiting.product]
            self._sessions.renumber(new)
            for pane in self._panes.open.values():
                pane.renumber(new)
            self._products_saved = -1
            self._room = max(self._settings.max_keys, 2 * len(self._products))

    def resume(self, topic: str, position: int) -> int:
        if topic.endswith("said"):
            return position
        return int(self._waiting.offset.min(initial=position))

    def dump(self) -> Changes:
        changes, self._over = dict(self._over), {}
        late = [[at, [astuple(click) for click in clicks]] for at, clicks in self._late.items()]
        state = orjson.dumps([
            self._clock.dump(), self._joint.dump(), self._heard, self._panes.closed_to, self._read, self._taken_to,
            self._room, self._counted.forgotten, late,
        ])  # fmt: skip
        if state != self._saved:
            self._saved = changes["clock"] = state
        changes |= self._dump_products()
        changes |= self._sessions.dump()
        for pane in self._panes.open.values():
            changes |= pane.dump()
        changes |= self._counted.dump()
        changes |= self._queries.dump()
        changes |= self._chats.dump()
        return changes

    def _dump_products(self) -> Changes:
        ids, begin = self._products.ids, self._products_saved
        self._products_saved = len(ids)
        if begin < 0 or self._product_log.due():
            return self._product_log.fold(orjson.dumps(ids))
        return self._product_log.append(orjson.dumps(ids[begin:])) if len(ids) > begin else {}

    def load(self, segments: Segments) -> None:
        self._saved = segments["clock"]
        (
            clock, joint, self._heard, self._panes.closed_to, self._read, self._taken_to,
            self._room, self._counted.forgotten, late,
        ) = orjson.loads(self._saved)  # fmt: skip
        self._clock.load(clock)
        self._joint.load(joint)
        self._late.update((at, [Click(*click) for click in clicks]) for at, clicks in late)
        for _, number, data in in_order(segments, "products/"):
            self._products.numbers(orjson.loads(data))
            self._product_log.seen(number, len(data))
        self._products_saved = len(self._products)
        self._products.refresh()
        self._sessions.load(segments)
        for start, number, data in in_order(segments, "pane/"):
            self._panes.at(int(start)).load(number, data)
        self._counted.load(segments)
        self._queries.load(segments)
        self._chats.load(segments, self._joint.value)


def in_time(clicks: ClickColumns) -> ClickColumns:
    """Clicks in the order of event time, those of one time by checksum, each once: a second delivery has the same time
    and then lies beside the first."""
    order = np.argsort(clicks.ts, kind="stable")
    ts = clicks.ts[order]
    same = ts[1:] == ts[:-1]
    if same.any():
        tied = np.append(False, same) | np.append(same, False)
        rows = order[tied]
        order[tied] = rows[np.lexsort((clicks.checksum[rows], clicks.ts[rows]))]
        checksum = clicks.checksum[order]
        alike = np.flatnonzero(same & (checksum[1:] == checksum[:-1])).tolist()
        ids = {i: clicks.click(order[i]).event_id for pair in alike for i in (pair, pair + 1)}
        order = np.delete(order, [i + 1 for i in alike if ids[i] == ids[i + 1]])
    return clicks.take(order)
