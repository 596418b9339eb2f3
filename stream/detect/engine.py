"""The life of alerts: one step per closed pane, only over the keys that are alive in it.

Promises:

- the alerts depend on event time and counts alone: stepping through empty panes or jumping over them, the order of the
  cells, and saving and restoring between any two steps change nothing, to the last bit;
- an alert opens when its window is improbable beyond the false-alarm budget and holds minimal evidence, is told again
  at most once per window length and only when it grew, and is resolved after a few calm panes. Its last state keeps
  the figures and quotes of its worst window, so that it still explains itself;
- an incident does not become the baseline: while its window is raised a key learns little more than it expected; a
  level that stays becomes the new normal within days;
- what comes late for its pane is added there, so the windows judged from then on hold it; what was told stays told.

Work per pane is proportional to the keys whose window is not empty or whose alert is open. Memory follows the keys
that are remembered: a silent series is dropped when less than :data:`FORGOTTEN` of it is left, looked for once per
half-life (at a half-life of one day a single count is forgotten after a week, a thousand after 17 days); and whenever
more than ``max_silent`` are remembered, the faintest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stream.detect.baseline import PRIOR_VOLUME, Expectation, Track, dose, expect, exposure, learn_spread, read_quotes
from stream.detect.cells import VOLUME, Cell, Key
from stream.detect.rules import DEFAULT_RULES, Rule
from stream.detect.spike import band, open_threshold, severity, tail
from stream.records import Alert, AlertState, Quote, content_id

CLOCK: Final = Key("clock", "product", "", "", "")
FORGOTTEN: Final = 0.01  # a silent series that remembers less than this is dropped
GROWTH: Final = 1.5  # an open alert is told again when it grew by this factor (or in severity)


@dataclass(slots=True)
class Incident:
    """An open alert: when it was last told, and its worst window."""

    opened_at: int
    told_pane: int
    told_severity: int
    told_observed: float
    calm: int = 0
    surprise: float = 2.0  # least tail probability so far
    worst: list[Any] = field(default_factory=list)  # severity, window end, observed, expected, band, shares, quotes

    def to_list(self) -> list[Any]:
        return [
            self.opened_at, self.told_pane, self.told_severity, self.told_observed, self.calm, self.surprise, self.worst
        ]  # fmt: skip


class Engine:
    """Baselines and alerts of one worker partition."""

    def __init__(
        self,
        rules: Iterable[Rule] = DEFAULT_RULES,
        pane_ms: int = 300_000,
        window_panes: int = 12,
        half_life_panes: int = 288,
        model: str = "",
        max_silent: int = 1_000_000,
    ) -> None:
        self.pane_ms = pane_ms
        self.window_panes = window_panes
        self.half_life_panes = half_life_panes
        self.model = model
        self.max_silent = max_silent
        self._decay: float = 0.5 ** (1 / half_life_panes)
        self._rules: dict[tuple[str, str], Rule] = {}
        for rule in rules:
            for scope in rule.scopes:
                if self._rules.setdefault((rule.kind, scope), rule) is not rule:
                    raise ValueError(f"two rules for {rule.kind} in {scope} scope")
        self._tracks: dict[Key, Track] = {}
        self._open: dict[Key, Incident] = {}
        self._active: list[Key] = []  # keys and volumes with a window or an alert
        self._dirty: set[Key] = set()
        self._clock: tuple[int, int] | None = None  # first and last pane

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
        changed: list[Alert] = []
        for empty in range(last + 1, pane):
            changed += self._pane(empty, (), empty - first)
        changed += self._pane(pane, pushes, pane - first)
        self._clock = (first, pane)
        self._dirty.add(CLOCK)
        return changed

    def _counted(self, cells: Mapping[Key, Cell]) -> dict[Key, Cell]:
        return {key: cell for key, cell in cells.items() if cell.observed > 0 and self._watched(key)}

    def _watched(self, key: Key) -> bool:
        return bool(key.shard) and (key.kind == VOLUME or (key.kind, key.scope) in self._rules)

    def _pane(self, pane: int, pushes: Iterable[tuple[int, Mapping[Key, Cell]]], age: int) -> list[Alert]:
        for counted, cells in pushes:
            self._push(counted, cells)
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
        seen = (1 - self._decay**age) / (1 - self._decay)  # panes remembered
        budget = {
            rule: open_threshold(rule.key_days, rule.shop_per_day, len(keys), self.pane_ms, self.window_panes)
            for rule in self._rules.values()
        }
        changed = []
        for key in keys:
            rule = self._rules[key.kind, key.scope]
            alert = self._judge(key, rule, pane, budget[rule], seen)
            if alert is not None:
                changed.append(alert)
        self._active = [key for key in self._active if self._tracks[key].window or key in self._open]
        self._sweep(pane)
        return changed

    def _push(self, pane: int, cells: Mapping[Key, Cell]) -> None:
        fresh = []
        for key, cell in cells.items():
            for series in (key, key.shop) if key.kind == VOLUME else (key,):
                track = self._track(series, pane)
                if not track.window and series not in self._open:
                    fresh.append(series)
                track.push(pane, cell)
        if fresh:
            self._active = sorted(self._active + fresh)

    def _track(self, key: Key, pane: int) -> Track:
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = Track(pane)
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
            del self._tracks[key]
        self._dirty.update(faint)

    # One key

    def _judge(self, key: Key, rule: Rule, pane: int, p_open: float, seen: float) -> Alert | None:
        track = self._tracks[key]
        label = self._track(key.shop, pane)
        self._dirty.add(key.shop)
        track.forget(pane, self._decay)
        label.forget(pane, self._decay)

        gone = track.expire(pane - self.window_panes + 1)
        learnt = gone if track.dose is None else track.dose
        track.level += learnt
        label.level += learnt

        expected = self._expect(key, rule, pane, track, label, seen)
        learn_spread(track, label, expected, 1 / self.window_panes)
        observed = track.observed
        raised = observed >= rule.min_observed and observed >= rule.min_ratio * expected.mean
        probability = tail(observed, expected.mean, expected.shape) if raised else 1.0
        hot = probability <= rule.p_close
        track.dose = dose(observed, expected) / self.window_panes if hot or key in self._open else None
        if key in self._open:
            return self._follow(key, rule, pane, expected, probability, hot)
        return self._open_alert(key, rule, pane, expected, probability) if probability <= p_open else None

    def _expect(self, key: Key, rule: Rule, pane: int, track: Track, label: Track, seen: float) -> Expectation:
        product, volume = self._texts(key.volume, pane)
        shop, shop_volume = self._texts(key.volume.shop, pane)
        usual_texts = (1 + track.level) * self.window_panes / (seen + self.window_panes)
        usual_part = (product + PRIOR_VOLUME) / (shop + PRIOR_VOLUME)
        by_shop, by_product = exposure(track, volume, shop_volume, usual_part, usual_texts)
        texts = max(by_shop, by_product) if rule.volume_aware else by_shop
        return expect(track, label, product, shop, max(texts, FORGOTTEN))

    def _texts(self, volume: Key, pane: int) -> tuple[float, float]:
        """(forgotten sum of texts, texts in the window)."""
        track = self._tracks.get(volume)
        return (track.level_at(pane, self._decay), track.observed) if track else (0.0, 0.0)

    # One alert

    def _open_alert(self, key: Key, rule: Rule, pane: int, expected: Expectation, probability: float) -> Alert:
        incident = self._open[key] = Incident(self._end(pane), pane, 0, 0.0)
        self._worsen(key, incident, pane, expected, probability)
        return self._tell(key, rule, pane, incident, "open")

    def _follow(
        self, key: Key, rule: Rule, pane: int, expected: Expectation, probability: float, hot: bool
    ) -> Alert | None:
        incident = self._open[key]
        incident.calm = 0 if hot else incident.calm + 1
        if incident.calm >= rule.keep_panes:
            del self._open[key]
            self._tracks[key].dose = None
            return self._tell(key, rule, pane, incident, "resolved")
        if probability >= incident.surprise:
            return None
        self._worsen(key, incident, pane, expected, probability)
        grown = incident.worst[0] > incident.told_severity or incident.worst[2] >= GROWTH * incident.told_observed
        due = pane - incident.told_pane >= self.window_panes
        return self._tell(key, rule, pane, incident, "open") if grown and due else None

    def _worsen(self, key: Key, incident: Incident, pane: int, expected: Expectation, probability: float) -> None:
        cell = self._tracks[key].cell()
        observed = cell.observed
        incident.surprise = probability
        incident.worst = [
            severity(observed, expected.mean, probability),
            self._end(pane),
            observed,
            expected.mean,
            list(band(expected.mean, expected.shape)),
            [cell.reviews / observed, cell.chats / observed, cell.clicks / observed],
            [[*quote[:3], [list(span) for span in quote.spans]] for quote in cell.quotes],
        ]

    def _tell(self, key: Key, rule: Rule, pane: int, incident: Incident, state: AlertState) -> Alert:
        level, end, observed, expected, (low, high), shares, quotes = incident.worst
        incident.told_pane, incident.told_severity, incident.told_observed = pane, level, observed
        now = self._end(pane)
        return Alert(
            alert_id=content_id(rule.name, rule.version, *key, incident.opened_at),
            kind=key.kind,
            scope=key.scope,
            product_id=key.product_id,
            category=key.category,
            label=key.label,
            severity=level,
            state=state,
            opened_at=incident.opened_at,
            closed_at=now if state == "resolved" else 0,
            updated_at=now,
            window_start=end - self.window_panes * self.pane_ms,
            window_end=end,
            observed=observed,
            expected=round(expected, 4),
            band=(low, high),
            contributions=dict(zip(("reviews", "chats", "clicks"), shares, strict=True)),
            evidence=[Quote(quote.event_id, quote.text, list(quote.spans)) for quote in read_quotes(quotes)],
            rule=rule.name,
            rule_version=rule.version,
            model=self.model,
        )

    def _end(self, pane: int) -> int:
        return (pane + 1) * self.pane_ms

    # State

    def dirty_keys(self) -> set[Key]:
        """Keys whose state changed since :meth:`mark_saved`; save each under its ``key.shard``."""
        return set(self._dirty)

    def mark_saved(self) -> None:
        self._dirty.clear()

    def known_keys(self) -> list[Key]:
        """Every key with state."""
        return [*self._tracks, CLOCK]

    def snapshot(self, key: Key) -> list[Any]:
        """The state of a key as plain JSON; empty when there is none (any more)."""
        if key == CLOCK:
            return list(self._clock or ())
        track = self._tracks.get(key)
        if track is None:
            return []
        incident = self._open.get(key)
        return [track.to_list(), incident.to_list() if incident else None]

    def restore(self, key: Key, state: list[Any]) -> None:
        """Put back what :meth:`snapshot` gave, each key once, in any order, before the first step."""
        if not state:
            return
        if key == CLOCK:
            self._clock = (state[0], state[1])
            return
        track = self._tracks[key] = Track.from_list(state[0])
        if state[1]:
            self._open[key] = Incident(*state[1])
        if track.window or state[1]:
            self._active.append(key)
