"""The rules file: what it may say, what it means, and that every mistake is told with its place and remedy."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stream.detect import Engine, Key
from stream.detect.policy import Rules, group_id
from stream.detect.rules import (
    DEFAULT_RULES,
    SHIPPED,
    RulesError,
    RulesFile,
    load_rules,
    read_duration,
    read_rate,
    read_rules,
    schema,
)

KEY = Key("demand_surge", "product", "p1", "kettles", "restock")
ALL = """
version: 1
timezone: Europe/Berlin
rules:
  urgent:
    kind: demand_surge
    scopes: [product, category]
    labels: [restock, discount]
    categories: [kettles]
    explained_by_volume: true
    statistics: [burst]
    budget:
      key: one false alert per 60 days
      shop: 7 a week
    at_least: {observed: 5, ratio: 3, severity: 2}
    resolve_below: 1.5
    for: 10m
    keep_firing_for: 1h 30m
    reopen_within: 1d
    repeat: 0
    weight: 2
    group_by: [product]
    mute_during: [nights]
    routes: [ops, log]
  rest:
    kind: demand_surge
routes:
  ops: {to: webhook, address: "https://ops.example.com/a", secret_env: OPS_SECRET, at_least_severity: 4, timeout: 5s}
  log: {to: file, address: alerts.jsonl, states: [open, acknowledged, resolved], attempts: 2, queue: 10}
calendars:
  nights:
    - hours: "22:00-07:00"
      weekdays: [sat, sun]
    - {first: 2026-11-09, last: 2026-11-11}
inhibit:
  - source: {scope: category}
    target: {scope: product}
    equal: [label]
"""


def wrong(text: str) -> list[str]:
    with pytest.raises(RulesError) as error:
        read_rules(text, "f.yaml")
    return str(error.value).splitlines()


def test_everything_a_file_may_say_arrives() -> None:
    rules = read_rules(ALL)
    urgent, rest = rules.rules
    assert (urgent.name, urgent.kind, urgent.scopes) == ("urgent", "demand_surge", ("product", "category"))
    assert (urgent.labels, urgent.categories) == (("restock", "discount"), ("kettles",))
    assert (urgent.key_days, urgent.shop_per_day) == (60, 1)
    assert (urgent.min_observed, urgent.min_ratio, urgent.min_severity, urgent.close_surprise) == (5, 3, 2, 1.5)
    assert (urgent.for_ms, urgent.keep_firing_ms, urgent.reopen_ms, urgent.repeat_ms) == (
        600_000, 5_400_000, 86_400_000, 0
    )  # fmt: skip
    assert (urgent.weight, urgent.volume_aware, urgent.group(KEY)) == (2, True, "product=p1")
    assert group_id(urgent.group(KEY)) != group_id(rest.group(KEY))
    assert rest.group(KEY) == "category=kettles label=restock"
    ops, log = rules.routes_of("urgent")
    assert (ops.to, ops.secret_env, ops.min_severity, ops.timeout_seconds) == ("webhook", "OPS_SECRET", 4, 5)
    assert (log.states, log.attempts, log.queue) == (("open", "acknowledged", "resolved"), 2, 10)
    assert rules.routes_of("rest") == rules.routes_of("no such rule") == ()


def test_the_first_rule_that_matches_a_series_watches_it() -> None:
    urgent, rest = read_rules(ALL).rules
    assert urgent.watches(KEY) and not urgent.watches(KEY._replace(label="delivery_urgency"))
    assert not urgent.watches(KEY._replace(category="mugs")) and not urgent.watches(KEY._replace(kind="negative_spike"))
    engine = Engine([urgent, rest])
    assert engine._rule(KEY) is urgent
    assert engine._rule(KEY._replace(category="mugs")) is rest
    assert engine._rule(KEY._replace(scope="category", product_id="", category="mugs")) is None


@pytest.mark.parametrize(
    ("when", "covered"),
    [
        ("2026-03-07T21:30", True),  # Saturday, 22:30 in Berlin
        ("2026-03-07T20:30", False),
        ("2026-03-08T05:30", True),  # Sunday, 06:30
        ("2026-03-09T05:30", False),  # Monday
        ("2026-11-11T22:30", True),
        ("2026-11-11T23:30", False),  # the twelfth in Berlin
        ("2026-11-08T23:30", True),
    ],
)
def test_calendars_are_local(when: str, covered: bool) -> None:
    ts = int(datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp() * 1000)
    assert read_rules(ALL).rules[0].muted(ts) == covered


def test_the_shipped_rules_are_in_the_package_and_are_the_default() -> None:
    assert load_rules(SHIPPED).rules == DEFAULT_RULES
    assert [(rule.kind, rule.scopes) for rule in DEFAULT_RULES[:2]] == [
        ("negative_spike", ("product",)), ("demand_surge", ("product", "category"))
    ]  # fmt: skip
    assert {rule.key_days for rule in DEFAULT_RULES} == {30} and {rule.shop_per_day for rule in DEFAULT_RULES} == {0.5}


def test_partitions_share_the_budget_of_the_shop() -> None:
    assert {rule.shop_per_day for rule in Rules(DEFAULT_RULES).shared_by(4)} == {0.125}


def test_the_example_of_the_manual_is_a_file_and_its_table_has_every_key() -> None:
    manual = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()
    rules = read_rules(manual.split("```yaml\n")[1].split("```")[0])
    assert [rule.name for rule in rules.rules] == ["fakes", "complaints"]
    for part in ("RulePart", "RoutePart"):
        for key in schema()["$defs"][part]["properties"]:
            assert f"`{key}" in manual, key


# Versions


def version(text: str) -> str:
    return read_rules(text).rules[0].version


def test_the_version_follows_what_detection_depends_on() -> None:
    short = "rules: {a: {kind: negative_spike}}"
    same = """
# a comment
rules:
  a:
    routes: [x]
    keep_firing_for: 900s
    budget: {shop: 3.5 per week, key: 1 every 30 days}
    kind: negative_spike
routes: {x: {to: file, address: f}}
"""
    assert version(short) == version(same)
    others = ["labels: [packaging]", "for: 1m", "budget: {shop: 1 a day}", "resolve_below: 3", "weight: 2",
              "repeat: 1h", "scopes: [category]", "at_least: {ratio: 1}", "mute_during: [c]"]  # fmt: skip
    calendars = "\ncalendars: {c: [{weekdays: [sun]}]}"
    changed = [version(f"rules: {{a: {{kind: negative_spike, {other}}}}}" + calendars) for other in others]
    changed.append(version("rules: {a: {kind: negative_spike, mute_during: [c]}}\ncalendars: {c: [{weekdays: [mon]}]}"))
    assert len({version(short), *changed}) == len(changed) + 1


# Values


@pytest.mark.parametrize(
    ("text", "ms"), [("90s", 90_000), ("15m", 900_000), ("1h 30m", 5_400_000), ("2d", 172_800_000), ("1w", 604_800_000),
                     ("0", 0), (0, 0)]
)  # fmt: skip
def test_durations(text: object, ms: int) -> None:
    assert read_duration(text) == ms


@pytest.mark.parametrize("text", ["", "5", "1.5h", "-1h", "h", "5 minutes", "1h!", None])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="say 90s, 15m"):
        read_duration(text)


@pytest.mark.parametrize(
    ("text", "a_day"),
    [("one false alert per 30 days", 1 / 30), ("five a day", 5), ("2.5 per week", 2.5 / 7),
     ("1 alert every 12 hours", 2), ("Three false alerts  a month", 0.1), ("1 per 2 years", 1 / 730)],
)  # fmt: skip
def test_budgets(text: str, a_day: float) -> None:
    assert read_rate(text) == pytest.approx(a_day)


@pytest.mark.parametrize("text", ["", "5", "many a day", "0 a day", "1 per 0 days", "1 per fortnight", "1..2 a day", 3])
def test_what_is_no_budget(text: object) -> None:
    with pytest.raises(ValueError, match="one false alert per 30 days"):
        read_rate(text)


# Mistakes


A, DEMAND = "rules:\n  a:\n    kind: negative_spike\n    ", "rules: {a: {kind: demand_surge}}\n"


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("rules:\n  a:\n    kind: negative_spik", "3:5: rules.a.kind", "did you mean 'negative_spike'?"),
        (A + "keep_firing: 1h", "4:5: rules.a.keep_firing", "no key 'keep_firing'; did you mean 'keep_firing_for'?"),
        ("rules:\n  a:\n    scopes: [product]", "2:3: rules.a.kind", "is missing"),
        (A + "for: soon", "4:5: rules.a.for", "cannot read 'soon' as a duration: say 90s, 15m, 2h"),
        (A + "budget: {key: lots}", "4:14: rules.a.budget.key", "cannot read 'lots' as a budget: say 'one false"),
        (A + "labels:\n      - packagin", "5:9: rules.a.labels[0]", "did you mean 'packaging'?"),
        (A + "scopes: product", "4:5: rules.a.scopes", "a list is needed: put it in [ ]"),
        (A + "scopes: []", "4:5: rules.a.scopes", "must not be empty"),
        (A + "at_least: {severity: 11}", "4:16: rules.a.at_least.severity", "less than or equal to 10, not 11"),
        (A + "routes: [x]", "4:14: rules.a.routes[0]", "no route 'x'; there are none"),
        (A + "mute_during: [nigth]\ncalendars: {night: []}", "4:19: rules.a.mute_during[0]", "did you mean 'night'?"),
        (A + "statistics: [wave]", "4:18: rules.a.statistics[0]", "no value 'wave'; there are burst, ramp, silence"),
        (
            "rules:\n  a: {kind: demand_surge}\n  b: {kind: demand_surge, labels: [restock]}",
            "3:3: rules.b",
            "never gets a turn: 'a' above watches every demand_surge of a product; put it below",
        ),
        (
            "rules: {a: {kind: demand_surge, scopes: [category], products: [p]}}",
            "1:53: rules.a.products",
            "a category has no product id; take category out of scopes",
        ),
        (DEMAND + "routes: {x: {to: webhook, address: ops}}", "2:27: routes.x.address", "'ops' is no http(s) URL"),
        (DEMAND + "routes: {x: {to: pager, address: f}}", "2:14: routes.x.to", "there are webhook, kafka, file"),
        (
            DEMAND + "routes: {x: {to: file, address: f, secret_env: S}}",
            "2:36: routes.x.secret_env",
            "only webhooks are signed; a file takes none",
        ),
        (
            DEMAND + "routes: {x: {to: webhook, address: 'http://h/', secret_env: RADAR_S}}",
            "2:49: routes.x.secret_env",
            "take another",
        ),
        (
            DEMAND + "calendars: {c: [{first: 2026-02-02, last: 2026-02-01}]}",
            "2:37: calendars.c[0].last",
            "2026-02-01 is before 2026-02-02",
        ),
        (DEMAND + "calendars: {c: [{hours: 22-7}]}", "2:18: calendars.c[0].hours", "say '22:00-07:00'"),
        (
            DEMAND + "inhibit: [{source: {scop: product}, target: {scope: product}}]",
            "2:21: inhibit[0].source.scop",
            "did you mean 'scope'?",
        ),
        (DEMAND + "timezone: Berlin", "2:1: timezone", "no time zone 'Berlin': say UTC"),
        (DEMAND + "version: 2", "2:1: version", "no value '2'; there are 1"),
        ("rules:\n  a: {kind: demand_surge}\n  a: {}", "3:3: rules.a", "given twice, on lines 2 and 3; keep one"),
        ("rules: [", "1:9: YAML", "expected the node content"),
        ("rules:\n\ta: 1", "2:1: YAML", "cannot start any token"),
        ("", "1:1: file", "no mapping; begin with 'rules:'"),
        ("rules: {}", "1:1: rules", "must not be empty"),
        ("ruls: {}", "1:1: ruls", "did you mean 'rules'?"),
    ],
)
def test_a_mistake_is_told_with_line_column_and_remedy(text: str, place: str, said: str) -> None:
    assert [line for line in wrong(text) if line.startswith(f"f.yaml:{place}: ") and said in line]


def test_all_mistakes_are_told_at_once_in_order() -> None:
    lines = wrong("rules:\n  a:\n    kind: demand_surge\n    for: x\n    repeet: 1h\n  b: {kind: no}\n")
    assert [line.split(":")[1] for line in lines] == ["4", "5", "6"]


def test_a_file_that_is_not_there_or_no_text_is_a_mistake_too(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="cannot be read"):
        load_rules(tmp_path / "nowhere.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RulesError, match="cannot be read"):
        load_rules(tmp_path / "b.yaml")
    assert "special characters are not allowed" in wrong("rules: \x00")[0]


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["negative_spike", "1h", "product"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["rules", "a", "kind", "scopes", "budget", "key", "routes", "to", "calendars", "inhibit", "for"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(TREES)
def test_whatever_a_file_holds_it_is_read_or_refused_with_a_place(tree: Any) -> None:
    try:
        assert read_rules(yaml.safe_dump(tree, allow_unicode=True)).rules
    except RulesError as error:
        assert error.problems and all(problem.line > 0 and problem.what for problem in error.problems)


def test_the_schema_accepts_what_the_reader_accepts() -> None:
    for text in (ALL, SHIPPED.read_text()):
        plain = {**yaml.safe_load(text)}
        for periods in plain.get("calendars", {}).values():
            for period in periods:
                period |= {name: day.isoformat() for name, day in period.items() if name in ("first", "last")}
        plain["rules"] = {n: rule | ({"repeat": "0"} if "repeat" in rule else {}) for n, rule in plain["rules"].items()}
        jsonschema.validate(plain, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"rules": {"a": {"kind": "demand_surge", "fro": "1h"}}}, schema())


# A file that changes


def test_a_changed_file_is_seen_and_a_broken_one_leaves_the_rules(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules: {a: {kind: demand_surge}}")
    file = RulesFile(str(path))
    assert not file.poll()
    before = file.rules

    def write(text: str, second: int) -> None:
        path.write_text(text)
        os.utime(path, (second, second))

    write("rules: {a: {kind: demand_surge}}  # touched", 1)
    assert not file.poll()
    write("rules: {a: {kind: demand_surg}}", 2)
    with caplog.at_level(logging.ERROR):
        assert not file.poll() and not file.poll()
    assert len(caplog.records) == 1 and "did you mean 'demand_surge'" in caplog.text
    assert file.rules == before
    path.unlink()
    assert not file.poll()
    write("rules: {b: {kind: demand_surge}}", 3)
    assert file.poll() and not file.poll()
    assert [rule.name for rule in file.rules.rules] == ["b"]


def test_without_a_name_the_shipped_rules_are_in_force() -> None:
    assert RulesFile().rules.rules == DEFAULT_RULES
