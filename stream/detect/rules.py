"""The rules file: YAML that people write and review → :class:`stream.detect.policy.Rules`.

``docs/rules.md`` explains every key. A file that is wrong is refused as a whole, and :class:`RulesError` lists all that
is wrong with it, each with line, column and remedy; a key that is misspelt is never ignored. The version of a rule is a
hash of what its detection depends on, as read: comments, order, routes and the way a duration is written do not count.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Hashable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from serving.labels import ASPECTS, DEMANDS
from stream.detect.calendars import EVENTS, Event
from stream.detect.cells import Scope
from stream.detect.policy import Calendar, GroupField, Inhibition, Matcher, Period, Route, Rule, Rules
from stream.records import content_id

__all__ = ["DEFAULT_RULES", "SHIPPED", "Rule", "Rules", "RulesError", "RulesFile", "load_rules", "read_rules", "schema"]
log = logging.getLogger(__name__)

SHIPPED: Final = Path(__file__).parent / "rules.yaml"
#: The labels of a kind; of those not named here any text is one.
LABELS: Final = {
    "negative_spike": ASPECTS, "demand_surge": DEMANDS, "price_sensitivity": ("discount",), "stock_risk": ("stock",),
    "silence": ("texts", "clicks"),
}  # fmt: skip
UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
PERIOD_DAYS: Final = {"hour": 1 / 24, "day": 1.0, "week": 7.0, "month": 30.0, "year": 365.0}
NUMBERS: Final = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "ten": 10}
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
State = Literal["open", "acknowledged", "silenced", "snoozed", "resolved"]
Place = tuple[int | str, ...]


class Problem(NamedTuple):
    line: int  # from 1
    column: int
    where: str  # e.g. rules.negative-spike.budget.key
    what: str


class RulesError(ValueError):
    """A rules file that cannot be used; one line for each thing that is wrong."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        super().__init__("\n".join(f"{file}:{p.line}:{p.column}: {p.where}: {p.what}" for p in sorted(problems)))
        self.problems = sorted(problems)


# What a value may look like


def read_duration(value: object) -> int:
    """``15m``, ``2h``, ``1h 30m`` or 0 in milliseconds."""
    text = str(value).strip()
    if text == "0":
        return 0
    parts = re.findall(r"(\d+)\s*([smhdw])\s*", text)
    if not parts or re.sub(r"(\d+)\s*([smhdw])\s*", "", text):
        raise ValueError(f"cannot read {text!r} as a duration: say 90s, 15m, 2h, 1h 30m, 7d or 0")
    return sum(int(number) * UNITS_MS[unit] for number, unit in parts)


def read_rate(value: object) -> float:
    """``one false alert per 30 days``, ``5 a day`` or ``2.5 per week`` as alerts a day."""
    found = re.fullmatch(
        r"([\d.]+|[a-z]+)(?: false)?(?: alerts?)? (?:per|an?|every) ([\d.]+|)\s*(hour|day|week|month|year)s?",
        " ".join(str(value).split()).lower(),
    )
    try:
        assert found is not None
        count = float(NUMBERS.get(found[1], found[1]))
        rate = count / (float(found[2] or 1) * PERIOD_DAYS[found[3]])
        if not 0 < rate < float("inf"):
            raise ValueError
        return rate
    except (AssertionError, ValueError, ZeroDivisionError):
        raise ValueError(
            f"cannot read {str(value)!r} as a budget: say 'one false alert per 30 days', '5 per day' or '2 per week'"
        ) from None


def read_hours(value: object) -> tuple[int, int]:
    """``22:00-07:00`` as minutes of the day."""
    found = re.fullmatch(r"(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)", str(value).strip())
    minutes = [int(part) for part in found.groups()] if found else []
    if not minutes or max(minutes[0], minutes[2]) > 24 or max(minutes[1], minutes[3]) > 59:
        raise ValueError(f"cannot read {str(value)!r} as hours of the day: say '22:00-07:00'")
    return minutes[0] * 60 + minutes[1], minutes[2] * 60 + minutes[3]


def known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no time zone {name!r}: say UTC, Asia/Shanghai, Europe/Berlin …") from None
    return name


def _text(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": [pattern]})


Duration = Annotated[int, BeforeValidator(read_duration), _text("15m")]
Rate = Annotated[float, BeforeValidator(read_rate), _text("one false alert per 30 days")]
Hours = Annotated[tuple[int, int], BeforeValidator(read_hours), _text("22:00-07:00")]
Zone = Annotated[str, AfterValidator(known_zone)]


# The shape of the file


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class BudgetPart(Part):
    key: Rate = Field(default=1 / 30, description="most false alerts of one series")
    shop: Rate = Field(default=0.5, description="most false alerts of all series of the rule together")


class LeastPart(Part):
    observed: float = Field(default=3.0, ge=0, description="count in the window")
    ratio: float = Field(default=2.0, ge=0, description="observed / expected")
    severity: int = Field(default=1, ge=1, le=10)


class RulePart(Part):
    kind: Literal["negative_spike", "demand_surge", "price_sensitivity", "stock_risk", "unmet_demand", "silence"]
    scopes: tuple[Scope, ...] = Field(default=("product",), min_length=1)
    labels: tuple[str, ...] = Field(default=(), description="only these aspects or demands; empty: all")
    categories: tuple[str, ...] = Field(default=(), description="only in these; empty: all")
    products: tuple[str, ...] = Field(default=(), description="only these product ids; empty: all")
    statistics: tuple[Literal["burst", "ramp", "silence"], ...] = Field(
        default=("burst",), min_length=1, description="which tests are asked; ramp and silence only of settled series"
    )
    explained_by_volume: bool = Field(default=False, description="growth of all texts explains growth of this count")
    budget: BudgetPart = BudgetPart()
    at_least: LeastPart = LeastPart()
    resolve_below: float = Field(
        default=2.0, gt=0, description="surprise, -log10 of the chance, under which a window is calm"
    )
    for_: Duration = Field(default=0, alias="for", description="how long the threshold must be passed before it opens")
    keep_firing_for: Duration = Field(default=15 * 60_000, description="how long it must be calm before it is resolved")
    reopen_within: Duration = Field(
        default=2 * 3_600_000, description="what rises again within this time is the same alert"
    )
    repeat: Duration = Field(default=4 * 3_600_000, description="an open alert is told again after this time; 0: never")
    weight: float = Field(
        default=1.0, gt=0, le=10, description="how much it matters beside other rules; moves the severity"
    )
    group_by: tuple[GroupField, ...] = ("category", "label")
    mute_during: tuple[str, ...] = Field(default=(), description="calendars in which nothing opens")
    routes: tuple[str, ...] = ()

    def rule(self, name: str, calendars: Mapping[str, Calendar]) -> Rule:
        settings = self.model_dump(exclude={"routes"}, exclude_defaults=True)
        mute_during = tuple(calendars[calendar] for calendar in self.mute_during)
        return Rule(
            name=name,
            version=content_id(*(f"{key}={settings[key]}" for key in sorted(settings)), mute_during)[:8],
            kind=self.kind,
            scopes=self.scopes,
            volume_aware=self.explained_by_volume,
            labels=self.labels,
            categories=self.categories,
            products=self.products,
            statistics=self.statistics,
            min_observed=self.at_least.observed,
            min_ratio=self.at_least.ratio,
            min_severity=self.at_least.severity,
            key_days=1 / self.budget.key,
            shop_per_day=self.budget.shop,
            close_surprise=self.resolve_below,
            for_ms=self.for_,
            keep_firing_ms=self.keep_firing_for,
            reopen_ms=self.reopen_within,
            repeat_ms=self.repeat,
            weight=self.weight,
            group_by=self.group_by,
            mute_during=mute_during,
            routes=self.routes,
        )


class PeriodPart(Part):
    first: date | None = Field(default=None, description="local date, inclusive")
    last: date | None = Field(default=None, description="local date, inclusive")
    weekdays: tuple[Weekday, ...] = ()
    hours: Hours = Field(default=(0, 1_440), description="of the day, over midnight where the end is earlier")

    def period(self) -> Period:
        days = tuple(WEEKDAYS.index(day) for day in self.weekdays)
        return Period(self.first, self.last, days, self.hours)


class RoutePart(Part):
    to: Literal["webhook", "kafka", "file"]
    address: str = Field(min_length=1, description="URL, topic or path")
    secret_env: str = Field(default="", description="environment variable that holds the signing secret of a webhook")
    at_least_severity: int = Field(default=1, ge=1, le=10)
    states: tuple[State, ...] = Field(default=("open", "resolved"), min_length=1)
    mute_during: tuple[str, ...] = Field(default=(), description="calendars in which nothing is sent")
    attempts: int = Field(default=6, ge=1, le=20)
    timeout: Duration = Field(default=10_000, description="of one attempt")
    queue: int = Field(default=1_000, ge=1, description="alerts that may wait; more go to the dead letters")


class EventPart(Part):
    name: str
    start: str = Field(description="MM-DD, YYYY-MM-DD or MM/nth-weekday (Monday 0): 11/4-4 is the fourth Friday")
    days: int = Field(default=1, ge=1, le=62)
    factor: float = Field(gt=0, le=100, description="what counts are multiplied by on these days, about")

    def event(self) -> Event:
        return Event(self.name, self.start, self.days, self.factor)


class InhibitPart(Part):
    source: dict[Literal["kind", "scope", "label", "category", "rule"], str] = Field(min_length=1)
    target: dict[Literal["kind", "scope", "label", "category", "rule"], str] = Field(min_length=1)
    equal: tuple[Literal["kind", "scope", "label", "category", "product_id", "rule"], ...] = ()


class FilePart(Part):
    version: Literal[1] = 1
    timezone: Zone = Field(default="UTC", description="of the calendars and events")
    rules: dict[str, RulePart] = Field(min_length=1)
    routes: dict[str, RoutePart] = {}
    calendars: dict[str, tuple[PeriodPart, ...]] = {}
    events: tuple[EventPart, ...] = Field(default=(), description="known days of this shop, beside the usual ones")
    inhibit: tuple[InhibitPart, ...] = ()


# Reading


def load_rules(path: Path) -> Rules:
    """The rules in a file. Raises :class:`RulesError`, also where the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RulesError(str(path), [Problem(1, 1, "file", f"cannot be read: {error}")]) from error
    return read_rules(text, str(path))


class RulesFile:
    """The rules in force, from a file that may change while they are: the caller polls.

    ``path`` "" names the shipped rules. Raises :class:`RulesError` where the file is wrong at first; one that becomes
    wrong is logged once, and the rules that were read before stay in force.
    """

    def __init__(self, path: str = "") -> None:
        self.path = Path(path) if path else SHIPPED
        self._stamp = self._look()
        self.rules = load_rules(self.path)

    def poll(self) -> bool:
        """Whether there are other rules now; cheap enough for once a second."""
        if (stamp := self._look()) == self._stamp:
            return False
        self._stamp = stamp
        try:
            rules = load_rules(self.path)
        except RulesError as error:
            log.error("The rules stay as they were, because the file has become wrong:\n%s", error)
            return False
        changed = rules != self.rules
        self.rules = rules
        return changed

    def _look(self) -> tuple[int, int, int]:
        try:
            found = self.path.stat()
        except OSError:
            return (0, 0, 0)
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_rules(text: str, name: str = "rules.yaml") -> Rules:
    """The rules in a text; ``name`` is what errors call it. Raises :class:`RulesError`."""
    source = Source(text, name)
    try:
        file = FilePart.model_validate(source.data)
    except ValidationError as error:
        raise source.error((without_key(each["loc"]), explain(each)) for each in error.errors()) from error
    if wrong := [*inconsistencies(file)]:
        raise source.error(wrong)
    return convert(file)


def convert(file: FilePart) -> Rules:
    calendars = {
        name: Calendar(name, file.timezone, tuple(part.period() for part in parts))
        for name, parts in file.calendars.items()
    }
    routes = {
        name: Route(
            name, part.to, part.address, part.secret_env, part.at_least_severity, part.states,
            tuple(calendars[calendar] for calendar in part.mute_during), part.attempts, part.timeout / 1000, part.queue,
        )
        for name, part in file.routes.items()
    }  # fmt: skip
    inhibitions = tuple(
        Inhibition(
            Matcher(dict[str, str](part.source.items())), Matcher(dict[str, str](part.target.items())), part.equal
        )
        for part in file.inhibit
    )
    rules = tuple(part.rule(name, calendars) for name, part in file.rules.items())
    events = (*EVENTS, *(part.event() for part in file.events))
    return Rules(rules, routes, inhibitions, calendars, events, file.timezone)


def inconsistencies(file: FilePart) -> Iterator[tuple[Place, str]]:
    """What no single value shows: names that lead nowhere, rules that never get a turn."""
    taken: dict[tuple[str, str], str] = {}
    for name, rule in file.rules.items():
        place: Place = ("rules", name)
        for number, label in enumerate(rule.labels):
            if label not in LABELS.get(rule.kind, (label,)):
                yield (*place, "labels", number), unknown(label, LABELS[rule.kind], f"label of a {rule.kind}")
        yield from _names(rule.routes, file.routes, "route", (*place, "routes"))
        yield from _names(rule.mute_during, file.calendars, "calendar", (*place, "mute_during"))
        if rule.products and "category" in rule.scopes:
            yield (*place, "products"), "a category has no product id; take category out of scopes or make two rules"
        for scope in rule.scopes:
            if (other := taken.get((rule.kind, scope))) is not None:
                yield place, f"never gets a turn: {other!r} above watches every {rule.kind} of a {scope}; put it below"
            if not (rule.labels or rule.categories or rule.products):
                taken.setdefault((rule.kind, scope), name)
    for name, route in file.routes.items():
        yield from _names(route.mute_during, file.calendars, "calendar", ("routes", name, "mute_during"))
        if route.to == "webhook" and not re.match(r"https?://[^/]", route.address):
            yield ("routes", name, "address"), f"{route.address!r} is no http(s) URL"
        if route.to != "webhook" and route.secret_env:
            yield ("routes", name, "secret_env"), f"only webhooks are signed; a {route.to} takes none"
        if route.secret_env.startswith("RADAR_"):
            yield ("routes", name, "secret_env"), "names that begin with RADAR_ are those of settings; take another"
    for number, part in enumerate(file.events):
        try:
            part.event().begins(2028)
        except ValueError as error:
            yield ("events", number, "start"), str(error)
    for name, periods in file.calendars.items():
        for number, period in enumerate(periods):
            if period.first and period.last and period.last < period.first:
                yield ("calendars", name, number, "last"), f"{period.last} is before {period.first}"


def _names(used: tuple[str, ...], there: Mapping[str, object], what: str, place: Place) -> Iterator[tuple[Place, str]]:
    for number, name in enumerate(used):
        if name not in there:
            yield (*place, number), unknown(name, tuple(there), what)


# Errors with their place


class Source:
    """A YAML text: its data, and where in the text each part of it is."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        try:
            loader = yaml.SafeLoader(text)
            node = self._root = loader.get_single_node()
            self.data = loader.construct_document(node) if node is not None else None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise RulesError(name, [Problem(line, column, "YAML", str(error.problem or error.context))]) from error
        except (yaml.YAMLError, ValueError) as error:
            raise RulesError(name, [Problem(1, 1, "YAML", " ".join(str(error).split()))]) from error
        if not isinstance(self.data, dict):
            raise RulesError(name, [Problem(1, 1, "file", "no mapping; begin with 'rules:'")])
        if twice := list(_twice(node, ())):
            raise self.error(twice)

    def error(self, problems: Any) -> RulesError:
        """``problems``: pairs of place and words."""
        return RulesError(self._name, [Problem(*self._mark(place), dotted(place), what) for place, what in problems])

    def _mark(self, place: Place) -> tuple[int, int]:
        """Line and column of a place; of the last part of it that is in the text."""
        node: yaml.Node | None = self._root
        assert node is not None
        mark = node.start_mark
        for part in place:
            if isinstance(node, yaml.MappingNode):
                found = next(((key, value) for key, value in reversed(node.value) if _key(key) == str(part)), None)
                if found is None:
                    break
                key, node = found
                mark = key.start_mark
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                mark = node.start_mark
            else:
                break
        return mark.line + 1, mark.column + 1


def _key(node: yaml.Node) -> str:
    return str(node.value)


def _twice(node: yaml.Node | None, place: Place) -> Iterator[tuple[Place, str]]:
    """Keys that are given twice: YAML would keep the last without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            if (name := _key(key)) in seen:
                yield (*place, name), f"given twice, on lines {seen[name]} and {key.start_mark.line + 1}; keep one"
            seen[name] = key.start_mark.line + 1
            yield from _twice(value, (*place, name))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _twice(value, (*place, number))


def explain(error: Any) -> str:
    """One of pydantic's errors with a remedy."""
    place, kind = error["loc"], error["type"]
    if kind == "extra_forbidden":
        return unknown(str(place[-1]), keys_at(place[:-1]), "key")
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        return unknown(str(error["input"]), re.findall(r"'([^']*)'", error["ctx"]["expected"]) or ("1",), "value")
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind in ("tuple_type", "list_type"):
        return "a list is needed: put it in [ ]"
    message = str(error["msg"])
    return f"{message[0].lower()}{message[1:]}, not {error['input']!r}" if kind != "too_short" else "must not be empty"


def unknown(name: str, there: tuple[str, ...] | list[str], what: str) -> str:
    close = difflib.get_close_matches(name, there, 1, 0.6)
    remedy = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(there)}" if there else "there are none"
    return f"no {what} {name!r}; {remedy}"


def keys_at(place: Place) -> tuple[str, ...]:
    """The keys that the mapping at ``place`` may have."""
    shape: Any = FilePart
    for part in place:
        if isinstance(shape, type) and issubclass(shape, BaseModel):
            fields = {field.alias or name: field.annotation for name, field in shape.model_fields.items()}
            shape = fields[str(part)]
        else:
            shape = next(each for each in get_args(shape)[::-1] if each is not ...)
    return tuple(field.alias or name for name, field in shape.model_fields.items())


def without_key(place: Place) -> Place:
    """Pydantic names a wrong key of a mapping by the key and a mark."""
    return place[:-1] if place and place[-1] == "[key]" else place


def dotted(place: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".") or "file"


def schema() -> dict[str, Any]:
    """The JSON schema of a rules file, for editors."""
    return FilePart.model_json_schema()


DEFAULT_RULES: Final = load_rules(SHIPPED).rules
