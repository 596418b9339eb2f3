"""`radar rules`: a file is checked, shown and tried without any server."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from stream import tryout
from stream.agents.fusion import read_behaviour, read_text
from stream.backtest.lab import Record, Signals, alerts_of
from stream.cli import main
from stream.detect.rules import SHIPPED, load_rules
from stream.detect.untried import untried
from stream.events import SOURCES
from stream.settings import Settings
from stream.windows.behaviour import PANE_FEATURES

PANE = 300_000
START = 1_772_380_800_000
HOUR = 3_600_000


def dumped(number: int, ts: int, **changes: Any) -> dict[str, Any]:
    """A row of `radar dump --canonical`."""
    return {
        "table": "signals", "signal_id": f"review/{number}", "event_id": f"e{number}", "ts": ts, "channel": "review",
        "user_id": f"u{number}", "product_id": "p1", "category": "c", "rating": 4, "text": "包装破了",
        "fingerprint": f"{random.Random(number).getrandbits(64):016x}", "sentiment": "negative",
        "aspect": ["packaging"], "aspect_sentiment": ["negative"], "aspect_prob": [0.9],
        "aspect_evidence": [[[0, 4]]], "demand": [], "demand_prob": [], "demand_evidence": [],
    } | changes  # fmt: skip


def message(number: int, ts: int, **changes: Any) -> dict[str, Any]:
    """The same text on the topic `signals`, counted on its product."""
    start = ts - ts % PANE
    return {
        "kind": "text", "source": "reviews/0", "seq": [number, 0], "mark": start, "scope": "product",
        **{name: dumped(number, ts)[name] for name in tryout.SAME}, "demands": [], "sentiment": {"label": "negative"},
        "aspects": [{"aspect": "packaging", "sentiment": "negative", "prob": 0.9, "evidence": [[0, 4]]}],
    } | changes  # fmt: skip


def clicks(start: int, number: int, scope: str = "product", stock: int | None = None, **counts: int) -> dict[str, Any]:
    """What shoppers did in a pane at the product, or in its category."""
    columns: dict[str, Any] = {name: [counts.get(name, 0)] for name in PANE_FEATURES}
    columns |= {"product_id": ["p1" if scope == "product" else ""], "category": ["c"]}
    if scope == "product":
        columns |= {"stock": [stock], "lead_time_days": [7.0]}
    return {"kind": "panes", "source": "clicks/0", "seq": [start + 1, number], "pane": start, "scope": scope,
            "columns": columns}  # fmt: skip


def lines(rows: Iterable[dict[str, Any]]) -> list[bytes]:
    return [orjson.dumps(row) for row in rows]


def wave() -> list[dict[str, Any]]:
    quiet = [dumped(n, START + n * PANE, aspect_sentiment=["positive"]) for n in range(40)]
    calm = [dumped(200 + n, START + (60 + n) * PANE, aspect_sentiment=["positive"]) for n in range(20)]
    return [*quiet, *(dumped(100 + n, START + 40 * PANE + n) for n in range(10)), *calm]


def test_a_row_of_a_dump_stands_for_the_messages_of_its_text() -> None:
    asks = {"demand": ["restock"], "demand_prob": [0.8], "demand_evidence": [[]]}
    (_, on_product), (_, in_category) = tryout.messages_of(dumped(1, START, **asks))
    said = message(1, START, demands=[{"demand": "restock", "prob": 0.8, "evidence": []}])
    assert read_text(on_product)[:-1] == read_text(said)[:-1]
    assert read_text(in_category)[:-1] == read_text(said | {"scope": "category"})[:-1]
    (only,) = tryout.messages_of(dumped(1, START, category=""))
    assert only[1]["scope"] == "product"


def test_a_row_of_a_dump_stands_for_what_shoppers_did() -> None:
    row = dict.fromkeys(PANE_FEATURES, 0) | {"returns": 3, "empty_searches": 4}
    row |= {"table": "windows", "pane_start": START, "scope": "product", "product_id": "p1", "category": "c"}
    ((_, told),) = tryout.messages_of(row)
    counted = clicks(START, 0, returns=3, empty_searches=4)
    assert told["pane"] == START and read_behaviour(told) == read_behaviour(counted)


def shop() -> list[dict[str, Any]]:
    """Nine days of half hours of a category, and on the last one something of every kind."""
    found, half = [], HOUR // 2
    for n in range(9 * 48):
        start, last = START + n * half, n - 8 * 48
        found.append(message(100 * n, start, aspects=[]))
        found.append(clicks(start, 0, stock=20, carts=2, purchases=1, returns=20 * (last == 10),
                            abandons=80 * (last == 20)))  # fmt: skip
        if last not in range(22, 44):
            found.append(clicks(start, 1, "category", views=40 + n % 3))
        rows = [["猫粮", 1]] + [["帐篷", 30]] * (last == 15)
        found.append({"kind": "queries", "source": "clicks/0", "seq": [start + 1, 2], "pane": start, "rows": rows})
        found += [message(100 * n + k, start + k) for k in range(1, 13) if last == 5]
    return found


async def test_every_kind_is_judged_as_in_a_worker() -> None:
    settings = Settings(partitions=1, pane_ms=HOUR // 2, window_panes=2)
    said, rules = shop(), load_rules(SHIPPED)
    worker = Signals([[]], "")
    panes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for each in said:
        ts = each["pane" if "pane" in each else "ts"]
        panes[ts - ts % settings.pane_ms].append(each)
    for start, now in panes.items():
        clocks = [{"kind": "watermark", "source": f"{topic}/0", "ts": start + settings.pane_ms,
                   "idle": False, "replay": True} for topic in SOURCES]  # fmt: skip
        worker.partitions[0] += [Record(0, 0, None, line) for line in lines([*now, *clocks])]
    expected = await alerts_of(worker, settings, rules)
    assert {alert["kind"] for alert in expected} == {
        "negative_spike", "demand_surge", "price_sensitivity", "stock_risk", "unmet_demand", "silence",
    }  # fmt: skip

    passed_over = [{"kind": "watermark", "ts": 0}, {"table": "deadletters", "topic": "reviews"}]
    mixed = [*said, *said[::7], *passed_over]
    random.Random(1).shuffle(mixed)
    signals = tryout.read_signals(lines(mixed), settings.pane_ms)
    assert await tryout.try_rules(rules, signals, settings) == expected
    assert untried(rules, signals.heard, signals.last_ts - signals.first_ts) == [
        "rule unmet-demand (unmet_demand) is tried in part: the input has no texts that ask for what is not in the "
        "catalogue"
    ]


def test_what_the_input_cannot_show_is_said() -> None:
    rules = load_rules(SHIPPED)
    texts = tryout.read_signals(lines(wave()), PANE)
    notes = untried(rules, texts.heard, texts.last_ts - texts.first_ts)
    assert [note.split(" (")[0] for note in notes if "is not tried" in note] == ["rule stock-risk", "rule unmet-demand"]
    assert "rule demand-surge (demand_surge) is tried in part: the input has no clicks" in notes
    assert "shorter than a week" in notes[-1] and "gone-quiet" in notes[-1]
    without_shelves = tryout.read_signals(lines([clicks(START, 0, carts=1)]), PANE)
    with_shelves = tryout.read_signals(lines([clicks(START, 0, stock=0, carts=1)]), PANE)
    assert ("stock" in without_shelves.heard, "stock" in with_shelves.heard) == (False, True)


@pytest.mark.parametrize(
    ("line", "said"),
    [(b"{", "line 2 is neither"), (b"[1]", "line 2 is neither"), (b'{"table": "signals"}', "line 2 is neither"),
     (orjson.dumps(message(1, START) | {"scope": None, "fingerprint": "x"}), "line 2 is neither"),
     (b'{"topic": "reviews", "value": {}}', "line 2 is a raw event")],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_named(line: bytes, said: str) -> None:
    with pytest.raises(tryout.BadInput, match=said):
        tryout.read_signals([b"", line], PANE)


def test_other_tables_of_a_dump_are_passed_over() -> None:
    assert tryout.read_signals([b'{"table": "sessions"}'], PANE).partitions == [[]]


async def test_the_incidents_of_the_simulated_shop_are_found() -> None:
    rows = list(tryout.simulated(PANE))
    assert rows == list(tryout.simulated(PANE))
    states = await tryout.try_rules(load_rules(SHIPPED), tryout.read_signals(rows, PANE), Settings())
    alerts = {alert["alert_id"]: alert for alert in states}
    assert sum(alert["state"] == "resolved" for alert in states) == len(alerts)  # no flapping
    assert sum(alert["severity"] >= 6 and alert["scope"] == "product" for alert in alerts.values()) == 5
    assert sum(alert["scope"] == "product" for alert in alerts.values()) <= 5 + 4
    assert {alert["state"] for alert in alerts.values()} == {"resolved"}


# Commands


def radar(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["rules", *arguments], input=stdin)


def test_check_says_what_is_wrong_and_exits_1(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("rules: {a: {kind: demand_surge}}")
    bad.write_text("rules:\n  a:\n    kind: demand_surge\n    keep_fring_for: 1h\n")
    assert radar("check", str(good)).exit_code == 0
    result = radar("check", str(bad))
    assert result.exit_code == 1
    assert (
        f"{bad}:4:5: rules.a.keep_fring_for: no key 'keep_fring_for'; did you mean 'keep_firing_for'?" in result.output
    )


def test_show_tells_the_rules_in_force_with_their_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = json.loads(radar("show", "--json").stdout)
    assert [rule["name"] for rule in shown["rules"]][:2] == ["negative-spike", "demand-surge"]
    assert shown["rules"][0]["keep_firing_ms"] == 900_000
    mine = tmp_path / "mine.yaml"
    mine.write_text("rules: {mine: {kind: demand_surge}}")
    monkeypatch.setenv("RADAR_RULES", str(mine))
    assert "mine" in radar("show").stdout
    assert "negative-spike" in radar("show", str(SHIPPED)).stdout


def test_the_schema_is_json() -> None:
    assert "rules" in json.loads(radar("schema").stdout)["properties"]


def test_test_prints_what_a_file_would_have_told(tmp_path: Path) -> None:
    run = tmp_path / "run.jsonl"
    run.write_bytes(b"\n".join(lines(wave())))
    states = [
        json.loads(line) for line in radar("test", str(SHIPPED), "--input", str(run), "--json").stdout.splitlines()
    ]
    assert [state["state"] for state in states] == ["open", "resolved"]
    assert states[0]["evidence"][0]["text"] == "包装破了"
    deaf = tmp_path / "deaf.yaml"
    deaf.write_text("rules: {a: {kind: negative_spike, at_least: {observed: 50}}}")
    assert radar("test", str(deaf), "--input", "-", "--json", stdin=run.read_bytes()).stdout == ""


def test_test_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text('{"topic": "reviews", "key": "p1", "value": {}}')
    result = radar("test", str(SHIPPED), "--input", str(events))
    assert result.exit_code == 1 and "radar replay" in result.output
    assert radar("test", str(SHIPPED), "--input", str(tmp_path / "nowhere")).exit_code == 2
