from datetime import UTC, datetime

import pytest

from stream.detect.calendars import DOUBT, EVENTS, PLAIN, Event, KnownDays


def effect(ts, events=EVENTS, zone="UTC"):
    return KnownDays(events, zone).effect(ts)


def at(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("day", "factor"),
    [("2026-11-11", 3.0), ("2026-06-18", 2.5), ("2025-11-28", 2.0), ("2026-11-27", 2.0), ("2027-02-06", 0.5)],
)
def test_the_table_knows_the_days_of_the_trade(day, factor):
    assert effect(at(day)) == (factor, DOUBT)


def test_other_days_are_plain():
    assert effect(at("2026-03-20")) == effect(at("2025-11-21")) == PLAIN


def test_days_begin_by_the_clock_of_the_shop():
    before = at("2026-11-09T17:00:00")
    assert effect(before) == PLAIN
    assert effect(before, zone="Asia/Shanghai") == (3.0, DOUBT)


def test_events_run_over_the_end_of_a_year_and_the_last_one_counts():
    events = (Event("long", "12-30", 5, 1.5), Event("own", "2027-01-02", 1, 4.0))
    assert [effect(at(day), events=events)[0] for day in ("2027-01-01", "2027-01-02", "2027-01-04", "2028-01-02")] == [
        1.5,
        4.0,
        1.0,
        1.5,
    ]


@pytest.mark.parametrize("start", ["13-01", "tomorrow", "11/x-4", "2026-02-30"])
def test_a_start_that_cannot_be_read_is_named(start):
    with pytest.raises(ValueError, match="'sale' starts on"):
        effect(at("2026-03-20"), events=[Event("sale", start)])
