"""What a replay would send, without sending anything. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from stream.alerts import human
from stream.events import SOURCES
from stream.replay.events import TOPICS, Event

HOUR_MS: Final = 3_600_000
MOST_HOURS: Final = 48  # rows of the table for people


@dataclass(slots=True)
class Plan:
    """Counts of events by topic, by kind (actions of clicks, roles of chats), and by hour (epoch ms) and topic."""

    topics: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    hours: dict[int, Counter[str]] = field(default_factory=dict)
    unreadable: int = 0
    disordered: int = 0  # events older than one before them
    first_ts: int = 0
    last_ts: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "events": self.topics.total(),
            "topics": dict(self.topics),
            "kinds": dict(self.kinds),
            "hours": [{"hour": hour, **self.hours[hour]} for hour in sorted(self.hours)],
            "unreadable": self.unreadable,
            "disordered": self.disordered,
            "first_ts": self.first_ts,
            "last_ts": self.last_ts,
        }

    def print(self, out: Console) -> None:
        if not self.first_ts:
            out.print("nothing would be sent: no review, chat or click is selected")
            return
        counts = ", ".join(f"{count:,} {topic}" for topic, count in self.topics.items())
        out.print(f"would send {counts} from {human(self.first_ts)} to {human(self.last_ts)} UTC")
        out.print("  " + ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common()))
        out.print(f"  {self.disordered:,} older than one before them, {self.unreadable:,} unreadable")
        table = Table("hour (UTC)", *TOPICS)
        for hour in sorted(self.hours)[:MOST_HOURS]:
            table.add_row(human(hour)[:13], *(f"{self.hours[hour][topic]:,}" for topic in TOPICS))
        if len(self.hours) > MOST_HOURS:
            table.add_row(f"and {len(self.hours) - MOST_HOURS} more")
        out.print(table)


def plan(events: Iterable[Event]) -> Plan:
    """Count ``events``; an endless stream has no plan."""
    found = Plan()
    newest = 0
    for topic, _, value, ts in events:
        found.topics[topic] += 1
        if topic in SOURCES:
            found.first_ts = min(found.first_ts or ts, ts)
            found.disordered += ts < newest
            newest = found.last_ts = max(newest, ts)
        hour = (ts or newest) // HOUR_MS * HOUR_MS
        found.hours.setdefault(hour, Counter())[topic] += 1
        if isinstance(value, str):
            found.unreadable += 1
        elif topic in SOURCES:
            found.kinds[value.get("action") or value.get("role") or "review"] += 1
    if found.first_ts and 0 in found.hours:  # the catalogue comes before the first event
        first = min(hour for hour in found.hours if hour)
        found.hours.setdefault(first, Counter()).update(found.hours.pop(0))
    return found
