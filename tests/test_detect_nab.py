import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.nab import PROFILES, Series, as_counts, evaluate, gains, places, raw_score, read, told

ROWS = 2000
WINDOWS = [(500, 599), (1200, 1399)]


def series(values=None, windows=WINDOWS):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = [start + timedelta(minutes=5 * row) for row in range(ROWS)]
    return Series("x", times, np.zeros(ROWS) if values is None else values, windows)


def standard(scores, windows=WINDOWS):
    return evaluate([series(windows=windows)], [scores])["standard"]


def marks(*rows):
    scores = np.zeros(ROWS)
    scores[list(rows)] = 1.0
    return scores


def test_null_is_zero_and_perfect_is_a_hundred():
    perfect = marks(500, 1200)
    for scores, value in ((np.full(ROWS, 0.5), 0.0), (np.zeros(ROWS), 0.0), (perfect, 100.0)):
        figures = evaluate([series(), series()], [scores, scores])
        assert [figures[name] for name in PROFILES] == [value] * 3


def test_half_way_into_a_window_is_worth_what_the_paper_says():
    gain = 0.8483 / 0.9866  # scaled sigmoid at -0.5 over its value at -1
    assert standard(marks(550, 1300)) == pytest.approx(100 * (1 + gain) / 2, abs=0.05)


def test_one_missed_of_two_costs_half_and_more_to_those_who_fear_misses():
    figures = evaluate([series()], [marks(500)])
    assert figures["standard"] == figures["low_fp"] == 50
    assert figures["low_fn"] == 50


def test_a_false_alarm_costs_its_weight_in_full_far_from_a_window_and_less_behind_it():
    where = places(ROWS, WINDOWS)
    profile = PROFILES["standard"]
    far, behind, before = (gains(marks(row), where, profile) for row in (1100, 600, 400))
    assert raw_score(far, 1.0) == raw_score(before, 1.0) == -2 - 0.11
    assert -2 - 0.11 < raw_score(behind, 1.0) < -2
    assert raw_score(gains(marks(100), where, profile), 1.0) == -2  # probation


def test_later_detections_in_a_window_add_nothing():
    assert standard(marks(510, 520, 530, 1200)) == standard(marks(510, 1200))


@given(st.lists(st.tuples(st.integers(0, ROWS - 1), st.floats(0, 1)), max_size=30))
def test_the_best_threshold_is_no_worse_than_any_other(points):
    scores = np.zeros(ROWS)
    for row, score in points:
        scores[row] = score
    part = gains(scores, places(ROWS, WINDOWS), PROFILES["standard"])
    best = max((raw_score(part, threshold) for threshold in {*scores.tolist(), 2.0}), default=-2.0)
    assert standard(scores) == pytest.approx(100 * (best + 2) / 4, abs=0.01)


def test_one_incident_is_told_once_and_again_when_it_has_doubled():
    surprise = np.zeros(400)
    surprise[100:110] = [4, 5, 6, 5, 4, 4, 4, 4, 4, 4]
    surprise[150:155] = 13
    surprise[300] = 4.5
    assert {row: value for row, value in enumerate(told(surprise, 4.0)) if value} == {103: 6, 153: 13, 303: 4.5}
    assert not told(surprise, 14.0).any()


def test_measurements_become_counts_and_counts_stay():
    counts = np.random.default_rng(0).poisson(9, ROWS).astype(float)
    assert np.array_equal(as_counts(counts), counts)
    measured = as_counts(counts / 250 - 1)
    assert measured.min() == 0 and 0.3 < np.diff(measured).var() / 2 / measured.mean() < 3


def test_a_folder_is_read_by_path_or_name_and_wrong_labels_are_named(tmp_path):
    rows = "".join(f"2026-01-01 00:{minute:02}:00,{minute}\n" for minute in range(0, 60, 5))
    (tmp_path / "a.csv").write_text("timestamp,value\n" + rows)
    windows = tmp_path / "windows.json"
    windows.write_text(json.dumps({"folder/a.csv": [["2026-01-01 00:10:00.000000", "2026-01-01 00:20:00.000000"]]}))
    (found,) = read(tmp_path, windows)
    assert found.windows == [(2, 4)] and found.values[4] == 20
    windows.write_text(json.dumps({"a.csv": [["2025-01-01 00:10:00", "2025-01-01 00:20:00"]]}))
    with pytest.raises(ValueError, match="no row between"):
        read(tmp_path, windows)
    windows.write_text(json.dumps({"b.csv": []}))
    with pytest.raises(ValueError, match="no file named"):
        read(tmp_path, windows)
