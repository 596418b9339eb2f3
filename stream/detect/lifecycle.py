"""The life of one alert: pending → open → (acknowledged | silenced | snoozed) → resolved, and open again.

A pure state machine. :func:`observe` takes what a closed pane says of a series, :func:`act` what an operator does; both
give the next state and why it is told, or "" when there is nothing to tell. The only clock is the end of panes.

- *Hysteresis*: an alert opens when the surprise has been at the threshold for ``for``, and is resolved when it has been
  under the lower one for ``keep_firing_for``. A dip in between is no news.
- *Reopening*: what rises again within ``reopen_within`` is the same alert, with a count. The calm before it was no end,
  so from then on twice as much calm (up to ``reopen_within``) is asked for: a score that swings with any period below
  that makes at most two openings of one alert.
- *Holds* lie over an open alert: acknowledged until it is resolved, silenced until somebody lifts it, snoozed until a
  time. A held alert goes on collecting its figures; routes leave it alone.
- *Told*: on opening, when it grew (at most once per window), when a hold begins or ends, again after ``repeat``, and on
  its end. Every state has a greater ``updated_at`` than the one before, so the log of them has an order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, NamedTuple, get_args

from stream.detect.policy import Rule
from stream.detect.score import Score
from stream.records import AlertState, content_id

GROWTH: Final = 1.5  # an open alert is told again when it grew by this factor (or in severity)
END_MS: Final = 9_182_937_600_000  # 2260-12-31
MATTER: Final = (0.5, 2.0)  # bounds of how much more or less than usual a series matters

Verb = Literal["ack", "silence", "snooze", "unsilence", "useful", "not_useful"]
VERBS: Final[tuple[Verb, ...]] = get_args(Verb)
VERDICTS: Final = ("useful", "not_useful")
Hold = Literal["", "acknowledged", "silenced", "snoozed"]


class Reading(NamedTuple):
    """One series at the end of a pane."""

    now: int  # epoch ms
    score: Score
    open_at: float  # the surprise at which an alert opens
    severity: int
    detail: list[Any]  # what else the worst window is remembered by, as plain JSON


class Action(NamedTuple):
    """What an operator does with an alert."""

    alert_id: str
    action: Verb
    ts: int  # when it was said, epoch ms
    by: str = ""
    until: int = 0  # snooze: to this event time, or ...
    duration: int = 0  # ... for so many milliseconds
    note: str = ""


class Worst(NamedTuple):
    """The most surprising window so far."""

    end: int
    severity: int
    open_at: float
    score: Score
    detail: list[Any]


@dataclass(frozen=True, slots=True)
class Incident:
    """The state of one alert, or of one that may become one."""

    rule: str
    version: str
    phase: Literal["pending", "open", "resolved"]
    since: int  # of one that is not open, the first end of the panes in a row at the threshold; 0: the last was not
    worst: Worst
    alert_id: str = ""
    group: str = ""
    opened_at: int = 0
    closed_at: int = 0
    updated_at: int = 0
    hot_at: int = 0  # last time that it was not calm
    patience: int = 0  # milliseconds of calm that resolve it
    reopened: int = 0
    hold: Hold = ""
    until: int = 0  # end of a snooze
    verdict: str = ""
    acted: tuple[int, str, str] = (0, "", "")  # time, verb and author of the last action
    told_at: int = 0
    told_severity: int = 0
    told_observed: float = 0.0

    @property
    def state(self) -> AlertState:
        if self.phase == "open":
            return self.hold or "open"
        return self.phase

    @property
    def firing(self) -> bool:
        return self.phase == "open"

    def to_list(self) -> list[Any]:
        """Plain lists and numbers, exact through JSON."""
        row = [getattr(self, each.name) for each in fields(self)]
        row[4] = [*self.worst[:3], list(self.worst.score), self.worst.detail]
        return row

    @classmethod
    def from_list(cls, row: list[Any]) -> Incident:
        values = dict(zip((each.name for each in fields(cls)), row, strict=True))
        end, level, open_at, score, detail = values["worst"]
        values["worst"] = Worst(end, level, open_at, Score(*score), detail)
        values["acted"] = tuple(values["acted"])
        return cls(**values)


Outcome = tuple[Incident | None, str]


# What a pane says


def is_hot(surprise: float, open_at: float, rule: Rule) -> bool:
    """Whether a window is not calm. The closing threshold is never above the opening one."""
    return surprise >= min(rule.close_surprise, open_at)


def is_quiet(incident: Incident | None) -> bool:
    """Whether a pane below the opening threshold changes nothing: there is no alert that is open or rising."""
    return incident is None or (incident.phase == "resolved" and not incident.since)


def observe(incident: Incident | None, reading: Reading, rule: Rule, window_ms: int) -> Outcome:
    """The state after a pane, and why it is told. ``window_ms``: an alert is told to have grown once in so long.

    The caller names an alert that has just opened (``alert_id`` and ``group`` are then empty).
    """
    now, surprise = reading.now, reading.score.surprise
    if incident is not None and incident.firing:
        return _follow(incident, reading, rule, window_ms)
    over = surprise >= reading.open_at and reading.severity >= rule.min_severity and not rule.muted(now)
    if over:
        rising = _rising(incident, reading, rule)
        return _open(rising, reading, rule) if now - rising.since >= rule.for_ms else (rising, "")
    if incident is None or incident.phase == "pending":
        return None, ""
    return replace(incident, since=0), ""


def _rising(incident: Incident | None, reading: Reading, rule: Rule) -> Incident:
    """A new incident, or one that has been rising for some panes, or that was resolved and rises again."""
    if incident is None:
        return Incident(rule.name, rule.version, "pending", reading.now, _worst(reading))
    return _worse(replace(incident, since=incident.since or reading.now), reading)


def _open(incident: Incident, reading: Reading, rule: Rule) -> Outcome:
    now = reading.now
    if incident.phase == "pending":
        fresh = replace(incident, phase="open", since=0, opened_at=now, hot_at=now, patience=rule.keep_firing_ms)
        return _told(fresh, reading, rule), f"opened: {figures(reading)}"
    silent = now - incident.hot_at
    again = replace(
        _awake(incident, now),
        phase="open",
        since=0,
        closed_at=0,
        hot_at=now,
        patience=max(incident.patience, min(2 * silent, rule.reopen_ms)),
        reopened=incident.reopened + 1,
    )
    if again.hold == "acknowledged":
        again = replace(again, hold="")
    return _told(again, reading, rule), f"opened again after {duration(silent)}: {figures(reading)}"


def _follow(incident: Incident, reading: Reading, rule: Rule, window_ms: int) -> Outcome:
    now, surprise = reading.now, reading.score.surprise
    if is_hot(surprise, reading.open_at, rule):
        incident, worst = _worse(replace(incident, hot_at=now), reading), incident.worst
        if incident.worst is not worst and _has_grown(incident) and now - incident.told_at >= window_ms:
            cause = f"grew to {reading.score.observed:g}: {figures(reading)}"
            return _told(_awake(incident, now), reading, rule), cause
    elif now - incident.hot_at >= incident.patience:
        closed = replace(incident, phase="resolved", closed_at=now)
        return _told(closed, reading, rule), f"calm for {duration(now - incident.hot_at)}: surprise {surprise:g}"
    if (awake := _awake(incident, now)) is not incident:
        return _told(awake, reading, rule), "snooze over"
    if rule.repeat_ms and not incident.hold and now - incident.told_at >= rule.repeat_ms:
        return _told(incident, reading, rule), f"still open after {duration(now - incident.opened_at)}"
    return incident, ""


def _awake(incident: Incident, now: int) -> Incident:
    """Without a snooze that is over."""
    over = incident.hold == "snoozed" and now >= incident.until
    return replace(incident, hold="", until=0) if over else incident


def _has_grown(incident: Incident) -> bool:
    """Since it was told."""
    worst = incident.worst
    return worst.severity > incident.told_severity or worst.score.observed >= GROWTH * incident.told_observed


def figures(reading: Reading) -> str:
    return f"surprise {reading.score.surprise:g} of {reading.open_at:.3g}"


def _worse(incident: Incident, reading: Reading) -> Incident:
    worse = reading.score.surprise > incident.worst.score.surprise
    return replace(incident, worst=_worst(reading)) if worse else incident


def _worst(reading: Reading) -> Worst:
    return Worst(reading.now, reading.severity, reading.open_at, reading.score, reading.detail)


def _told(incident: Incident, reading: Reading, rule: Rule) -> Incident:
    return replace(
        _stamped(incident, reading.now),
        version=rule.version,
        told_at=reading.now,
        told_severity=incident.worst.severity,
        told_observed=incident.worst.score.observed,
    )


def _stamped(incident: Incident, now: int) -> Incident:
    return replace(incident, updated_at=max(now, incident.updated_at + 1))


def abandon(incident: Incident, now: int, reason: str) -> Outcome:
    """The end of an alert whose rule is gone."""
    if not incident.firing:
        return None, ""
    return replace(_stamped(incident, now), phase="resolved", closed_at=now), reason


def is_over(incident: Incident, now: int, reopen_ms: int) -> bool:
    """Whether a resolved alert can be forgotten: what rises from now on is another one."""
    return incident.phase == "resolved" and now - incident.closed_at > reopen_ms


# What an operator says


def act(incident: Incident, action: Action, now: int) -> tuple[Incident, str]:
    """The state after an action, and why it is told; "" where it changes nothing, as when it comes a second time.

    ``now`` is the end of the last pane. A verdict may come after the end; whoever gives one has seen the alert, so it
    also acknowledges. All else is about alerts that are open.
    """
    acted = (action.ts, action.action, action.by)
    if acted <= incident.acted or incident.phase == "pending":
        return incident, ""
    changed = _changed(incident, action, now)
    if changed == incident:
        return incident, ""
    said = {"ack": "acknowledged", "silence": "silenced", "snooze": f"snoozed to {changed.until}"}
    words = said.get(action.action, action.action.replace("_", " "))
    cause = words + (f" by {action.by}" if action.by else "") + (f": {action.note}" if action.note else "")
    return replace(_stamped(changed, now), acted=acted), cause


def _changed(incident: Incident, action: Action, now: int) -> Incident:
    if action.action in VERDICTS:
        hold: Hold = incident.hold or "acknowledged" if incident.firing else incident.hold
        return replace(incident, verdict=action.action, hold=hold)
    if not incident.firing:
        return incident
    if action.action == "ack":
        return replace(incident, hold="acknowledged", until=0)
    if action.action == "silence":
        return replace(incident, hold="silenced", until=0)
    if action.action == "unsilence":
        return replace(incident, hold="", until=0) if incident.hold in ("silenced", "snoozed") else incident
    until = action.until or now + action.duration
    return replace(incident, hold="snoozed", until=until) if until > now else incident


def read_action(message: Mapping[str, Any]) -> Action:
    """An action from its message. Raises KeyError, TypeError or ValueError where it is none."""
    action = Action(
        str(message["alert_id"]), message["action"], int(message["ts"]), str(message.get("by", "")),
        int(message.get("until", 0)), int(message.get("duration", 0)), str(message.get("note", "")),
    )  # fmt: skip
    if not all(0 <= time < END_MS for time in (action.ts, action.until, action.duration)):
        raise ValueError("times are epoch milliseconds, and none is before 1970 or after 2261")
    if action.action not in VERBS:
        raise ValueError(f"no action {action.action!r}; there are {', '.join(VERBS)}")
    if action.action == "snooze" and action.until <= 0 and action.duration <= 0:
        raise ValueError("a snooze needs 'until' or 'duration', in milliseconds")
    return action


def action_id(action: Action) -> str:
    """The same for the same action, however often it is said."""
    return content_id("action", *action)


# How bad it is


def severity(score: Score, weight: float = 1.0) -> int:
    """1 to 10: the geometric mean of how far from expected (surprise) and how much it matters.

    It matters by how many are concerned, log2 of one plus the excess (or what is missing), times ``weight``: 1 for a
    series of usual importance. Examples at weight 1: 5 against 0.3 (1e-5): 4; 12 against 1 (1e-9): 6; 60 against 5
    (1e-30): 10.
    """
    many = math.log2(1 + abs(score.observed - score.expected))
    return min(10, max(1, round(math.sqrt(score.surprise * many * weight))))


def matter(importance: float, rule: Rule) -> float:
    """The weight of a series from its importance (its part of the revenue, 1 on average) and its rule."""
    low, high = MATTER
    return min(high, max(low, math.sqrt(importance))) * rule.weight


def duration(ms: int) -> str:
    """``90 min``, ``2 h``, ``45 s``."""
    for unit, length in (("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms >= length and ms % length == 0:
            return f"{ms // length} {unit}"
    return f"{ms / 1000:g} s"
