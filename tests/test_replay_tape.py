"""What a replay plays, when, and what it promises: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.replay import Event, EventFiles, write_events
from stream.replay.control import BadCommand, Control, read_speed
from stream.replay.events import merged
from stream.replay.metronome import Metronome
from stream.replay.namespace import BadNamespace, check_apart, full_name, settings_in
from stream.replay.plan import plan
from stream.replay.progress import eta
from stream.replay.recorded import BadStretch, Offsets, Stocked, _as_of, read_offsets
from stream.replay.run import check_kinds, read_remap
from stream.replay.tape import Selection, Tape
from stream.settings import Settings

START = 1_772_380_800_000
PANE = 300_000
SETTINGS = Settings()


def click(ts: int, user: str = "u1", action: str = "view", product: str = "p1") -> Event:
    value = {"event_id": f"c{ts}", "ts": START + ts, "user_id": user, "session_id": "s", "action": action}
    return Event("clicks", user, value | {"product_id": product}, START + ts)


def stock(ts: int = 0) -> Event:
    return Event("catalog", "p1", {"product_id": "p1"}, START + ts)


class Reel:
    """A source that counts how often it is read."""

    def __init__(self, *events: Event) -> None:
        self.events, self.read = events, 0

    def __iter__(self) -> Iterator[Event]:
        self.read += 1
        return iter(self.events)

    def done(self) -> float:
        return 0.5


def play(tape: Tape) -> Iterator[Event]:
    """Iterate as a sender does that sends everything."""
    for event in tape:
        if event.topic != "catalog":
            tape.sent(event.ts)
        yield event


def times(events: list[Event]) -> list[int]:
    return [event.ts - START for event in events]


# Selection


def test_a_selection_takes_what_agrees_in_everything_that_is_given() -> None:
    review = Event("reviews", "p2", {"event_id": "r", "ts": START, "user_id": "u2", "product_id": "p2"}, START)
    buys = click(10, action="purchase")
    broken = Event("clicks", "u1", "{", START)
    everything = [stock(), review, buys, click(20, "u2", product="p2"), broken]

    def taken(**given: Any) -> list[int]:
        return [place for place, event in enumerate(everything) if Selection(**given).takes(event)]

    assert taken() == [0, 1, 2, 3, 4]
    assert taken(kinds=frozenset({"reviews"})) == [0, 1]
    assert taken(kinds=frozenset({"purchase"})) == [0, 2]
    assert taken(products=frozenset({"p2"})) == [0, 1, 3]
    assert taken(products=frozenset({"p2"}), kinds=frozenset({"clicks"})) == [0, 3]
    assert taken(users=frozenset({"u1"})) == [0, 2]
    assert taken(begin=START + 10) == [0, 2, 3]
    assert taken(end=START + 10) == [0, 1, 4]


def test_the_tape_moves_time_by_whole_panes_and_leaves_the_catalogue_alone() -> None:
    to = START + 10 * PANE + 77
    events = list(Tape(Reel(stock(), click(PANE - 1), click(PANE)), shift_to=to, pane_ms=PANE))
    shift = events[1].ts - START - (PANE - 1)
    assert shift % PANE == 0
    assert to - PANE < events[1].ts <= to
    assert events[0].value == {"product_id": "p1"}
    assert [event.value["ts"] for event in events[1:]] == [event.ts for event in events[1:]]  # type: ignore[index]
    assert [event.value["event_id"] for event in events[1:]] == [f"c{PANE - 1}", f"c{PANE}"]  # type: ignore[index]


def test_what_cannot_be_read_is_moved_as_it_is() -> None:
    (event,) = list(Tape(Reel(Event("clicks", None, "{", START)), shift_to=START + PANE, pane_ms=PANE))
    assert event.value == "{"


def test_an_unchanged_tape_hands_the_very_events_on() -> None:
    reel = Reel(stock(), click(1), click(0))
    assert all(played is event for played, event in zip(Tape(reel), reel.events, strict=True))


# Winding


def test_a_loop_goes_on_in_time_with_ids_of_its_own() -> None:
    tape = Tape(Reel(stock(), click(0), click(PANE + 5), click(PANE)), loop=True, pane_ms=PANE)
    played = list(islice(play(tape), 12))
    assert tape.round == 2
    clicks = [event for event in played if event.topic == "clicks"]
    assert times(clicks) == [
        0, PANE + 5, PANE, 2 * PANE, 3 * PANE + 5, 3 * PANE, 4 * PANE, 5 * PANE + 5, 5 * PANE,
    ]  # fmt: skip
    ids = [event.value["event_id"] for event in clicks]  # type: ignore[index]
    assert ids[2:5] == [f"c{PANE}", "c0#1", f"c{PANE + 5}#1"]
    assert len(set(ids)) == len(ids)


def test_a_loop_over_nothing_ends() -> None:
    assert len(list(Tape(Reel(stock()), loop=True))) == 1
    assert list(Tape(Reel(click(0)), Selection(begin=START + 1), loop=True)) == []


def test_seeking_forward_leaves_events_out() -> None:
    reel = Reel(*(click(n) for n in range(10)))
    tape = Tape(reel)
    events = play(tape)
    next(events)
    tape.seek(START + 7)
    assert times(list(events)) == [7, 8, 9]
    assert (reel.read, tape.shift, tape.round) == (1, 0, 0)


def test_seeking_back_plays_again_at_a_later_time() -> None:
    tape = Tape(Reel(stock(), *(click(n) for n in range(10))), pane_ms=PANE)
    events = play(tape)
    list(islice(events, 9))
    tape.seek(START + 5)
    rest = [event for event in events if event.topic == "clicks"]
    assert times(rest) == [PANE + 5, PANE + 6, PANE + 7, PANE + 8, PANE + 9]
    assert tape.position == START + 9


def test_an_event_in_hand_is_given_again_unless_it_was_wound_past() -> None:
    def wound(to: int) -> list[int]:
        tape = Tape(Reel(click(0), click(100), click(200)), pane_ms=PANE)
        events = iter(tape)
        tape.sent(next(events).ts)
        next(events)
        tape.seek(START + to)
        tape.put_back()
        return times(list(events))

    assert wound(50) == [100, 200]
    assert wound(150) == [200]
    assert wound(-1) == [PANE, PANE + 100, PANE + 200]


@given(
    st.lists(st.integers(0, 4 * PANE), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4 * PANE)), max_size=5),
)
def test_wherever_it_is_wound_event_time_does_not_go_back_by_more_than_the_recording_did(
    recorded: list[int], seeks: list[tuple[int, int]]
) -> None:
    tape = Tape(Reel(*map(click, recorded)), pane_ms=PANE)
    events, rounds, newest = play(tape), {0: 0}, 0
    for count, target in [*seeks, (1_000, 0)]:
        for event in islice(events, count):
            if tape.round not in rounds:
                rounds[tape.round] = newest
            # In a new round everything is later than all before it.
            assert event.ts > rounds[tape.round]
            newest = max(newest, event.ts)
            assert (tape.shift % PANE, tape.clock) == (0, newest)
        if count != 1_000:
            tape.seek(START + target)


# Order


@given(st.lists(st.lists(st.integers(0, 50), max_size=20), max_size=4))
def test_merging_keeps_each_stream_and_adds_no_lateness(streams: list[list[int]]) -> None:
    tagged = [[click(ts, user=f"u{n}") for ts in stream] for n, stream in enumerate(streams)]
    out = list(merged(tagged))
    for n, stream in enumerate(tagged):
        assert [event for event in out if event.key == f"u{n}"] == stream
    newest, own = 0, Counter[str]()
    for event in out:
        name = event.key or ""
        own[name] = max(own[name], event.ts)
        newest = max(newest, event.ts)
        # Behind the newest event of all is only what is behind the newest of its own stream.
        assert newest == own[name]


def test_files_are_read_again_from_the_start_and_tell_how_far(tmp_path: Path) -> None:
    write_events([click(0), click(1)], tmp_path / "a.jsonl")
    write_events([click(0, "u2")], tmp_path / "b.jsonl")
    files = EventFiles([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert list(files) == list(files)
    assert files.done() == 1
    assert len(list(EventFiles([tmp_path / "a.jsonl"]))) == 2


def test_a_catalogue_line_may_say_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "catalog.jsonl").write_bytes(Stocked(0, "p", {"x": 1}).line() + Stocked(START + 15, "p", {}).line())
    write_events([click(10), click(20)], tmp_path / "clicks.jsonl")
    events = list(EventFiles([tmp_path / "catalog.jsonl", tmp_path / "clicks.jsonl"]))
    assert [event.topic for event in events] == ["catalog", "clicks", "catalog", "clicks"]


# Heartbeats


@given(st.lists(st.integers(0, 3 * PANE), min_size=1, max_size=40), st.data())
def test_what_is_promised_before_an_event_does_not_depend_on_the_speed(steps: list[int], data: st.DataObject) -> None:
    """A paced replay looks at the clock in between; at full speed nobody does."""
    fast, paced = Metronome(SETTINGS), Metronome(SETTINGS)
    ts = START + steps[0]
    assert fast.start(ts) == paced.start(ts) == ts - SETTINGS.lateness_ms
    for step in steps[1:]:
        here = ts
        ts += step - PANE // 2  # some come late
        for passed in sorted(data.draw(st.lists(st.integers(here, max(here, ts)), max_size=4))):
            if passed < ts:
                paced.advance(passed)
        fast.advance(ts)
        paced.advance(ts)
        assert fast.promised == paced.promised <= max(fast.clock - SETTINGS.lateness_ms, ts - SETTINGS.lateness_ms)
    assert fast.end() == paced.end()


# Commands


def test_commands_change_the_state_and_answer_with_it() -> None:
    tape = Tape(Reel(*(click(n * 1_000) for n in range(10))))
    control = Control(speed=60, tape=tape)
    events = play(tape)
    next(events)
    assert control.command("status") == {
        "state": "playing", "speed": 60, "steps": 0, "position": START, "clock": START, "shift": 0, "round": 0,
    }  # fmt: skip
    assert (control.version, control.turn) == (0, 0)
    assert control.command("pause")["state"] == "paused"
    assert control.command("step 3")["steps"] == 3
    assert control.command("resume")["state"] == "playing"
    assert control.command("toggle")["state"] == "paused"
    assert control.command("speed max")["speed"] == "max"
    assert control.command("faster")["speed"] == "max"
    control.command("seek +5s")
    assert (control.version, control.turn) == (7, 1)
    assert times(list(events)) == [5_000, 6_000, 7_000, 8_000, 9_000]
    assert control.command("stop")["state"] == "stopped"


@pytest.mark.parametrize("line", ["", "play", "step 0", "step x", "seek", "seek nowhere", "speed -1", "speed nan"])
def test_a_wrong_command_says_what_is_right_and_changes_nothing(line: str) -> None:
    control = Control(tape=Tape(Reel()))
    with pytest.raises(BadCommand):
        control.command(line)
    assert control.version == 0
    assert control.command("status")["state"] == "playing"


def test_speeds() -> None:
    assert (read_speed("max"), read_speed("2.5")) == (None, 2.5)
    for text in ("0", "-1", "inf", "nan", "fast"):
        with pytest.raises(BadCommand, match="positive"):
            read_speed(text)


# What the command line takes


def test_offsets() -> None:
    assert read_offsets(["clicks/0:100-200", "reviews/12:5-", "chats/1:-9"]) == {
        ("clicks", 0): Offsets(100, 200), ("reviews", 12): Offsets(5, None), ("chats", 1): Offsets(None, 9),
    }  # fmt: skip
    for text in ("clicks/0", "clicks/0:-", "catalog/0:1-2", "clicks/0:9-9", "clicks:1-2"):
        with pytest.raises(BadStretch):
            read_offsets([text])


def test_kinds_and_remap() -> None:
    assert check_kinds(()) is None
    assert check_kinds(("chats", "purchase")) == {"chats", "purchase"}
    with pytest.raises(ValueError, match="there are reviews"):
        check_kinds(("views",))
    assert read_remap(["clicks=a", "catalog=b.c"]) == {"clicks": "a", "catalog": "b.c"}
    for text in ("clicks", "clicks=", "news=a"):
        with pytest.raises(ValueError, match="TOPIC=OTHER"):
            read_remap([text])


def test_a_namespace_has_its_own_of_everything() -> None:
    settings = Settings(prefix="live-", database="shop", home=Path("here"))
    own = settings_in(settings, "july")
    assert (own.prefix, own.database, own.home) == (
        "replay-july-",
        "shop_replay_july",
        Path("here/replays/replay-july"),
    )
    assert own.idle_seconds == 0
    assert settings_in(settings, "replay-july") == own
    assert (settings.prefix, settings.broker) == ("live-", own.broker)
    for name in ("", "a_b", "../x", "A", "a--b", "-", "x" * 61, "a`b"):
        with pytest.raises(BadNamespace):
            full_name(name)


def test_writing_to_what_is_read_is_refused() -> None:
    settings = Settings(prefix="replay-one-")
    check_apart(settings, ["replay-two-clicks", "clicks"])
    with pytest.raises(BadNamespace, match="replay-one-clicks"):
        check_apart(settings, ["replay-two-reviews", "replay-one-clicks"])


def test_the_catalogue_as_it_was() -> None:
    def record(at: int, key: str, version: int) -> Stocked:
        return Stocked(at, key, {"version": version})

    records = [
        record(10, "old", 1), record(20, "old", 2), record(30, "changed", 1), record(60, "changed", 2),
        record(150, "changed", 3), record(150, "new", 1), record(160, "new", 2),
    ]  # fmt: skip
    found = _as_of(records, 50, 100)
    assert [(stocked.at, stocked.key, stocked.value["version"]) for stocked in found] == [
        (0, "old", 2), (0, "changed", 1), (0, "new", 1), (60, "changed", 2),
    ]  # fmt: skip


def test_a_plan_counts_and_sends_nothing() -> None:
    chat = Event("chats", "s", {"ts": START + 3_600_000, "role": "customer"}, START + 3_600_000)
    found = plan([stock(-START), click(5), click(3), chat, Event("reviews", "p", "{", START + 3_600_000)])
    assert found.topics == {"catalog": 1, "clicks": 2, "chats": 1, "reviews": 1}
    assert found.kinds == {"view": 2, "customer": 1}
    assert (found.unreadable, found.disordered) == (1, 1)
    assert (found.first_ts, found.last_ts) == (START + 3, START + 3_600_000)
    assert found.to_dict()["hours"] == [
        {"hour": START, "clicks": 2, "catalog": 1}, {"hour": START + 3_600_000, "chats": 1, "reviews": 1},
    ]  # fmt: skip


def test_the_time_left() -> None:
    assert (eta(0, 100), eta(1, 100)) == ("", "")
    assert eta(0.25, 20) == "0:01:00 left to send"
