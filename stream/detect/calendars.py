"""Known days: holidays and promotions, on which counts are not what the season says.

A table of events, as data: by date, by weekday of a month, or by year for what follows the moon. Each has the factor
by which a shop's counts usually rise (or fall) and runs over a number of days. How much nobody knows beforehand, so
the forecast of such a day is vague (``DOUBT``, a relative variance), and it is not learnt from. The factors are
first guesses, not measurements. A shop adds its own events: promotions it plans, or a factor it knows better; the last
event that covers a day counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DOUBT: Final = 0.25  # relative variance of a factor: half up or down is no news
PLAIN: Final = (1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Event:
    """``start`` is "MM-DD", "YYYY-MM-DD" or "MM/nth-weekday" (Monday 0; "11/4-4" is Black Friday); or by ``years``."""

    name: str
    start: str
    days: int = 1
    factor: float = 1.0
    years: Mapping[int, str] = field(default_factory=dict)  # year: "MM-DD"

    def begins(self, year: int) -> date | None:
        """Its first day in a year. Raises ValueError for a start that cannot be read."""
        text = self.years.get(year, "") if self.years else self.start
        try:
            if "/" in text:
                month, _, rest = text.partition("/")
                nth, _, weekday = rest.partition("-")
                first = date(year, int(month), 1)
                return first + timedelta(days=(int(weekday) - first.weekday()) % 7 + 7 * (int(nth) - 1))
            if text.count("-") == 2:
                day = date.fromisoformat(text)
                return day if day.year == year else None
            return date.fromisoformat(f"{year}-{text}") if text else None
        except ValueError as error:
            raise ValueError(
                f"calendar event {self.name!r} starts on {text!r}: write MM-DD, YYYY-MM-DD or MM/nth-weekday"
            ) from error


SPRING: Final = {
    2024: "02-09",
    2025: "01-28",
    2026: "02-16",
    2027: "02-05",
    2028: "01-25",
    2029: "02-12",
    2030: "02-02",
}
EVENTS: Final = (
    Event("New Year", "01-01", factor=0.8),
    Event("Spring Festival", "", 8, 0.5, SPRING),
    Event("Women's Day sale", "03-07", 2, 1.4),
    Event("Labour Day", "05-01", 5, 0.9),
    Event("6.18 presale", "05-31", 4, 1.6),
    Event("6.18", "06-16", 3, 2.5),
    Event("National Day", "10-01", 7, 0.9),
    Event("11.11 presale", "10-31", 4, 1.8),
    Event("11.11", "11-10", 2, 3.0),
    Event("Black Friday", "11/4-4", 4, 2.0),
    Event("12.12", "12-12", 1, 1.8),
    Event("Christmas", "12-24", 3, 0.9),
)


class KnownDays:
    """The events that concern a shop, by its own clock."""

    def __init__(self, events: Iterable[Event] = EVENTS, zone: str = "UTC") -> None:
        self._events, self._zone = tuple(events), ZoneInfo(zone)
        self._newest: tuple[date, tuple[float, float]] = (date.min, PLAIN)

    def effect(self, ts: int) -> tuple[float, float]:
        """(Factor, its relative variance) at ``ts``, epoch ms."""
        day = datetime.fromtimestamp(ts / 1000, self._zone).date()
        if day != self._newest[0]:
            self._newest = (day, self._of(day))
        return self._newest[1]

    def _of(self, day: date) -> tuple[float, float]:
        found = PLAIN
        for event in self._events:
            for year in (day.year, day.year - 1):
                begin = event.begins(year)
                if begin and begin <= day < begin + timedelta(days=event.days):
                    found = (event.factor, DOUBT)
        return found
