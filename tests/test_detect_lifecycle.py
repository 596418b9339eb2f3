"""The life of one alert: every path by name, and all against a plain model, saved and restored at every step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stream.detect import lifecycle
from stream.detect.lifecycle import VERBS, Action, Incident, Reading, act, observe
from stream.detect.policy import Calendar, Inhibition, Matcher, Period, Rule, inhibitor
from stream.detect.score import Score

PANE = 300_000
WINDOW = 12 * PANE
HOUR = 12 * PANE
RULE = Rule("r", "v1", "negative_spike", ("product",), volume_aware=True, repeat_ms=0)
OPEN, CLOSE = 5.0, RULE.close_surprise


def reading(pane: int, surprise: float, open_at: float = OPEN, severity: int = 5, observed: float = 0.0) -> Reading:
    score = Score("burst", observed or surprise, 0.5, 0.0, 2.0, surprise, 0)
    return Reading(pane * PANE, score, open_at, severity, [1.0, [1.0, 0.0, 0.0], []])


def saved(incident: Incident | None) -> Incident | None:
    """Through JSON and back."""
    return None if incident is None else Incident.from_list(orjson.loads(orjson.dumps(incident.to_list())))


class Told(list[tuple[int, str, str]]):
    """(pane, state, first word of the cause) of everything that was told."""

    def __init__(self, rule: Rule = RULE) -> None:
        super().__init__()
        self.rule, self.now = rule, 0
        self.incident: Incident | None = None

    def see(self, *surprises: float, severity: int = 5, observed: float = 0.0) -> Told:
        for surprise in surprises:
            self.now += 1
            if self.incident and lifecycle.is_over(self.incident, self.now * PANE, self.rule.reopen_ms):
                self.incident = None
            seen = reading(self.now, surprise, severity=severity, observed=observed)
            after, cause = observe(self.incident, seen, self.rule, WINDOW)
            if after is not None and after.firing and not after.alert_id:
                after = replace(after, alert_id=f"a{self.now}")
            self._note(after, cause)
        return self

    def do(self, action: str, ts: int = 0, **options: Any) -> Told:
        assert self.incident is not None
        said = Action(self.incident.alert_id, action, ts or self.now * PANE + len(self), **options)  # type: ignore[arg-type]
        self._note(*act(self.incident, said, self.now * PANE))
        return self

    def _note(self, after: Incident | None, cause: str) -> None:
        self.incident = saved(after)
        assert self.incident == after
        if cause:
            assert after is not None
            self.append((self.now, after.state, cause.split()[0].strip(":")))

    @property
    def states(self) -> list[str]:
        return [state for _, state, _ in self]


# Opening and closing


def test_it_opens_at_the_threshold_and_is_resolved_after_calm() -> None:
    assert Told().see(4.9, 5, 6, 1, 1, 1) == [(2, "open", "opened"), (6, "resolved", "calm")]


def test_between_the_thresholds_it_neither_opens_nor_closes() -> None:
    assert Told().see(*[3.0] * 20) == []
    assert Told().see(5, *[2.0] * 50).states == ["open"]


def test_a_dip_shorter_than_keep_firing_for_is_no_end() -> None:
    assert Told().see(5, 0, 0, 2, 0, 0, 2, 0, 0, 2).states == ["open"]


def test_for_asks_for_a_run_without_a_gap() -> None:
    patient = replace(RULE, for_ms=2 * PANE)
    assert Told(patient).see(5, 5, 4, 5, 5, 5) == [(6, "open", "opened")]
    pending = Told(patient).see(5, 5)
    assert pending == [] and pending.incident is not None and pending.incident.state == "pending"
    assert pending.see(4).incident is None


def test_too_mild_an_alert_does_not_open() -> None:
    told = Told(replace(RULE, min_severity=4)).see(9, severity=3)
    assert told == []
    assert told.see(9, severity=4).states == ["open"]


def test_nothing_opens_while_a_calendar_mutes_and_what_is_open_goes_on() -> None:
    day = date(1970, 1, 1)
    muted = replace(RULE, mute_during=(Calendar("c", "UTC", (Period(day, day),)),))
    told = Told(muted).see(*[9] * 286)  # to 23:50
    assert told == []
    assert told.see(9, 9, 9) == [(288, "open", "opened")]
    assert Told(replace(muted, mute_during=())).see(9, 1, 1, 1).states == ["open", "resolved"]


# Opening again


def test_what_rises_again_in_time_is_the_same_alert_and_asks_for_more_calm() -> None:
    told = Told().see(5, 0, 0, 0)
    first = told.incident
    assert first is not None and first.closed_at == 4 * PANE
    told.see(*[0] * 7, 6)
    again = told.incident
    assert again is not None
    assert (again.alert_id, again.opened_at, again.reopened, again.closed_at) == (first.alert_id, PANE, 1, 0)
    assert again.worst.score.surprise == 6
    assert again.patience == 2 * 11 * PANE
    assert told.see(*[0] * 21).states == ["open", "resolved", "open"]
    assert told.see(0).states == ["open", "resolved", "open", "resolved"]


def test_what_rises_later_is_another_alert() -> None:
    told = Told().see(5, 0, 0, 0, *[0] * 23)  # two hours after it closed
    assert told.incident is not None
    assert told.see(5).incident is not None and told.incident.alert_id == "a1"
    told = Told().see(5, 0, 0, 0, *[0] * 25, 5)
    assert told.incident is not None
    assert (told.incident.alert_id, told.incident.reopened) == ("a30", 0)


def test_for_also_holds_for_opening_again() -> None:
    patient = replace(RULE, for_ms=PANE)
    assert Told(patient).see(5, 5, 0, 0, 0, 6, 0, 6, 6)[2:] == [(9, "open", "opened")]


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(1, 23), st.integers(1, 23), st.integers(3, 12))
def test_a_score_that_swings_about_the_threshold_opens_twice_at_most(high: int, low: int, rounds: int) -> None:
    told = Told()
    for _ in range(rounds):
        told.see(*[OPEN] * high, *[CLOSE - 0.1] * low)
    told.see(*[0.0] * 60)
    assert told.states.count("open") == told.states.count("resolved") == (2 if low >= 3 else 1)
    assert told.incident is None or told.incident.alert_id == "a1"


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(CLOSE, 40), min_size=1, max_size=60))
def test_a_score_that_never_goes_below_the_closing_threshold_opens_once(surprises: list[float]) -> None:
    told = Told().see(OPEN, *surprises, *[0.0] * 3)
    assert [word for _, _, word in told if word in ("opened", "calm")] == ["opened", "calm"]


# Telling


def test_growth_is_told_once_per_window_and_only_when_it_is_worse() -> None:
    told = Told().see(5, *[6 + n / 100 for n in range(11)], observed=4)
    assert told.states == ["open"]
    assert told.see(7, observed=6)[1:] == [(13, "open", "grew")]
    assert told.see(7, *[7] * 20, observed=100)[2:] == []
    assert told.see(7.1, observed=100)[2:] == [(35, "open", "grew")]


def test_an_alert_that_nobody_took_is_repeated() -> None:
    told = Told(replace(RULE, repeat_ms=HOUR)).see(*[5] * 26)
    assert told == [(1, "open", "opened"), (13, "open", "still"), (25, "open", "still")]
    held = Told(replace(RULE, repeat_ms=HOUR)).see(5).do("ack").see(*[5] * 40)
    assert held.states == ["open", "acknowledged"]


def test_every_state_is_later_than_the_one_before() -> None:
    told = Told().see(5)
    times = []
    for verb in ("ack", "silence", "unsilence", "ack", "useful"):
        told.do(verb)
        assert told.incident is not None
        times.append(told.incident.updated_at)
    assert times == [PANE + n for n in range(1, 6)]


# Holds


def test_an_acknowledgement_lasts_until_the_end_and_no_longer() -> None:
    told = Told().see(5).do("ack").see(5, 0, 0, 0, 5)
    assert told.states == ["open", "acknowledged", "resolved", "open"]


def test_a_silence_lasts_over_openings_until_it_is_lifted() -> None:
    told = Told().see(5).do("silence").see(0, 0, 0, 5).do("unsilence")
    assert told.states == ["open", "silenced", "resolved", "silenced", "open"]


def test_a_snooze_ends_by_itself_and_is_told() -> None:
    told = Told().see(5).do("snooze", duration=3 * PANE).see(5, 5)
    assert told.states == ["open", "snoozed"]
    assert told.see(5)[2:] == [(4, "open", "snooze")]


def test_a_snooze_outlasts_a_short_end_but_not_its_time() -> None:
    assert Told().see(5).do("snooze", until=6 * PANE).see(0, 0, 0, 5).states[-1] == "snoozed"
    assert Told().see(5).do("snooze", until=5 * PANE).see(0, 0, 0, 5).states[-1] == "open"


def test_a_snooze_to_a_time_that_has_passed_changes_nothing() -> None:
    assert Told().see(0, 5).do("snooze", until=2 * PANE).states == ["open"]


def test_a_snooze_that_is_over_when_the_alert_grows_is_over() -> None:
    told = Told().see(5, observed=4).do("snooze", until=13 * PANE).see(*[5] * 11, 9, observed=40)
    assert told[2:] == [(13, "open", "grew")]


def test_a_hold_may_take_the_place_of_another() -> None:
    told = Told().see(5).do("ack").do("silence").do("snooze", duration=PANE).do("ack")
    assert told.states == ["open", "acknowledged", "silenced", "snoozed", "acknowledged"]
    assert told.do("unsilence").states[-1] == "acknowledged"  # there is nothing to lift


def test_a_held_alert_is_resolved_like_any_other() -> None:
    for verb in ("ack", "silence"):
        assert Told().see(5).do(verb).see(0, 0, 0).states[-1] == "resolved"


def test_an_action_counts_once_and_an_earlier_one_not_at_all() -> None:
    told = Told().see(5).do("silence", ts=100).do("silence", ts=100).do("ack", ts=99)
    assert told.states == ["open", "silenced"]
    assert told.do("unsilence", ts=101).do("silence", ts=100).states == ["open", "silenced", "open"]


@pytest.mark.parametrize("verb", ["ack", "silence", "snooze", "unsilence"])
def test_what_has_ended_cannot_be_held(verb: str) -> None:
    told = Told().see(5, 0, 0, 0)
    assert told.do(verb, duration=HOUR).states == ["open", "resolved"]


@pytest.mark.parametrize("verdict", ["useful", "not_useful"])
def test_a_verdict_acknowledges_and_may_come_after_the_end(verdict: str) -> None:
    told = Told().see(5).do(verdict)
    assert told.states == ["open", "acknowledged"]
    assert told.incident is not None and told.incident.verdict == verdict
    told = Told().see(5, 0, 0, 0).do(verdict)
    assert told.states == ["open", "resolved", "resolved"]
    silenced = Told().see(5).do("silence").do(verdict)
    assert silenced.states[-1] == "silenced"


def test_nobody_can_act_on_what_is_pending() -> None:
    pending = Told(replace(RULE, for_ms=HOUR)).see(5)
    assert pending.do("ack") == [] and pending.incident is not None and pending.incident.hold == ""


def test_the_author_and_the_reason_are_in_the_cause() -> None:
    incident = Told().see(5).incident
    assert incident is not None
    _, cause = act(incident, Action("a1", "not_useful", 1, "ann", note="promotion"), PANE)
    assert cause == "not useful by ann: promotion"


def test_an_alert_without_a_rule_ends_and_says_why() -> None:
    told = Told().see(5)
    assert told.incident is not None
    ended, cause = lifecycle.abandon(told.incident, 2 * PANE, "rule r is gone")
    assert ended is not None
    assert (ended.state, ended.closed_at, cause) == ("resolved", 2 * PANE, "rule r is gone")
    assert lifecycle.abandon(ended, 3 * PANE, "x") == (None, "")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"action": "explode"}, "there are ack, silence, snooze"),
        ({"action": "snooze"}, "'until' or 'duration'"),
        ({"ts": "soon"}, "invalid literal"),
        ({"ts": 1 << 60}, "epoch milliseconds"),
        ({"action": "snooze", "until": -5}, "epoch milliseconds"),
        ({"alert_id": None, "action": []}, "no action"),
    ],
)
def test_a_message_that_is_no_action_is_refused(message: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        lifecycle.read_action({"alert_id": "a", "action": "ack", "ts": 1} | message)
    with pytest.raises(KeyError):
        lifecycle.read_action({"action": "ack", "ts": 1})


def test_an_action_is_what_its_message_says() -> None:
    action = Action("a", "snooze", 7, "ann", 0, 9, "later")
    assert lifecycle.read_action(orjson.loads(orjson.dumps(action._asdict()))) == action


# Severity and inhibition


@pytest.mark.parametrize(
    ("observed", "expected", "surprise", "level"), [(5, 0.3, 5, 4), (12, 1, 9, 6), (60, 5, 30, 10)]
)
def test_severity_is_how_far_times_how_many(observed: float, expected: float, surprise: float, level: int) -> None:
    score = Score("burst", observed, expected, 0, 0, surprise, 0)
    assert lifecycle.severity(score) == level
    assert lifecycle.severity(score, 4.0) == min(10, 2 * level) or abs(lifecycle.severity(score, 4.0) - 2 * level) <= 1


def test_silence_is_as_severe_as_what_is_missing() -> None:
    assert lifecycle.severity(Score("silence", 0, 30, 0, 0, 8, 0)) == lifecycle.severity(
        Score("burst", 31, 1, 0, 0, 8, 0)
    )


def test_what_sells_more_matters_more_within_bounds() -> None:
    weights = [lifecycle.matter(importance, RULE) for importance in (0.0, 0.25, 1.0, 2.25, 100.0)]
    assert weights == [0.5, 0.5, 1.0, 1.5, 2.0]
    assert lifecycle.matter(1.0, replace(RULE, weight=3.0)) == 3.0


def alert(
    alert_id: str, scope: str, label: str = "restock", state: str = "open", category: str = "c"
) -> dict[str, Any]:
    return {"alert_id": alert_id, "scope": scope, "label": label, "state": state, "category": category, "kind": "k"}


INHIBIT = (Inhibition(Matcher({"scope": "category"}), Matcher({"scope": "product"}), ("kind", "category", "label")),)


@pytest.mark.parametrize(
    ("other", "muted"),
    [
        (alert("c1", "category"), "c1"),
        (alert("c1", "category", state="silenced"), "c1"),
        (alert("c1", "category", state="resolved"), ""),
        (alert("c1", "category", label="discount"), ""),
        (alert("c1", "category", category="d"), ""),
        (alert("c1", "product"), ""),
    ],
)
def test_a_category_mutes_its_products_while_it_lives(other: dict[str, Any], muted: str) -> None:
    mine = alert("p1", "product")
    assert inhibitor(mine, [mine, other], INHIBIT) == muted
    assert inhibitor(other, [mine], INHIBIT) == ""
    assert inhibitor(mine, [other], ()) == ""


# Against a plain model

LEVELS = st.sampled_from([0.0, 1.0, 1.9, 2.0, 3.0, 4.9, 5.0, 6.0, 7.0, 9.0, 20.0])
SPANS = st.sampled_from([0, 1, PANE, 2 * PANE, 3 * PANE, 7 * PANE, 24 * PANE])


class Model:
    """The promises of lifecycle.py in the words of its docstring, with flags and counters."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.alive = self.open = False
        self.run = 0  # panes in a row at the threshold
        self.count = 0  # alerts so far
        self.forget()

    def forget(self) -> None:
        self.alive = self.open = False
        self.reopened = self.closed = self.calm_since = self.needed = 0
        self.held, self.until, self.verdict = "", 0, ""
        self.worst = self.told_at = -math.inf
        self.last: tuple[int, str, str] = (0, "", "")

    @property
    def state(self) -> str:
        if self.open:
            return self.held or "open"
        return "resolved" if self.alive else "pending" if self.run else "none"

    def pane(self, now: int, level: float, severity: int) -> str:
        if self.alive and not self.open and now - self.closed > self.rule.reopen_ms:
            self.forget()
            self.run = 0
        rises = level >= OPEN and (self.open or severity >= self.rule.min_severity)
        self.run = self.run + 1 if rises else 0
        word = self._closed(now, level) if not self.open else self._opened(now, level)
        if word:
            self.told_at = now
        return word

    def _closed(self, now: int, level: float) -> str:
        if not self.run or (self.run - 1) * PANE < self.rule.for_ms:
            return ""
        self.open = True
        if not self.alive:
            self.alive, self.count, self.needed, word = True, self.count + 1, self.rule.keep_firing_ms, "opened"
        else:
            calm = now - self.calm_since
            self.needed = max(self.needed, min(2 * calm, self.rule.reopen_ms))
            self.reopened += 1
            stays = self.held == "silenced" or (self.held == "snoozed" and self.until > now)
            self.held, word = (self.held if stays else ""), "opened again"
        self.calm_since = now
        return word

    def _opened(self, now: int, level: float) -> str:
        if level >= CLOSE:
            self.calm_since = now
        elif now - self.calm_since >= self.needed:
            self.open, self.closed, self.run = False, now, 0
            return "calm"
        if self.held == "snoozed" and now >= self.until:
            self.held = ""
            return "snooze over"
        if self.rule.repeat_ms and not self.held and now - self.told_at >= self.rule.repeat_ms:
            return "still"
        return ""

    def action(self, verb: str, ts: int, by: str, until: int, now: int) -> bool:
        """Whether it changes something."""
        if not self.alive or (ts, verb, by) <= self.last:
            return False
        before = (self.held, self.until if self.held == "snoozed" else 0, self.verdict)
        if verb in ("useful", "not_useful"):
            self.verdict = verb
            if self.open:
                self.held = self.held or "acknowledged"
        elif self.open:
            if verb == "snooze" and until > now:
                self.held, self.until = "snoozed", until
            elif verb == "unsilence" and self.held != "acknowledged":
                self.held = ""
            elif verb in ("ack", "silence"):
                self.held = {"ack": "acknowledged", "silence": "silenced"}[verb]
        changed = before != (self.held, self.until if self.held == "snoozed" else 0, self.verdict)
        if changed:
            self.last = (ts, verb, by)
        return changed


class Life(RuleBasedStateMachine):
    """Panes and actions in any order. Growth is left out (all windows are equally large): it has its own tests."""

    @initialize(for_ms=SPANS, keep=SPANS, reopen=SPANS, repeat=SPANS, least=st.sampled_from([1, 3]))
    def begin(self, for_ms: int, keep: int, reopen: int, repeat: int, least: int) -> None:
        self.rule = replace(
            RULE, for_ms=for_ms, keep_firing_ms=keep, reopen_ms=reopen, repeat_ms=repeat, min_severity=least
        )
        self.model, self.now = Model(self.rule), 0
        self.incident: Incident | None = None
        self.updated = 0

    def _take(self, after: Incident | None, cause: str, expected: bool) -> None:
        assert bool(cause) == expected
        self.incident = saved(after)
        assert self.incident == after
        if cause:
            assert after is not None and after.updated_at > self.updated
            self.updated = after.updated_at

    @rule(level=LEVELS, severity=st.sampled_from([2, 5]), panes=st.integers(1, 4))
    def pass_panes(self, level: float, severity: int, panes: int) -> None:
        for _ in range(panes):
            self.now += PANE
            if self.incident is not None and lifecycle.is_over(self.incident, self.now, self.rule.reopen_ms):
                self.incident, self.updated = None, 0
            seen = Reading(self.now, Score("burst", 4.0, 0.5, 0, 2, level, 0), OPEN, severity, [])
            after, cause = observe(self.incident, seen, self.rule, WINDOW)
            if after is not None and after.firing and not after.alert_id:
                after = replace(after, alert_id=f"a{self.model.count + 1}")
            if cause.startswith("grew"):  # in severity
                self.model.told_at = self.now
                self.model.pane(self.now, level, severity)
                self.model.told_at = self.now
                self._take(after, cause, True)
                continue
            word = self.model.pane(self.now, level, severity)
            assert cause.startswith(word)
            self._take(after, cause, bool(word))

    @rule(
        verb=st.sampled_from(VERBS), later=st.integers(0, 3), by=st.sampled_from(["ann", "bob"]), length=SPANS,
        absolute=st.booleans(),
    )  # fmt: skip
    def say(self, verb: str, later: int, by: str, length: int, absolute: bool) -> None:
        if self.incident is None:
            return
        ts = self.now + later
        until = self.now + length
        said = Action("a", verb, ts, by, until if absolute else 0, 0 if absolute else length)  # type: ignore[arg-type]
        expected = self.model.action(verb, ts, by, until, self.now)
        self._take(*act(self.incident, said, self.now), expected)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "model"):
            return
        if self.incident is None:
            assert self.model.state in ("none", "resolved")
            return
        found, model = self.incident, self.model
        assert found.state == model.state
        assert found.verdict == model.verdict
        if model.alive:
            assert (found.alert_id, found.reopened) == (f"a{model.count}", model.reopened)
            assert found.firing == (found.closed_at == 0)


TestLife = Life.TestCase
TestLife.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)


def outcomes(surprises: Iterable[float], cut: int) -> list[tuple[int, str, str]]:
    told = Told()
    for number, surprise in enumerate(surprises):
        if number == cut:
            told.incident = saved(told.incident)
        told.see(surprise)
    return list(told)


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.lists(LEVELS, max_size=60), st.integers(0, 60))
def test_saving_between_any_two_steps_changes_nothing(surprises: list[float], cut: int) -> None:
    assert outcomes(surprises, cut) == outcomes(surprises, -1)
