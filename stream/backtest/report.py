"""A backtest for programs, for a terminal, for a pull request and for a browser. Pure.

The HTML page is one file with everything in it (``stream/data/backtest.html``), plots as SVG, readable on a phone and
in the dark; what customers wrote is in none of them but the HTML page, where it is masked as everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream.alerts import human, place_of
from stream.backtest import plots
from stream.backtest.curve import DAY_MS, Point
from stream.backtest.diff import CHANGES, Alert, Change, What
from stream.simulate.incidents import Incident, match_alerts

PAGE: Final = Path(__file__).resolve().parent.parent / "data" / "backtest.html"
FAILURES: Final = ("added", "removed", "moved", "earlier", "later", "missed", "false-alarms", "any")
MINUTE_MS: Final = 60_000
STYLES: Final = {"added": "green", "removed": "red", "moved": "magenta", "later": "yellow", "earlier": "cyan"}


@dataclass(frozen=True, slots=True)
class Side:
    """One set of rules, the model whose reading they judged, and what they told."""

    name: str
    rules: str  # version
    model: str
    alerts: Sequence[Alert]


@dataclass(slots=True)
class Report:
    """What changed in [begin, end) (epoch ms), and what the budget would change."""

    begin: int
    end: int
    before: Side
    after: Side
    changes: Sequence[Change]
    points: tuple[Point, Point]  # before and after, at the budget of their rules
    incidents: Sequence[Incident] | None = None
    curve: Sequence[Point] = field(default_factory=list)  # of the new rules
    notes: Sequence[str] = ()  # what the recording cannot show
    events: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def days(self) -> float:
        return (self.end - self.begin) / DAY_MS

    @property
    def counts(self) -> dict[What, int]:
        found = Counter(change.what for change in self.changes)
        return {what: found[what] for what in CHANGES}

    def failed(self, fail_on: Sequence[str]) -> list[str]:
        """Which of ``fail_on`` (:data:`FAILURES`) happened.

        ``missed``: an incident that the old rules find is missed by the new ones; ``false-alarms``: there are more.
        """
        happened: dict[str, bool] = {what: bool(count) for what, count in self.counts.items()}
        before, after = self.points
        happened["missed"] = bool(self.lost())
        happened["false-alarms"] = (after.false or 0) > (before.false or 0)
        happened["any"] = any(count for what, count in self.counts.items() if what != "same")
        return [name for name in fail_on if happened[name]]

    def lost(self) -> list[Incident]:
        """Incidents that only the old rules find."""
        if self.incidents is None:
            return []
        old, new = (
            {id(finding.incident): finding.verdict for finding in match_alerts(self.incidents, side.alerts)}
            for side in (self.before, self.after)
        )
        return [each for each in self.incidents if old.get(id(each)) == "found" and new.get(id(each)) == "missed"]

    def to_dict(self) -> dict[str, Any]:
        return {
            "from": self.begin,
            "to": self.end,
            "days": round(self.days, 3),
            "notes": list(self.notes),
            "events": self.events,
            "seconds": round(self.seconds, 1),
            "before": _side(self.before, self.points[0]),
            "after": _side(self.after, self.points[1]),
            "counts": self.counts,
            "changes": [_change(change) for change in self.changes if change.what != "same"],
            "lost": [_lost(incident) for incident in self.lost()],
            "curve": [each.to_dict() for each in self.curve],
        }

    # For people

    def print(self, out: Console) -> None:
        out.print(f"{human(self.begin)} to {human(self.end)} UTC, {self.days:.1f} days; {self.summary()}")
        for note in self.notes:
            out.print(Text(note, "yellow"))
        out.print(_figures_table(self))
        changed = [change for change in self.changes if change.what != "same"]
        if not changed:
            out.print("no alert changes")
        else:
            table = Table("change", "what", "where", "opened (UTC)", "by", "severity")
            for change in changed:
                cells = _cells(change)
                table.add_row(Text(cells[0], STYLES.get(cells[0], "")), *(Text(cell) for cell in cells[1:]))
            out.print(table)
        if self.curve:
            out.print(_curve_table(self.curve))

    def summary(self) -> str:
        counts = self.counts
        changed = ", ".join(f"{count} {what}" for what, count in counts.items() if count and what != "same")
        return f"{changed or 'no changes'}; {counts['same']} as before"

    def markdown(self, failed: Sequence[str] = ()) -> str:
        """A comment for a pull request."""
        verdict = f"**Failed on: {', '.join(failed)}.** " if failed else ""
        between = f"{human(self.begin)[:16]} to {human(self.end)[:16]} UTC, {self.days:.1f} days"
        lines = [
            "### Backtest of the alert rules",
            "",
            f"{verdict}{self.summary()} ({between}).",
            "",
            *(f"- {_plain(note)}" for note in self.notes),
            "",
            "| | before | after |",
            "|---|---:|---:|",
            *(f"| {name} | {old} | {new} |" for name, old, new in _figures(self)),
        ]
        changed = [change for change in self.changes if change.what != "same"]
        if changed:
            lines += ["", "| change | what | where | opened (UTC) | by | severity |", "|---|---|---|---|---:|---:|"]
            lines += ["| " + " | ".join(_plain(cell) for cell in _cells(change)) + " |" for change in changed]
        for incident in self.lost():
            where = incident.product_id or f"all of {incident.category}"
            lines += ["", f"Missed now: {incident.kind} {incident.label} at {where}, {human(incident.start)[:16]} UTC."]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """The page."""
        changed = [change for change in self.changes if change.what != "same"]
        rows = "".join(_html_row(change) for change in changed)
        figures = "".join(
            f"<tr><th scope=row>{escape(name)}</th><td>{escape(old)}</td><td>{escape(new)}</td></tr>"
            for name, old, new in _figures(self)
        )
        return Template(PAGE.read_text(encoding="utf-8")).substitute(
            title=escape(f"Backtest {human(self.begin)[:10]} to {human(self.end)[:10]}"),
            between=escape(f"{human(self.begin)[:16]} to {human(self.end)[:16]} UTC, {self.days:.1f} days"),
            summary=escape(self.summary()),
            notes="".join(f"<p>{escape(note)}</p>" for note in self.notes),
            tiles="".join(_tile(what, count) for what, count in self.counts.items()),
            before=escape(self.before.name),
            after=escape(self.after.name),
            figures=figures,
            timeline=plots.timeline(self.changes, self.begin, self.end, self.incidents or ()),
            daily=plots.daily(self.before.alerts, self.after.alerts, self.begin, self.end),
            curve=plots.curve(self.curve, self.points[0]) if self.curve else "<p>Not asked for (--curve).</p>",
            rows=rows or "<tr><td colspan=6>No alert changes.</td></tr>",
        )


def _side(side: Side, at: Point) -> dict[str, Any]:
    return {"name": side.name, "rules": side.rules, "model": side.model, **at.to_dict()}


def _change(change: Change) -> dict[str, Any]:
    about = change.alert
    return {
        "change": change.what,
        **{name: about[name] for name in ("kind", "label", "scope", "product_id", "category", "rule")},
        "opened_before": change.before["opened_at"] if change.before else None,
        "opened_after": change.after["opened_at"] if change.after else None,
        "severity_before": change.before["severity"] if change.before else None,
        "severity_after": change.after["severity"] if change.after else None,
        "by_min": change.by_ms // MINUTE_MS,
    }


def _lost(incident: Incident) -> dict[str, Any]:
    return {name: getattr(incident, name) for name in ("kind", "label", "product_id", "category", "start")}


def _figures(report: Report) -> list[tuple[str, str, str]]:
    """Name, before, after."""
    old, new = report.points
    rows = [
        (
            "rules",
            f"{report.before.name} ({report.before.rules[:8]})",
            f"{report.after.name} ({report.after.rules[:8]})",
        ),
        ("model", report.before.model, report.after.model),
        ("alerts", str(old.alerts), str(new.alerts)),
        ("alerts a day", f"{old.per_day:.2f}", f"{new.per_day:.2f}"),
    ]
    if report.incidents is not None:
        rows += [
            ("incidents found", f"{old.found} of {_known(old)}", f"{new.found} of {_known(new)}"),
            ("false alarms", str(old.false), str(new.false)),
            ("median delay", _minutes(old.delay_ms), _minutes(new.delay_ms)),
        ]
    return rows


def _known(at: Point) -> int:
    return (at.found or 0) + (at.missed or 0)


def _minutes(ms: float | None) -> str:
    return "–" if ms is None else f"{ms / MINUTE_MS:.0f} min"


def _figures_table(report: Report) -> Table:
    table = Table("", "before", "after")
    for row in _figures(report):
        table.add_row(*map(Text, row))
    return table


def _curve_table(points: Sequence[Point]) -> Table:
    table = Table("budget", "alerts", "a day", "found", "false alarms", "median delay", title="What if")
    for at in points:
        known = at.found is not None
        table.add_row(
            f"×{at.factor:g}", str(at.alerts), f"{at.per_day:.2f}", f"{at.found} of {_known(at)}" if known else "–",
            str(at.false) if known else "–", _minutes(at.delay_ms),
        )  # fmt: skip
    return table


def _cells(change: Change) -> list[str]:
    """Change, what, where, opened, by, severity."""
    about = change.alert
    opened = human(about["opened_at"])[5:16]
    where = place_of(about)
    if change.what == "moved" and change.before:
        where = f"{place_of(change.before)} → {where}"
    severity = str(about["severity"])
    if change.by_severity and change.before and change.after:
        severity = f"{change.before['severity']} → {change.after['severity']}"
    by = f"{change.by_ms // MINUTE_MS:+d} min" if change.by_ms else ""
    return [change.what, f"{about['kind']}: {about['label']}", where, opened, by, severity]


def _plain(cell: str) -> str:
    return cell.replace("|", "\\|")


def _tile(what: str, count: int) -> str:
    return f'<div class="tile {what}"><b>{count}</b><span>{what}</span></div>'


def _html_row(change: Change) -> str:
    what, *cells = map(escape, _cells(change))
    quotes = change.alert["evidence"][:2]
    said = " / ".join(escape(quote["text"][:80]) for quote in quotes)
    return (
        f'<tr><td><span class="mark {what}">{what}</span></td>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + (f'</tr><tr class="said"><td></td><td colspan=5>{said}</td></tr>' if said else "</tr>")
    )
