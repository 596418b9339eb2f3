"""Event time: watermarks depend on the events, not on how they are cut or interleaved."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from stream.events import Heartbeat
from stream.windows.watermark import BEGINNING, MinWatermark, Watermark


class Event(NamedTuple):
    ts: int


events = st.lists(
    st.one_of(st.builds(Event, st.integers(1, 10_000)), st.builds(Heartbeat, st.integers(1, 10_000), st.booleans()))
)


@given(events, st.lists(st.integers(0, 40)))
def test_lateness_does_not_depend_on_block_boundaries(stream: list[Event], cuts: list[int]) -> None:
    whole = Watermark(100)
    expected = whole.observe(stream)
    pieces, found = Watermark(100), []
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, end in pairwise(edges):
        found += pieces.observe(stream[start:end])
    assert found == expected
    assert pieces.dump() == whole.dump()


@given(events)
def test_a_watermark_never_goes_back_and_nothing_on_time_lies_behind_it(stream: list[Event]) -> None:
    mark = Watermark(100)
    for event in stream:
        before = mark.value
        (late,) = mark.observe([event])
        assert mark.value >= before
        if type(event) is Event:
            assert late == (event.ts < before)


def test_a_heartbeat_is_the_watermark_itself() -> None:
    mark = Watermark(5_000)
    mark.observe([Heartbeat(60_000, False)])
    assert mark.value == 60_000


def test_a_source_that_never_reported_holds_the_clock() -> None:
    clock = MinWatermark(["a", "b"])
    assert clock.report("a", 100, idle=False, replay=False) == BEGINNING
    assert clock.report("b", 50, idle=False, replay=False) == 50


def test_an_idle_source_does_not_hold_a_live_clock() -> None:
    clock = MinWatermark(["a", "b"])
    clock.report("b", 0, idle=True, replay=False)
    assert clock.report("a", 100, idle=False, replay=False) == 100


def test_an_idle_source_holds_the_clock_of_a_replay() -> None:
    clock = MinWatermark(["a", "b"])
    clock.report("b", 0, idle=True, replay=False)
    assert clock.report("a", 100, idle=False, replay=True) == BEGINNING


def test_the_clock_follows_the_furthest_when_all_are_idle() -> None:
    clock = MinWatermark(["a", "b"])
    clock.report("a", 100, idle=True, replay=False)
    assert clock.report("b", 300, idle=True, replay=False) == 300


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1_000), st.booleans(), st.booleans())))
def test_the_joint_clock_never_goes_back(reports: list[tuple[str, int, bool, bool]]) -> None:
    clock, last = MinWatermark("abc"), 0
    for report in reports:
        value = clock.report(*report)
        assert value >= last
        last = value
