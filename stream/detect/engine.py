"""Counts in, alert states out: one step per closed pane, only over the keys that are alive in it.

Promises:

- the alerts depend on event time, counts and actions alone: stepping through empty panes or jumping over them, the
  order of the cells, and saving and restoring between any two steps change nothing, to the last bit;
- a series is judged in one of two ways. While it is new: its last window against the texts of the shop and the product,
  which know the hour and the promotion (:mod:`stream.detect.baseline`). Once it is *settled*, known for a week with
  :data:`ADMITTED` counts or more: by its own season and trend in a :class:`~stream.detect.book.Book`, for bursts of
  five minutes to half a day, slow ramps and silence, as its rule asks;
- an alert opens when the evidence is improbable beyond the false-alarm budget and minimal; what happens to it then is
  said in :mod:`stream.detect.lifecycle`. Its last state keeps the figures and quotes of its worst window, so
  that it still explains itself;
- an incident does not become the baseline: while its window is raised a new key learns little more than it expected,
  and a settled one nothing while its alert is open; a level that stays becomes the new normal within days;
- another model counts otherwise: after a restart with one nothing opens for a day (two of the longest windows), while
  its levels are learnt;
- what comes late for its pane is added there, so the windows judged from then on hold it; what was told stays told;
- other rules take the place of the present ones between two steps (:meth:`Engine.reload`, or a restart with another
  file): baselines stay, an open alert goes on under the new version of its rule, and is resolved when that is gone.

Work per pane is proportional to the keys whose window is not empty or whose alert is open. Memory follows the keys
that are remembered: a silent series is dropped when less than :data:`FORGOTTEN` of it is left, looked for once per
half-life (at a half-life of one day a single count is forgotten after a week, a thousand after 17 days); and whenever
more than ``max_silent`` are remembered, the faintest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from stream.detect import lifecycle
from stream.detect.baseline import (
    PRIOR_VOLUME,
    Expectation,
    Track,
    dose,
    expect,
    exposure,
    learn_spread,
    read_quotes,
    write_quotes,
)
from stream.detect.book import IDLE_PANES, Book
from stream.detect.calendars import KnownDays
from stream.detect.cells import VOLUME, Cell, Key
from stream.detect.copies import About
from stream.detect.forecast import DAY, Settings
from stream.detect.lifecycle import Action, Incident, Reading
from stream.detect.policy import Rule, group_id
from stream.detect.rules import DEFAULT_RULES
from stream.detect.score import MOST, Score, rounded
from stream.detect.settled import Seasons, Seen, is_share
from stream.detect.spike import band, open_threshold, tail
from stream.records import Alert, Quote, content_id

CLOCK: Final = Key("clock", "product", "", "", "")
FORGOTTEN: Final = 0.01  # a silent series that remembers less than this is dropped
LEAST_SURPRISE: Final = 0.3  # no budget is so large that what happens every other time is news
SOURCES: Final = ("reviews", "chats", "clicks", "ratings")
ADMITTED: Final = 3.0  # counts, forgotten ones out, that a series needs for a season of its own
MOST_ROWS: Final = 50_000  # series with a season of their own; the others stay new
FROZEN_MS: Final = 3 * DAY  # how long an open alert keeps its series from learning


class Engine:
    """Baselines and alerts of one worker partition.

    ``price`` gives what a piece costs at the place of a key beside the mean price: times its part of the texts, that is
    about its part of the revenue. ``about`` gives what else there is to say of the window of a key, from a start to an
    end (epoch ms); it is asked when an alert opens or gets worse. ``days`` are the shop's known days; None: the
    usual ones, in UTC.
    """

    def __init__(
        self,
        rules: Iterable[Rule] = DEFAULT_RULES,
        pane_ms: int = 300_000,
        window_panes: int = 12,
        half_life_panes: int = 288,
        model: str = "",
        max_silent: int = 1_000_000,
        price: Callable[[Key], float] = lambda key: 1.0,
        about: Callable[[Key, int, int], About] | None = None,
        days: KnownDays | None = None,
    ) -> None:
        self.pane_ms = pane_ms
        self.window_panes = window_panes
        self.half_life_panes = half_life_panes
        self.model = model
        self.max_silent = max_silent
        self._price = price
        self._about = about
        self.book = Book(Settings(pane_ms=pane_ms))
        self._seasons = Seasons(self.book, self._rule, days or KnownDays())
        self._decay: float = 0.5 ** (1 / half_life_panes)
        self._tracks: dict[Key, Track] = {}
        self._volumes: Counter[tuple[str, str]] = Counter()  # places known, by scope and label
        self._incidents: dict[Key, Incident] = {}  # pending, open, or resolved and still to be reopened
        self._active: list[Key] = []  # keys and volumes with a window or an open alert
        self._dirty: set[Key] = set()
        self._clock: tuple[int, int] | None = None  # first and last pane
        self._busy = 0  # the last pane in which anything came
        self._shadow = 0  # the pane from which on the present model is trusted
        self.reload(rules)

    def reload(self, rules: Iterable[Rule], days: KnownDays | None = None) -> None:
        """Let other rules be in force from the next step on. Raises ValueError for a rule that never gets a turn."""
        self._seasons.days = days or self._seasons.days
        by_scope: dict[tuple[str, str], list[Rule]] = {}
        for rule in rules:
            for scope in rule.scopes:
                others = by_scope.setdefault((rule.kind, scope), [])
                if others and not others[-1].filtered:
                    raise ValueError(f"two rules for {rule.kind} in {scope} scope: {others[-1].name} leaves nothing")
                others.append(rule)
        self._rules = by_scope
        self._reloaded = True

    def _rule(self, key: Key) -> Rule | None:
        """The first rule that watches ``key``."""
        for rule in self._rules.get((key.kind, key.scope), ()):
            if not rule.filtered or rule.watches(key):
                return rule
        return None

    # One pane

    def step(
        self, pane_start: int, cells: Mapping[Key, Cell], late: Mapping[int, Mapping[Key, Cell]] | None = None
    ) -> list[Alert]:
        """Take in the pane that starts at ``pane_start`` (epoch ms) and is now closed; the alert states it changed.

        Panes come in order; those left out count as empty. Cells without a rule or a product or category are ignored.
        ``late`` holds, by their own earlier panes, counts that are told only now. A pane that has left the window
        meanwhile is learnt at once.
        """
        pane = pane_start // self.pane_ms
        pushes = [(start // self.pane_ms, self._counted(past)) for start, past in sorted((late or {}).items())]
        pushes.append((pane, self._counted(cells)))
        if self._clock is None:
            if not any(counted for _, counted in pushes):
                return []
            self._clock = (pane, pane - 1)
        first, last = self._clock
        if pane <= last:
            raise ValueError(f"pane {pane} after pane {last}")
        self._active.sort()
        changed = self._part_with_old_rules(self._end(pane)) if self._reloaded else []
        for empty in range(last + 1, pane):
            changed += self._pane(empty, (), empty - first)
        changed += self._pane(pane, pushes, pane - first)
        self._clock = (first, pane)
        self._dirty.add(CLOCK)
        return changed

    def watch(self, pane_start: int, scores: Mapping[Key, Score], open_at: float) -> list[Alert]:
        """The same life cycle for keys that are scored elsewhere, after :meth:`step` of the pane that starts there."""
        changed = []
        for key, score in sorted(scores.items()):
            rule, incident = self._rule(key), self._incidents.get(key)
            if rule is None or (incident is None and (score.surprise < open_at or score.observed < rule.min_observed)):
                continue
            weight = round(lifecycle.matter(self._price(key), rule), 3)
            level, detail = lifecycle.severity(score, weight), [weight, [0.0, 0.0, 1.0, 0.0], [], "", "", {}]
            reading = Reading(self._end(pane_start // self.pane_ms), score, open_at, level, detail)
            if cause := self._live(key, rule, incident, reading):
                changed.append(self._tell(key, self._incidents[key], cause))
            self._dirty.add(key)
        return changed

    def watches(self, kind: str) -> bool:
        """Whether a rule watches keys of this kind."""
        return any(watched == kind for watched, _ in self._rules)

    def _counted(self, cells: Mapping[Key, Cell]) -> dict[Key, Cell]:
        return {key: cell for key, cell in cells.items() if cell.observed > 0 and self._watched(key)}

    def _watched(self, key: Key) -> bool:
        return bool(key.shard) and (key.kind == VOLUME or self._rule(key) is not None)

    def _pane(self, pane: int, pushes: Iterable[tuple[int, Mapping[Key, Cell]]], age: int) -> list[Alert]:
        pushes = list(pushes)
        if any(cells for _, cells in pushes):
            self._busy = pane
        for counted, cells in pushes:
            self._push(counted, cells)
        self._forget(self._end(pane))
        seen = self._learn(pane, pushes)
        if seen:
            over = [key for key in self._seasons.over(seen) if key in self._tracks]
            self._active = sorted({*self._active, *over})
        if not self._active:
            self._sweep(pane)
            return []
        self._dirty.update(self._active)
        volumes = [key for key in self._active if key.kind == VOLUME]
        keys = [key for key in self._active if key.kind != VOLUME]
        for key in volumes:
            track = self._tracks[key]
            track.forget(pane, self._decay)
            track.level += track.expire(pane - self.window_panes + 1)
        panes = (1 - self._decay**age) / (1 - self._decay)  # those remembered
        thresholds: dict[str, float] = {}
        changed = []
        for key in keys:
            rule = self._rule(key)
            assert rule is not None
            if rule.name not in thresholds:
                thresholds[rule.name] = self._threshold(rule, len(keys))
            alert = self._judge(key, rule, pane, thresholds[rule.name], panes, seen)
            if alert is not None:
                changed.append(alert)
        self._active = [key for key in self._active if self._tracks[key].window or self._firing(key)]
        self._sweep(pane)
        return changed

    def _learn(self, pane: int, pushes: list[tuple[int, Mapping[Key, Cell]]]) -> Seen | None:
        if pane - self._busy > IDLE_PANES:
            return None
        end = self._end(pane)
        frozen = [
            key for key, incident in self._incidents.items() if incident.firing and end - incident.opened_at < FROZEN_MS
        ]
        return self._seasons.learn(pane, pushes, frozen, self._shadow)

    def _threshold(self, rule: Rule, keys: int) -> float:
        """The surprise at which an alert opens."""
        chance = open_threshold(rule.key_days, rule.shop_per_day, keys, self.pane_ms, self.window_panes)
        return max(LEAST_SURPRISE, -math.log10(min(1.0, chance)))

    def _firing(self, key: Key) -> bool:
        incident = self._incidents.get(key)
        return incident is not None and incident.firing

    def _forget(self, now: int) -> None:
        """Let go of resolved alerts that nothing can open again."""
        for key, incident in list(self._incidents.items()):
            rule = self._rule(key)
            if incident.phase == "resolved" and (rule is None or lifecycle.is_over(incident, now, rule.reopen_ms)):
                del self._incidents[key]
                self._dirty.add(key)

    def _part_with_old_rules(self, now: int) -> list[Alert]:
        """After a change of rules: end the alerts and forget the series that nothing watches any more."""
        self._reloaded = False
        changed = []
        for key, incident in sorted(self._incidents.items()):
            rule = self._rule(key)
            if rule is not None and rule.name == incident.rule:
                continue
            reason = f"{key.label} is watched by rule {rule.name} now" if rule else f"rule {incident.rule} is gone"
            ended, cause = lifecycle.abandon(incident, now, reason)
            del self._incidents[key]
            self._dirty.add(key)
            if ended is not None:
                changed.append(self._tell(key, ended, cause))
        gone = {key for key in self._tracks if key.shard and not self._watched(key)}
        for key in gone:
            self._drop(key)
        self.book.forget_rules()
        for key in [key for key in self.book.rows if self._changed_nature(key)]:
            self.book.release(key)
        self._active = [key for key in self._active if key not in gone]
        self._dirty |= gone
        return changed

    def _push(self, pane: int, cells: Mapping[Key, Cell]) -> None:
        fresh = []
        for key, cell in cells.items():
            for series in (key, key.shop) if key.kind == VOLUME else (key,):
                track = self._track(series, pane)
                if not track.window and not self._firing(series):
                    fresh.append(series)
                track.push(pane, cell)
        if fresh:
            self._active = sorted(self._active + fresh)

    def _track(self, key: Key, pane: int) -> Track:
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = Track(pane)
            self._volumes[key.scope, key.label] += is_volume(key)
        return track

    def _sweep(self, pane: int) -> None:
        """Drop the silent series that have faded away (once per half-life) and the faintest of too many."""
        crowded = len(self._tracks) - len(self._active) > self.max_silent
        if pane % self.half_life_panes and not crowded:
            return
        active = set(self._active)
        silent = [
            (track.level_at(pane, self._decay), key)
            for key, track in self._tracks.items()
            if key.shard and key not in active
        ]
        faint = [key for level, key in silent if level < FORGOTTEN]
        if crowded:  # make some room, so as not to come here again at once
            faint = [key for _, key in sorted(silent)[: max(len(faint), len(silent) - self.max_silent * 7 // 8)]]
        for key in faint:
            self._drop(key)
        self._dirty.update(faint)

    def _drop(self, key: Key) -> None:
        del self._tracks[key]
        self._volumes[key.scope, key.label] -= is_volume(key)
        if key in self.book.rows:
            self.book.release(key)

    def _changed_nature(self, key: Key) -> bool:
        """Whether its rule now asks for a share where it was a count, or the other way round."""
        rule = self._rule(key) if key in self._tracks else None
        return rule is not None and is_share(rule) != self.book.is_share(key)

    # One key

    def _judge(self, key: Key, rule: Rule, pane: int, open_at: float, panes: float, seen: Seen | None) -> Alert | None:
        track = self._tracks[key]
        label = self._track(key.shop, pane)
        self._dirty.add(key.shop)
        track.forget(pane, self._decay)
        label.forget(pane, self._decay)

        gone = track.expire(pane - self.window_panes + 1)
        learnt = gone if track.dose is None else track.dose
        track.level += learnt
        label.level += learnt

        expected = self._expect(key, rule, pane, track, label, panes)
        learn_spread(track, label, expected, 1 / self.window_panes)
        season = self._seasons.judge(key, rule, seen, self._incidents.get(key)) if seen else None
        if season is None:
            surprise = surprise_of(track.observed, expected, rule)
            self._admit(key, rule, pane, track, panes)
        else:
            assert seen is not None
            surprise, open_at = season.surprise, seen.open_at[rule.name]
        incident = self._incidents.get(key)
        if pane < self._shadow and lifecycle.is_quiet(incident):
            track.dose = None
            return None
        hot = lifecycle.is_hot(surprise, open_at, rule)
        if surprise < open_at and lifecycle.is_quiet(incident):
            track.dose = dose(track.observed, expected) / self.window_panes if hot else None
            return None
        score = season or self._burst(pane, track.observed, expected, surprise)
        if incident is not None and incident.firing and score.surprise <= incident.worst.score.surprise:
            reading = Reading(self._end(pane), score, open_at, 0, [])  # an alert keeps what its worst pane showed
        else:
            if season is None:
                low, high = band(expected.mean, expected.shape)
                score = rounded(score._replace(lo=low, hi=high))
            reading = self._reading(key, rule, pane, score, open_at)
        cause = self._live(key, rule, incident, reading)
        if season and self._firing(key) and not (incident and incident.firing):
            self.book.quieten(key)
        track.dose = dose(track.observed, expected) / self.window_panes if hot or self._firing(key) else None
        return self._tell(key, self._incidents[key], cause) if cause else None

    def _admit(self, key: Key, rule: Rule, pane: int, track: Track, panes: float) -> None:
        """Give a series that is worth it a row in the book."""
        if len(self.book.rows) < MOST_ROWS and key not in self.book.rows and track.level + track.observed >= ADMITTED:
            share = is_share(rule)
            exposure = self._texts(key.volume, pane)[0] if share else panes
            self.book.admit(key, share, track.level, max(exposure, track.level if share else 1.0))

    def _burst(self, pane: int, observed: float, expected: Expectation, surprise: float) -> Score:
        """More in the window than there should be; still without its band."""
        since = self._end(pane) - self.window_panes * self.pane_ms
        return rounded(Score("burst", observed, expected.mean, 0.0, 0.0, surprise, since))

    def _reading(self, key: Key, rule: Rule, pane: int, score: Score, open_at: float) -> Reading:
        weight = round(lifecycle.matter(self._volume_share(key, pane) * self._price(key), rule), 3)
        level = lifecycle.severity(score, weight)
        cell = self._tracks[key].cell()
        shares = [getattr(cell, source) / max(cell.observed, 1e-9) for source in SOURCES]
        return Reading(self._end(pane), score, open_at, level, [weight, shares, write_quotes(cell), *About()])

    def _volume_share(self, key: Key, pane: int) -> float:
        """The part of the texts that a product has, 1 on average."""
        volume = key.volume
        (product, _), (shop, _) = self._texts(volume, pane), self._texts(volume.shop, pane)
        return (product + PRIOR_VOLUME) / (shop + PRIOR_VOLUME) * max(1, self._volumes[volume.scope, volume.label])

    def _live(self, key: Key, rule: Rule, incident: Incident | None, reading: Reading) -> str:
        """Keep the incident that follows, named if it has just opened; why it is told."""
        after, cause = lifecycle.observe(incident, reading, rule, self.window_panes * self.pane_ms)
        if after is None:
            self._incidents.pop(key, None)
            return cause
        if after.worst.end == reading.now and self._about:
            about = self._about(key, reading.now - self.window_panes * self.pane_ms, reading.now)
            after = replace(after, worst=after.worst._replace(detail=[*reading.detail[:3], *about]))
        if after.firing and not after.alert_id:
            alert_id = content_id(rule.name, rule.version, *key, after.opened_at)
            after = replace(after, alert_id=alert_id, group=rule.group(key))
        self._incidents[key] = after
        return cause

    def _expect(self, key: Key, rule: Rule, pane: int, track: Track, label: Track, seen: float) -> Expectation:
        place = key.volume
        product, volume = self._texts(place, pane)
        shop, shop_volume = self._texts(place.shop, pane)
        usual_texts = (1 + track.level) * self.window_panes / (seen + self.window_panes)
        usual_part = (product + PRIOR_VOLUME) / (shop + PRIOR_VOLUME)
        counted = track.observed if key.scope == "shop" else track.texts  # searches are among the requests of a shop
        by_shop, by_product = exposure(counted, volume, shop_volume, usual_part, usual_texts)
        texts = max(by_shop, by_product) if rule.volume_aware else by_shop
        return expect(track, label, product, shop, max(texts, FORGOTTEN))

    def _texts(self, volume: Key, pane: int) -> tuple[float, float]:
        """(forgotten sum of texts, texts in the window)."""
        track = self._tracks.get(volume)
        return (track.level_at(pane, self._decay), track.observed) if track else (0.0, 0.0)

    # One alert

    def act(self, action: Action) -> list[Alert]:
        """Do what an operator says; the new state of the alert, or nothing where the action changes nothing or its
        alert is not known (any more). Counts from the end of the last pane."""
        for key, incident in self._incidents.items():
            if incident.alert_id == action.alert_id and self._clock:
                changed, cause = lifecycle.act(incident, action, self._end(self._clock[1]))
                if cause:
                    self._incidents[key] = changed
                    self._dirty.add(key)
                    return [self._tell(key, changed, cause)]
        return []

    def _tell(self, key: Key, incident: Incident, cause: str) -> Alert:
        worst, score = incident.worst, incident.worst.score
        weight, shares, quotes, note, origin, origin_figures = worst.detail
        return Alert(
            alert_id=incident.alert_id,
            kind=key.kind,
            scope=key.scope,
            product_id=key.product_id,
            category=key.category,
            label=key.label,
            severity=worst.severity,
            state=incident.state,
            opened_at=incident.opened_at,
            closed_at=incident.closed_at,
            updated_at=incident.updated_at,
            window_start=score.since,
            window_end=worst.end,
            observed=score.observed,
            expected=round(score.expected, 4),
            band=(score.lo, score.hi),
            contributions=dict(zip(SOURCES, shares, strict=True)),
            evidence=[Quote(quote.event_id, quote.text, list(quote.spans)) for quote in read_quotes(quotes)],
            rule=incident.rule,
            rule_version=incident.version,
            model=self.model,
            note=note,
            cause=cause,
            statistic=score.statistic,
            since=score.since,
            surprise=score.surprise,
            threshold=round(worst.open_at, 3),
            weight=weight,
            reopened=incident.reopened,
            until=incident.until,
            verdict=incident.verdict,
            group_key=incident.group,
            group_id=group_id(incident.group),
            origin=origin,
            origin_figures=dict(origin_figures),
        )

    def _end(self, pane: int) -> int:
        return (pane + 1) * self.pane_ms

    # State

    def dirty_keys(self) -> set[Key]:
        """Keys whose state changed since :meth:`mark_saved`; save each under its ``key.shard``."""
        return set(self._dirty)

    def firing(self, kind: str) -> set[str]:
        """The labels of this kind with an open alert."""
        return {key.label for key, incident in self._incidents.items() if key.kind == kind and incident.firing}

    def mark_saved(self) -> None:
        self._dirty.clear()

    def known_keys(self) -> list[Key]:
        """Every key with state."""
        return [*self._tracks, *(key for key in self._incidents if key not in self._tracks), CLOCK]

    def snapshot(self, key: Key) -> list[Any]:
        """The state of a key as plain JSON; empty when there is none (any more)."""
        if key == CLOCK:
            return [*self._clock, self._busy, self.model, self._shadow] if self._clock else []
        track, incident = self._tracks.get(key), self._incidents.get(key)
        if track is None and incident is None:
            return []
        return [track.to_list() if track else None, incident.to_list() if incident else None]

    def restore(self, key: Key, state: list[Any]) -> None:
        """Put back what :meth:`snapshot` gave, each key once, in any order, before the first step."""
        if not state:
            return
        if key == CLOCK:
            first, last, self._busy, model, self._shadow = state
            self._clock = (first, last)
            if model != self.model:
                self._shadow = last + 1 + self._seasons.shadow_panes
            return
        track, incident = state
        if incident:
            self._incidents[key] = Incident.from_list(incident)
        if track:
            self._tracks[key] = Track.from_list(track)
            self._volumes[key.scope, key.label] += is_volume(key)
            if self._tracks[key].window or self._firing(key):
                self._active.append(key)


def surprise_of(observed: float, expected: Expectation, rule: Rule) -> float:
    """-log10 of the chance of so many, to three decimals; 0 where the rule asks for more, or not for bursts."""
    if "burst" not in rule.statistics or observed < rule.min_observed or observed < rule.min_ratio * expected.mean:
        return 0.0
    return round(min(MOST, -math.log10(max(tail(observed, expected.mean, expected.shape), 10**-MOST))), 3)


def is_volume(key: Key) -> bool:
    """Whether it counts the texts of one product or category."""
    return key.kind == VOLUME and bool(key.shard)
