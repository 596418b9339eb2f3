"""Two accounts of the same stretch, alert by alert. Pure.

Alerts of one series (kind, label and place) are the same when they overlap or lie no more than a window apart; the
nearest in time are paired first. What then stays alone on both sides is *moved* when kind, label and category agree and
the times do: the same thing told of a product here and of its category there. Alerts that never opened do not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Alert = dict[str, Any]
What = Literal["added", "removed", "moved", "earlier", "later", "changed", "same"]
CHANGES: Final[tuple[What, ...]] = ("added", "removed", "moved", "earlier", "later", "changed", "same")
WINDOW_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one alert; ``before`` is None for an added one, ``after`` for a removed one."""

    what: What
    before: Alert | None
    after: Alert | None

    @property
    def alert(self) -> Alert:
        alert = self.after or self.before
        assert alert is not None
        return alert

    @property
    def by_ms(self) -> int:
        """How much later it opened."""
        return self.after["opened_at"] - self.before["opened_at"] if self.before and self.after else 0

    @property
    def by_severity(self) -> int:
        return self.after["severity"] - self.before["severity"] if self.before and self.after else 0


def newest(states: Iterable[Alert], begin: int | None = None, end: int | None = None) -> list[Alert]:
    """Each alert that opened in [begin, end) in its newest state, in the order of opening."""
    latest: dict[str, Alert] = {}
    for state in states:
        known = latest.get(state["alert_id"])
        if known is None or state["updated_at"] >= known["updated_at"]:
            latest[state["alert_id"]] = state
    return sorted(
        (
            alert
            for alert in latest.values()
            if alert["state"] != "pending"
            and (begin is None or alert["opened_at"] >= begin)
            and (end is None or alert["opened_at"] < end)
        ),
        key=lambda alert: (alert["opened_at"], alert["alert_id"]),
    )


def compare(before: Sequence[Alert], after: Sequence[Alert], window_ms: int = WINDOW_MS) -> list[Change]:
    """Every alert of both sides once, in the order of opening."""
    pairs = _pairs(before, after, _series, window_ms)
    alone = _without(before, [old for old, _ in pairs]), _without(after, [new for _, new in pairs])
    moved = _pairs(*alone, _about, window_ms)
    gone = _without(alone[0], [old for old, _ in moved])
    come = _without(alone[1], [new for _, new in moved])
    changes = [Change(_verdict(old, new), old, new) for old, new in pairs]
    changes += [Change("moved", old, new) for old, new in moved]
    changes += [Change("removed", old, None) for old in gone] + [Change("added", None, new) for new in come]
    return sorted(changes, key=lambda change: (change.alert["opened_at"], change.alert["alert_id"]))


def _series(alert: Alert) -> tuple[Any, ...]:
    return *_about(alert), alert["scope"], alert["product_id"]


def _about(alert: Alert) -> tuple[Any, ...]:
    return alert["kind"], alert["label"], alert["category"]


def _pairs(
    before: Sequence[Alert], after: Sequence[Alert], key: Callable[[Alert], Any], window_ms: int
) -> list[tuple[Alert, Alert]]:
    """The nearest in time first, each alert in one pair at most."""
    alike: dict[Any, list[int]] = defaultdict(list)
    for j, new in enumerate(after):
        alike[key(new)].append(j)
    near = [
        (abs(old["opened_at"] - after[j]["opened_at"]), old["opened_at"], i, j)
        for i, old in enumerate(before)
        for j in alike[key(old)]
        if _touch(old, after[j], window_ms)
    ]
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for _, _, i, j in sorted(near):
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return [(before[i], after[j]) for i, j in sorted(pairs.items())]


def _touch(old: Alert, new: Alert, window_ms: int) -> bool:
    return bool(_end(old) + window_ms >= new["opened_at"] and _end(new) + window_ms >= old["opened_at"])


def _end(alert: Alert) -> int:
    """When it was over, as far as is known."""
    return int(max(alert["closed_at"] or alert["updated_at"], alert["opened_at"]))


def _without(alerts: Sequence[Alert], some: Sequence[Alert]) -> list[Alert]:
    taken = set(map(id, some))
    return [alert for alert in alerts if id(alert) not in taken]


def _verdict(old: Alert, new: Alert) -> What:
    if new["opened_at"] != old["opened_at"]:
        return "earlier" if new["opened_at"] < old["opened_at"] else "later"
    same = all(new[name] == old[name] for name in ("severity", "state", "closed_at"))
    return "same" if same else "changed"
