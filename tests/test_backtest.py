"""What other rules would have told: differences, curve and report are pure; the lab runs the radar's own lanes."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sites import returns

from serving.decode import Aspect, Demand, Outputs, TextScore
from serving.scorer import Scorer
from stream.backtest.curve import incidents_of, point, with_budget
from stream.backtest.diff import CHANGES, Alert, compare, newest
from stream.backtest.lab import alerts_of, signals_of
from stream.backtest.plots import curve
from stream.backtest.report import Report, Side
from stream.backtest.run import BadBacktest, Options, run_backtest, told
from stream.backtest.scores import RememberedScorer
from stream.detect.rules import read_rules
from stream.replay import Event, write_events
from stream.settings import Settings
from stream.simulate.incidents import HOUR, Incident

START = 1_772_380_800_000
MINUTE = 60_000
RULES = """
rules:
  negative-spike: {kind: negative_spike, scopes: [product], explained_by_volume: true, at_least: {observed: 3}}
  demand-surge: {kind: demand_surge, scopes: [product, category], at_least: {observed: 3}}
"""


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def alert(opened: int, minutes: int = 30, **changes: Any) -> Alert:
    """One that opened so many minutes after the start."""
    at = START + opened * MINUTE
    place = changes.get("product_id", "p1")
    return {
        "alert_id": f"{place}-{changes.get('label', 'packaging')}-{opened}", "kind": "negative_spike",
        "label": "packaging", "scope": "product", "product_id": "p1", "category": "c", "severity": 5,
        "state": "resolved", "opened_at": at, "closed_at": at + minutes * MINUTE, "updated_at": at + minutes * MINUTE,
        "window_start": at - HOUR, "window_end": at, "evidence": [], "rule": "negative-spike", "verdict": "",
    } | changes  # fmt: skip


def verdicts(before: Sequence[Alert], after: Sequence[Alert]) -> list[tuple[str, int]]:
    return [(change.what, change.by_ms // MINUTE) for change in compare(before, after)]


# Differences


def test_what_becomes_of_an_alert() -> None:
    old = alert(100)
    assert verdicts([old], [old]) == [("same", 0)]
    assert verdicts([], [old]) == [("added", 0)]
    assert verdicts([old], []) == [("removed", 0)]
    assert verdicts([old], [alert(90)]) == [("earlier", -10)]
    assert verdicts([old], [alert(120)]) == [("later", 20)]
    assert verdicts([old], [alert(100, severity=7)]) == [("changed", 0)]
    assert verdicts([old], [alert(100, minutes=45)]) == [("changed", 0)]


def test_alerts_further_apart_than_a_window_are_different_ones() -> None:
    assert verdicts([alert(100, 30)], [alert(190)]) == [("later", 90)]
    assert verdicts([alert(100, 30)], [alert(191)]) == [("removed", 0), ("added", 0)]


def test_the_nearest_in_time_are_paired() -> None:
    assert verdicts([alert(100), alert(150)], [alert(145)]) == [("removed", 0), ("earlier", -5)]


def test_the_same_thing_told_of_the_category_has_moved() -> None:
    category = alert(105, scope="category", product_id="")
    assert verdicts([alert(100)], [category]) == [("moved", 5)]
    assert verdicts([alert(100)], [category | {"label": "size"}]) == [("removed", 0), ("added", 0)]
    assert verdicts([alert(100)], [category | {"category": "d"}]) == [("removed", 0), ("added", 0)]
    # Where the product's own alert is there on both sides, the category's is a new one.
    assert sorted(verdicts([alert(100)], [alert(100), category])) == [("added", 0), ("same", 0)]


ALERTS = st.lists(
    st.builds(
        alert,
        st.integers(0, 600),
        st.integers(0, 200),
        product_id=st.sampled_from(["p1", "p2", ""]),
        label=st.sampled_from(["packaging", "size"]),
        severity=st.integers(1, 10),
    ),
    max_size=12,
    unique_by=lambda alert: alert["alert_id"],
)


@given(ALERTS, ALERTS)
def test_every_alert_is_in_one_change_and_the_other_way_round_is_the_reverse(
    before: list[Alert], after: list[Alert]
) -> None:
    changes = compare(before, after)
    assert sorted(change.before["alert_id"] for change in changes if change.before) == sorted(
        each["alert_id"] for each in before
    )
    assert sorted(change.after["alert_id"] for change in changes if change.after) == sorted(
        each["alert_id"] for each in after
    )
    assert {change.what for change in changes} <= set(CHANGES)
    assert {change.what for change in compare(before, before)} <= {"same"}
    for change in changes:
        assert (change.by_ms < 0) == (change.what == "earlier") or change.what == "moved"
        assert change.before is not None or change.what == "added"
        assert change.after is not None or change.what == "removed"


def test_of_the_states_of_an_alert_the_newest_counts_and_what_never_opened_does_not() -> None:
    first, last = alert(10, state="open", closed_at=0, updated_at=START + 10 * MINUTE), alert(10)
    pending = alert(20, state="pending")
    assert newest([last, first, pending, alert(500)], START, START + HOUR) == [last]
    assert newest([first, last], START + 11 * MINUTE) == []


# Curve


def test_a_budget_scales_what_the_rules_allow_and_nothing_else() -> None:
    rules = read_rules(RULES)
    more = with_budget(rules, 10)
    for old, new in zip(rules.rules, more.rules, strict=True):
        assert new.key_days == pytest.approx(old.key_days / 10)
        assert new.shop_per_day == pytest.approx(old.shop_per_day * 10)
        assert (new.name, new.scopes, new.min_observed) == (old.name, old.scopes, old.min_observed)
    assert with_budget(rules, 1) == rules
    with pytest.raises(ValueError, match="positive"):
        with_budget(rules, 0)


def incident(start: int, minutes: int = 60, **changes: Any) -> Incident:
    about = {"kind": "negative_spike", "label": "packaging", "product_id": "p1", "category": "c"} | changes
    return Incident(start=START + start * MINUTE, end=START + (start + minutes) * MINUTE, **about)  # type: ignore[arg-type]


def test_a_point_counts_alone_and_judges_with_incidents() -> None:
    alerts = [alert(20), alert(300, product_id="p9"), alert(610)]
    assert point(1, alerts, 0.5, None).to_dict() == {
        "budget": 1, "alerts": 3, "alerts_per_day": 6.0, "found": None, "missed": None, "false_alarms": None,
        "median_delay_min": None,
    }  # fmt: skip
    known = [incident(0), incident(600), incident(900)]
    assert point(1, alerts, 0.5, known).to_dict() == {
        "budget": 1, "alerts": 3, "alerts_per_day": 6.0, "found": 2, "missed": 1, "false_alarms": 1,
        "median_delay_min": 15.0,
    }  # fmt: skip


def test_alerts_that_people_called_useful_are_incidents() -> None:
    useful = alert(100, verdict="useful")
    (found,) = incidents_of([useful, alert(200), alert(300, verdict="not_useful")])
    assert (found.start, found.end) == (useful["window_start"], useful["closed_at"])
    assert point(1, [useful], 1, [found]).found == 1


# Report


def report(before: list[Alert], after: list[Alert], incidents: list[Incident] | None = None) -> Report:
    end = START + 24 * HOUR
    points = point(1, before, 1, incidents), point(1, after, 1, incidents)
    sides = Side("old.yaml", "abc", "demand/1", before), Side("new|<b>.yaml", "def", "demand/1", after)
    budgets = [point(factor, after, 1, incidents) for factor in (0.1, 1, 10)]
    return Report(START, end, *sides, compare(before, after), points, incidents, budgets)


def test_what_fails() -> None:
    same = report([alert(20)], [alert(20)], [incident(0)])
    assert same.failed(["any", "added", "missed", "false-alarms"]) == []
    worse = report([alert(20)], [alert(700)], [incident(0)])
    assert worse.failed(["later", "any", "missed", "false-alarms", "removed"]) == [
        "any", "missed", "false-alarms", "removed",
    ]  # fmt: skip
    assert [lost.start for lost in worse.lost()] == [START]
    assert report([], [], [incident(0)]).failed(["missed"]) == []  # neither finds it


def test_the_forms_agree_and_nothing_breaks_out_of_them() -> None:
    quote = {"event_id": "e", "text": "<script>alert(1)</script> $x ${y}", "spans": []}
    new = [alert(10, evidence=[quote]), alert(300, product_id="", scope="category", category="a|b")]
    found = report([alert(20)], new, [incident(0)])
    data = orjson.loads(orjson.dumps(found.to_dict()))
    assert data["counts"] == {"added": 1, "removed": 0, "moved": 0, "earlier": 1, "later": 0, "changed": 0, "same": 0}
    assert [(change["change"], change["by_min"]) for change in data["changes"]] == [("earlier", -10), ("added", 0)]
    assert [at["budget"] for at in data["curve"]] == [0.1, 1, 10]
    words = found.markdown(["added"])
    assert "Failed on: added" in words
    rows = [line for line in words.splitlines() if line.startswith(("| earlier", "| added"))]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [7, 7]
    page = found.html()
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert "$x ${y}" in page
    assert "http" not in page  # everything is inside
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(svg)
    assert page.count("<svg") == 3


def test_a_report_of_nothing_is_one_too() -> None:
    empty = report([], [])
    assert "No alert changes" in empty.html()
    assert "no changes" in empty.markdown()
    assert ET.fromstring(curve(empty.curve, empty.points[0])[len('<div class="plot">') : -len("</div>")]) is not None


def test_a_curve_with_an_incident_that_small_budgets_miss() -> None:
    known = [incident(0), incident(600)]
    points = [point(0.1, [alert(20)], 1, known), point(1, [alert(20), alert(610)], 1, known), point(0.01, [], 1, known)]
    drawn = curve(points, points[1])
    assert "1 of 2" in drawn
    assert drawn.count("<circle") == 3  # two points and the ring


# Lab


class Reader(Scorer):
    """Reads every text as a complaint; counts what it reads."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def model(self) -> str:
        return "reader/1"

    async def score(self, texts: Sequence[str], thresholds: Any = None) -> list[TextScore]:
        self.count += len(texts)
        return [TextScore("negative", -0.9, (Aspect("packaging", "negative", 0.9, [(0, 1)]),)) for _ in texts]

    async def close(self) -> None: ...

    async def _read(self, tokens: Any) -> list[tuple[Sequence[int], Outputs]]:
        raise NotImplementedError

    async def _probe(self, tokens: Any, deadline: float) -> Outputs:
        raise NotImplementedError


def complaints() -> list[Event]:
    """Six hours with a review a minute over ten products, and an hour in which p1 gets twenty more."""
    product = {"title": "t", "category": "c", "price": 1.0, "stock": 1}
    stock = [Event("catalog", f"p{n}", {"product_id": f"p{n}", **product}, START) for n in range(10)]
    times = [(minute * MINUTE, f"p{minute % 10}") for minute in range(360)]
    times += [(4 * HOUR + n * 3 * MINUTE + 1, "p1") for n in range(20)]
    return stock + [
        Event(
            "reviews",
            p,
            {"event_id": f"r{ts}", "ts": START + ts, "user_id": "u", "product_id": p, "text": "坏"},
            START + ts,
        )
        for ts, p in sorted(times)
    ]


async def test_the_lab_finds_an_outbreak_and_judges_the_same_signals_by_any_rules() -> None:
    settings, reader = Settings(partitions=2), Reader()
    progress: list[int] = []
    signals = await signals_of(complaints(), settings, reader, progress.append)
    assert (signals.events["reviews"], reader.count) == (380, 380)
    rules = read_rules(RULES)
    found = newest(await alerts_of(signals, settings, rules))
    assert [(each["product_id"], each["label"]) for each in found] == [("p1", "packaging")]
    assert START + 4 * HOUR < found[0]["opened_at"] < START + 5 * HOUR
    assert await alerts_of(signals, settings, rules) == await alerts_of(signals, settings, rules)
    strict = newest(await alerts_of(signals, settings, with_budget(rules, 1e-4)))
    assert not strict or strict[0]["opened_at"] > found[0]["opened_at"]
    assert reader.count == 380


async def test_scores_are_remembered_without_the_texts(tmp_path: Path) -> None:
    settings = Settings(triton="")
    texts = ["包装破了，张三 13812345678", "", "很好"]
    async with RememberedScorer(settings, tmp_path) as scorer:
        first = await scorer.score(texts)
        assert await scorer.score(texts[:1]) == first[:1]
        assert scorer.read == 3
    (file,) = list(tmp_path.iterdir())  # noqa: ASYNC240
    assert "138" not in file.read_text()
    file.write_bytes(file.read_bytes() + b'["cut o')  # it was killed while it wrote
    async with RememberedScorer(settings, tmp_path) as scorer:
        again = await scorer.score(texts)
        assert scorer.read == 0
        await scorer.score(["新的"])
    async with RememberedScorer(settings, tmp_path) as scorer:
        await scorer.score([*texts, "新的"])
        assert scorer.read == 0
    assert again == first
    assert again[0].aspects
    assert all(isinstance(part, (Aspect, Demand)) for score in again for part in (*score.aspects, *score.demands))


@pytest.fixture
def returned(tmp_path: Path) -> Path:
    """Clicks alone: no text has to be read."""
    path = tmp_path / "returns.jsonl"
    write_events(sorted(returns(), key=lambda event: event.ts), path)
    return path


SEASONAL = """
rules:
  slowly-more: {kind: demand_surge, scopes: [product], statistics: [ramp]}
  gone-quiet: {kind: silence, scopes: [category], statistics: [silence], at_least: {observed: 10}}
"""


def fortnight() -> list[Event]:
    """Seventeen days of clicks: from the ninth on more is sent back every day; on the eleventh nobody looks at
    anything for twelve hours."""
    dice, day = random.Random(4), 24 * HOUR
    found = [
        Event("catalog", "p1", {"product_id": "p1", "title": "t", "category": "c", "price": 1.0, "stock": 999}, START)
    ]
    for half in range(17 * 48):
        quiet = 11 * 48 <= half < 11 * 48 + 24
        sent_back = 2 * 1.15 ** max(0.0, half / 48 - 9)
        acts = ["view"] * (0 if quiet else 20) + ["return"] * sum(dice.random() < sent_back / 20 for _ in range(20))
        for ts in sorted(START + half * HOUR // 2 + dice.randrange(HOUR // 2) for _ in acts):
            click = {"event_id": f"k{len(found)}", "ts": ts, "user_id": f"u{len(found)}", "session_id": "s"}
            act = {"action": acts.pop(), "product_id": "p1"}
            found.append(Event("clicks", click["user_id"], click | act, ts))
    assert found[-1].ts < START + 17 * day
    return found


async def test_ramps_and_silence_are_judged_once_a_recording_is_longer_than_a_week(tmp_path: Path) -> None:
    path, rules, day = tmp_path / "events.jsonl", tmp_path / "seasonal.yaml", 24 * HOUR
    write_events(fortnight(), path)
    rules.write_text(SEASONAL)
    settings = Settings(home=tmp_path, triton="", partitions=1, pane_ms=HOUR // 2, window_panes=2)
    options = Options(files=[path], rules=rules, baseline=rules, curve=False)
    whole = await run_backtest(settings, options)
    days = {alert["statistic"]: (alert["opened_at"] - START) / day for alert in whole.after.alerts}
    assert 11 < days["silence"] < 11.5 and 9 < days["ramp"] < 17
    assert not any("shorter than a week" in note for note in whole.notes)
    # The end of a recording is no silence of the shop, though the clock runs on until all sessions have ended.
    assert [alert["statistic"] for alert in whole.after.alerts].count("silence") == 1

    week = await run_backtest(settings, replace(options, end=START + 6 * day))
    assert week.after.alerts == []
    (note,) = [note for note in week.notes if "shorter than a week" in note]
    assert "slowly-more, gone-quiet" in note
    assert note in week.markdown() and note in week.html() and week.to_dict()["notes"] == list(week.notes)


def test_what_lies_after_the_end_of_a_recording_is_not_compared() -> None:
    quiet, late = alert(120, statistic="silence"), alert(121, statistic="burst")
    assert told([quiet, late], START, None, START + 120 * MINUTE) == [quiet, late]
    assert told([quiet, late], START, None, START + 119 * MINUTE) == [late]
    assert told([quiet, late], START, START + 121 * MINUTE, START + HOUR * 9) == [quiet]


async def test_a_backtest_without_events_or_with_a_wrong_model_says_so(
    tmp_path: Path, returned: Path, rules_file: Path
) -> None:
    settings = Settings(home=tmp_path, triton="", rules=str(rules_file))
    with pytest.raises(BadBacktest, match="nothing to judge"):
        await run_backtest(settings, Options(files=[returned], rules=rules_file, end=START - 1))
    for model, reason in (("99", "no version 99"), ("other", "no model 'other'")):
        with pytest.raises(BadBacktest, match=reason):
            await run_backtest(settings, Options(files=[returned], model=model))
    truth = tmp_path / "truth.json"
    truth.write_text('{"kind": "x"}')
    with pytest.raises(BadBacktest, match="holds no incidents"):
        await run_backtest(settings, Options(files=[returned], rules=rules_file, truth=truth))


def test_radar_backtest_as_a_check(tmp_path: Path, returned: Path, rules_file: Path) -> None:
    (tmp_path / "blind.yaml").write_text(RULES.replace("observed: 3", "observed: 300"))
    (tmp_path / "broken.yaml").write_text(RULES.replace("scopes:", "scoops:"))

    def radar(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stream.cli", "backtest", "--input", str(returned), *arguments],
            env={"PATH": "/usr/bin:/bin", "RADAR_HOME": str(tmp_path), "RADAR_TRITON": "",
                 "RADAR_RULES": str(rules_file), "LANG": "C.UTF-8"},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    page = tmp_path / "report.html"
    done = radar("--rules", str(tmp_path / "blind.yaml"), "--json", "--html", str(page), "--fail-on", "removed")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"]["removed"] == found["before"]["alerts"] >= 4
    assert found["failed"] == ["removed"]
    assert "<svg" in page.read_text()
    done = radar("--rules", str(rules_file), "--markdown", "--no-curve", "--fail-on", "any")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### Backtest")
    assert radar("--rules", str(tmp_path / "broken.yaml")).returncode == 3
    assert radar().returncode == radar("--rules", str(rules_file), "--fail-on", "x").returncode == 2
    assert radar("--rules", str(rules_file), "--fail-on", "missed").returncode == 2
