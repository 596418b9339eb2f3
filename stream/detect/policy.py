"""What a rule says, as data: which series are watched, what it takes to ring, what is grouped, muted and sent where.

A rule is never edited in place: a changed one has a new ``version`` (a hash of all that detection depends on), so that
every stored alert names the rule that made it. The file that people write is read by :mod:`stream.detect.rules`.
Durations are milliseconds of event time; surprise is -log10 of a p-value (:mod:`stream.detect.score`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from stream.detect.calendars import EVENTS, Event, KnownDays
from stream.detect.cells import Key, Scope
from stream.detect.score import Statistic
from stream.records import content_id

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MINUTES: Final = 1_440
GroupField = Literal["kind", "scope", "product", "category", "label"]
FIELD_OF: Final = {"product": "product_id"}  # where a group field has another name in a key or an alert


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of local time; all parts that are given must hold."""

    first: date | None = None  # inclusive
    last: date | None = None  # inclusive
    weekdays: tuple[int, ...] = ()  # Monday is 0; empty: all
    minutes: tuple[int, int] = (0, DAY_MINUTES)  # of the day, end exclusive; over midnight where the end is earlier

    def covers(self, at: datetime) -> bool:
        day, minute, (start, end) = at.date(), at.hour * 60 + at.minute, self.minutes
        return (
            (self.first is None or self.first <= day)
            and (self.last is None or day <= self.last)
            and (not self.weekdays or day.weekday() in self.weekdays)
            and (start <= minute < end if start <= end else not end <= minute < start)
        )


@dataclass(frozen=True, slots=True)
class Calendar:
    """Named times: a promotion, nights, holidays."""

    name: str
    zone: str
    periods: tuple[Period, ...]

    def covers(self, ts: int) -> bool:
        """Whether ``ts`` (epoch ms) is in one of the periods."""
        at = datetime.fromtimestamp(ts / 1000, ZoneInfo(self.zone))
        return any(period.covers(at) for period in self.periods)


@dataclass(frozen=True, slots=True)
class Rule:
    """When counts of one kind open and close an alert."""

    name: str
    version: str
    kind: str
    scopes: tuple[Scope, ...]
    volume_aware: bool  # growth of all texts on the product explains growth of this count
    labels: tuple[str, ...] = ()  # only these, as with the next two; empty: all
    categories: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    statistics: tuple[Statistic, ...] = ("burst",)
    min_observed: float = 3.0  # least count in the window
    min_ratio: float = 2.0  # least observed / expected
    min_severity: int = 1
    key_days: float = 30.0  # at most one false alarm per key in so many days
    shop_per_day: float = 0.5  # at most so many false alarms a day over all keys of this rule
    close_surprise: float = 2.0  # a window with less is calm
    for_ms: int = 0  # an alert opens when the threshold has been passed for so long ...
    keep_firing_ms: int = 15 * MINUTE_MS  # ... and is resolved after so much calm
    reopen_ms: int = 2 * HOUR_MS  # what rises again within this time is the same alert
    repeat_ms: int = 4 * HOUR_MS  # an open alert that nobody took is told again; 0: never
    weight: float = 1.0  # how much this rule matters beside others
    group_by: tuple[GroupField, ...] = ("category", "label")
    mute_during: tuple[Calendar, ...] = ()  # nothing opens meanwhile
    routes: tuple[str, ...] = ()

    def watches(self, key: Key) -> bool:
        return (
            key.kind == self.kind
            and key.scope in self.scopes
            and (not self.labels or key.label in self.labels)
            and (not self.categories or key.category in self.categories)
            and (not self.products or key.product_id in self.products)
        )

    @property
    def filtered(self) -> bool:
        """Whether it leaves some series of its kind and scopes to the rules after it."""
        return bool(self.labels or self.categories or self.products)

    def muted(self, ts: int) -> bool:
        return any(calendar.covers(ts) for calendar in self.mute_during)

    def group(self, key: Key) -> str:
        """The group of an alert on ``key``, e.g. ``category=kettles label=packaging``: equal strings, one group."""
        return " ".join(f"{name}={getattr(key, FIELD_OF.get(name, name))}" for name in self.group_by)


def group_id(group: str) -> str:
    return content_id("group", group)


@dataclass(frozen=True, slots=True)
class Matcher:
    """Alerts whose fields have these values; keys are fields of :class:`stream.records.Alert`."""

    fields: Mapping[str, str]

    def matches(self, alert: Mapping[str, Any]) -> bool:
        return all(alert[name] == value for name, value in self.fields.items())


@dataclass(frozen=True, slots=True)
class Inhibition:
    """While an alert that matches ``source`` lives, those that match ``target`` with equal fields are not told."""

    source: Matcher
    target: Matcher
    equal: tuple[str, ...]

    def mutes(self, source: Mapping[str, Any], target: Mapping[str, Any]) -> bool:
        return (
            source["alert_id"] != target["alert_id"]
            and source["state"] not in ("pending", "resolved")
            and self.source.matches(source)
            and self.target.matches(target)
            and all(source[name] == target[name] for name in self.equal)
        )


@dataclass(frozen=True, slots=True)
class Route:
    """Where alerts go, and which of them."""

    name: str
    to: Literal["webhook", "kafka", "file"]
    address: str  # URL, topic or path
    secret_env: str = ""  # environment variable with the signing secret; webhooks only
    min_severity: int = 1
    states: tuple[str, ...] = ("open", "resolved")
    mute_during: tuple[Calendar, ...] = ()
    attempts: int = 6
    timeout_seconds: float = 10.0
    queue: int = 1_000  # alerts that may wait

    def wants(self, alert: Mapping[str, Any]) -> bool:
        """Whether this state of an alert belongs here; how it came to be is not looked at."""
        return (
            alert["state"] in self.states
            and alert["severity"] >= self.min_severity
            and not any(calendar.covers(alert["updated_at"]) for calendar in self.mute_during)
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole rules file. Of the rules that match a series the first one watches it."""

    rules: tuple[Rule, ...]
    routes: Mapping[str, Route] = field(default_factory=dict)
    inhibitions: tuple[Inhibition, ...] = ()
    calendars: Mapping[str, Calendar] = field(default_factory=dict)
    events: tuple[Event, ...] = EVENTS  # known days; of several on a day the last one counts
    zone: str = "UTC"

    @property
    def days(self) -> KnownDays:
        return KnownDays(self.events, self.zone)

    @property
    def version(self) -> str:
        """Changes with any rule."""
        return content_id(*(f"{rule.name}/{rule.version}" for rule in self.rules))

    def shared_by(self, partitions: int) -> tuple[Rule, ...]:
        """The rules for one of ``partitions`` that share the shop's budget."""
        return tuple(replace(rule, shop_per_day=rule.shop_per_day / partitions) for rule in self.rules)

    def routes_of(self, rule: str) -> tuple[Route, ...]:
        """The routes of the rule with this name; none where there is no such rule (any more)."""
        names = next((each.routes for each in self.rules if each.name == rule), ())
        return tuple(self.routes[name] for name in names)


def inhibitor(alert: Mapping[str, Any], others: Iterable[Mapping[str, Any]], inhibitions: Iterable[Inhibition]) -> str:
    """The id of the alert that mutes ``alert``, the smallest of several; "" for none.

    ``others`` are alerts in their newest state, as dictionaries of :class:`stream.records.Alert`.
    """
    rules = tuple(inhibitions)
    return min((other["alert_id"] for other in others if any(rule.mutes(other, alert) for rule in rules)), default="")
