"""Plots of a backtest as SVG text that takes its colours from the page around it (classes, see ``backtest.html``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final

from stream.alerts import human, place_of
from stream.backtest.curve import DAY_MS, Point
from stream.backtest.diff import Alert, Change
from stream.simulate.incidents import Incident

WIDTH: Final = 720
MOST_ROWS: Final = 40
MINUTE_MS: Final = 60_000
NICE_MS: Final = tuple(3_600_000 * hours for hours in (1, 2, 3, 6, 12, 24, 48, 168, 336, 720, 2_160))


def timeline(changes: Sequence[Change], begin: int, end: int, incidents: Sequence[Incident] = ()) -> str:
    """A row for each series that changes: above what the old rules told, below the new ones, incidents behind."""
    shown = [change for change in changes if change.what != "same"]
    names = list(dict.fromkeys(_series(change) for change in shown))
    if not names:
        return "<p>No alert changes.</p>"
    left, row, top = 214, 26, 8
    names, more = names[:MOST_ROWS], len(names) - MOST_ROWS
    height = top + row * len(names) + 22
    x = _scale(begin, end, left, WIDTH - 10)
    parts = [_time_axis(begin, end, x, top, top + row * len(names))]
    for incident in incidents:
        for place, name in enumerate(names):
            if name[:2] == (incident.kind, incident.label) and name[2] in (
                incident.product_id,
                f"all of {incident.category}",
            ):
                parts.append(
                    _bar(x(incident.start), x(incident.end), top + place * row + 1, row - 2, "incident", "incident")
                )
    for place, name in enumerate(names):
        y = top + place * row
        parts.append(f'<text class="name" x="0" y="{y + 16}">{escape(_short(f"{name[1]} · {name[2]}", 33))}</text>')
        for change in changes:
            if _series(change) == name:
                for alert, offset, side in ((change.before, 4, "old"), (change.after, 14, "new")):
                    if alert is not None:
                        label = f"{change.what}: {human(alert['opened_at'])[:16]}, severity {alert['severity']}"
                        over = max(alert["closed_at"] or alert["updated_at"], alert["opened_at"])
                        parts.append(
                            _bar(x(alert["opened_at"]), x(over), y + offset, 8, f"{side} {change.what}", label)
                        )
    note = f"<p>{more} more series change; the table has them.</p>" if more > 0 else ""
    return _svg(height, parts, "Alerts before and after over time") + note


def daily(before: Sequence[Alert], after: Sequence[Alert], begin: int, end: int) -> str:
    """Alerts opened on each day (UTC), old and new side by side."""
    days = range(begin // DAY_MS, -(-end // DAY_MS))
    counts = [Counter(alert["opened_at"] // DAY_MS for alert in side) for side in (before, after)]
    most = max((count[day] for count in counts for day in days), default=0) or 1
    left, bottom, top = 34, 150, 10
    width = (WIDTH - left - 10) / max(1, len(days))
    y = _scale(0, most, bottom, top)
    parts = [_level(y, value, left) for value in _ticks(most)]
    every = -(-len(days) // 12)
    for place, day in enumerate(days):
        at = left + place * width
        for number, (count, side) in enumerate(zip(counts, ("old", "new"), strict=True)):
            thick = min(width * 0.4, 40)
            begin_x = at + width / 2 - thick + number * thick
            label = f"{human(day * DAY_MS)[:10]}: {count[day]} {('before', 'after')[number]}"
            parts.append(
                f'<rect class="{side}" x="{begin_x:.1f}" y="{y(count[day]):.1f}" width="{thick:.1f}" '
                f'height="{bottom - y(count[day]):.1f}" rx="2"><title>{label}</title></rect>'
            )
        if place % every == 0:
            parts.append(
                f'<text class="tick" x="{at + width / 2:.1f}" y="{bottom + 16}">{human(day * DAY_MS)[5:10]}</text>'
            )
    return _svg(bottom + 22, parts, "Alerts a day before and after")


def curve(points: Sequence[Point], before: Point) -> str:
    """Median delay (or, without incidents, nothing but the count) against alerts a day, on a log scale of budgets."""
    if any(point.delay_ms is not None for point in points):
        return _against_delay(points, before)
    return _against_budget(points)


def _against_delay(points: Sequence[Point], before: Point) -> str:
    """Alerts a day on a log scale: what costs twice as many is as far away everywhere."""
    known = [point for point in points if point.delay_ms is not None]
    left, top, bottom, right = 46, 24, 220, WIDTH - 40
    rates = [point.per_day for point in (*known, before) if point.per_day]
    least, most = min(rates) / 1.3, max(rates) * 1.1
    most_y = max(point.delay_ms or 0.0 for point in (*known, before)) / MINUTE_MS * 1.2 or 1.0
    along, y = _scale(log10(least), log10(most), left, right), _scale(0, most_y, bottom, top)
    parts = [_level(y, value, left) for value in _ticks(most_y)]
    parts += [
        f'<text class="tick" x="{along(log10(value)):.1f}" y="{bottom + 16}">{value:g}</text>'
        for value in _log_ticks(least, most)
    ]
    parts.append(f'<text class="axis" x="{(left + right) / 2}" y="{bottom + 34}">alerts a day</text>')
    parts.append('<text class="axis start" x="0" y="10">minutes to the alert (median)</text>')
    if before.delay_ms is not None:
        at = along(log10(before.per_day)), y(before.delay_ms / MINUTE_MS)
        parts.append(
            f'<circle class="ring" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="9"><title>the rules before</title></circle>'
        )
    places = [(along(log10(point.per_day)), y((point.delay_ms or 0.0) / MINUTE_MS)) for point in known]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    parts.append(f'<polyline class="line" points="{path}"/>')
    for number, (point, (px, py)) in enumerate(zip(known, places, strict=True)):
        total = (point.found or 0) + (point.missed or 0)
        words = f"×{point.factor:g}" + (f" ({point.found} of {total})" if point.missed else "")
        label = f"budget ×{point.factor:g}: {point.per_day:.2f} alerts a day, {point.found} of {total} found"
        parts.append(f'<circle class="new" cx="{px:.1f}" cy="{py:.1f}" r="5"><title>{label}</title></circle>')
        parts.append(f'<text class="point" x="{px - 6:.1f}" y="{py + (22 if number % 2 else -10):.1f}">{words}</text>')
    return _svg(bottom + 42, parts, "Alerts a day against detection delay")


def _against_budget(points: Sequence[Point]) -> str:
    left, top, bottom, right = 46, 16, 180, WIDTH - 24
    most = max(point.per_day for point in points) * 1.1 or 1.0
    x = _scale(log10(points[0].factor), log10(points[-1].factor) or 1.0, left + 10, right)
    y = _scale(0, most, bottom, top)
    parts = [_level(y, value, left) for value in _ticks(most)]
    path = " ".join(f"{x(log10(point.factor)):.1f},{y(point.per_day):.1f}" for point in points)
    parts.append(f'<polyline class="line" points="{path}"/>')
    for point in points:
        px, py = x(log10(point.factor)), y(point.per_day)
        label = f"budget ×{point.factor:g}: {point.per_day:.2f} alerts a day"
        parts.append(f'<circle class="new" cx="{px:.1f}" cy="{py:.1f}" r="5"><title>{label}</title></circle>')
        parts.append(f'<text class="tick" x="{px:.1f}" y="{bottom + 16}">×{point.factor:g}</text>')
    parts.append(f'<text class="axis" x="{(left + right) / 2}" y="{bottom + 34}">budget</text>')
    parts.append('<text class="axis start" x="0" y="10">alerts a day</text>')
    return _svg(bottom + 42, parts, "Alerts a day against the budget")


def _series(change: Change) -> tuple[str, str, str]:
    alert = change.alert
    return alert["kind"], alert["label"], place_of(alert)


def _scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: begin + (value - low) / span * (end - begin)


def _ticks(most: float) -> list[float]:
    """About four round numbers from 0 to ``most``."""
    rough = most / 4
    magnitude = 10 ** floor(log10(rough)) if rough > 0 else 1.0
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= rough)
    return [step * number for number in range(ceil(most / step) + 1) if step * number <= most]


def _log_ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between the two."""
    powers = range(floor(log10(least)), ceil(log10(most)) + 1)
    return [value for power in powers for factor in (1, 2, 5) if least <= (value := factor * 10.0**power) <= most]


def _time_axis(begin: int, end: int, x: Callable[[float], float], top: int, bottom: int) -> str:
    """Lines at round hours; days are named, and so is the first line."""
    step = next((nice for nice in NICE_MS if (end - begin) / nice <= 9), NICE_MS[-1])
    parts = []
    for number, at in enumerate(range(-(-begin // step) * step, end + 1, step)):
        words = human(at)[5:10] if at % DAY_MS == 0 or not number else human(at)[11:16]
        parts.append(f'<line class="grid" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(at):.1f}" y="{bottom + 15}">{words}</text>')
    return "".join(parts)


def _level(y: Callable[[float], float], value: float, left: int) -> str:
    return (
        f'<line class="grid" x1="{left}" x2="{WIDTH - 10}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        f'<text class="tick end" x="{left - 6}" y="{y(value) + 4:.1f}">{value:g}</text>'
    )


def _bar(begin: float, end: float, y: float, height: float, kind: str, label: str) -> str:
    return (
        f'<rect class="{kind}" x="{begin:.1f}" y="{y}" width="{max(end - begin, 4):.1f}" height="{height}" rx="2">'
        f"<title>{escape(label)}</title></rect>"
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<div class="plot"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg></div>"
    )
