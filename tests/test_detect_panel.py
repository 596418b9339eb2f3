import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.detect.budget import threshold
from stream.detect.evidence import KINDS
from stream.detect.forecast import DAY, Settings, generations, mean_age
from stream.detect.panel import Panel

HOUR = 3_600_000
QUICK = Settings(pane_ms=HOUR, windows=(1, 2, 4, 8), ring=4, run_panes=48)
SMALL = 8


def panel(series=SMALL, parents=None, shares=None, setting=QUICK):
    made = Panel(setting)
    made.place(
        np.full(series, -1) if parents is None else np.array(parents),
        np.zeros(series, bool) if shares is None else np.array(shares),
    )
    return made


def run(made, counts, first=0, **masks):
    """The surprises of the steps, by kind (panes x series)."""
    steps = [made.step(first + pane, np.asarray(row, float), **masks) for pane, row in enumerate(counts)]
    return {kind: np.array([step.surprise[kind] for step in steps]) for kind in KINDS}


def poisson(rate, panes, series=SMALL, seed=0):
    return np.random.default_rng(seed).poisson(rate, (panes, series)).astype(float)


def test_state_of_a_key_is_below_two_kilobytes():
    assert Panel().state.bytes_a_series <= 2048


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=4, max_size=40), st.data())
def test_saving_and_restoring_between_any_two_panes_changes_nothing(counts, data):
    cut = data.draw(st.integers(0, len(counts)))
    parents, shares = [-1, 0, 0], [False, False, True]
    whole = panel(3, parents, shares)
    run(whole, counts)
    first = panel(3, parents, shares)
    run(first, counts[:cut])
    second = panel(3, parents, shares)
    second.state.restore(first.state.save())
    rest = run(second, counts[cut:], cut)
    again = run(first, counts[cut:], cut)
    assert second.state.save().tobytes() == whole.state.save().tobytes()
    assert all(np.array_equal(rest[kind], again[kind]) for kind in KINDS)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0, 0, 1, 3, 50, 100_000]), min_size=3, max_size=3), min_size=2, max_size=60),
    st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_no_count_makes_a_surprise_that_is_no_number(counts, shares):
    made = panel(3, [-1, 0, 0], [False, *shares[1:]])
    found = run(made, counts, exposure=np.array([1.0, 40.0, 3.0]))
    for rows in found.values():
        assert np.all(np.isfinite(rows)) and np.all(rows >= 0)


def test_a_state_of_other_settings_is_refused():
    with pytest.raises(ValueError, match="of other settings"):
        panel().state.restore(np.zeros((80, 1)))


def test_a_burst_is_found_at_once_and_told_in_figures():
    made = panel()
    counts = poisson(3.0, 24 * 14)
    found = run(made, counts)
    assert found["burst"].max() < 6
    step = made.step(24 * 14, np.array([40.0] + [3.0] * (SMALL - 1)))
    assert step.surprise["burst"][0] > threshold(HOUR, key_days=30) > step.surprise["burst"][1]
    score = made.score(step, 0, "burst")
    assert score.observed >= 40 and score.expected < score.hi < score.observed
    assert 0 < score.since <= 24 * 14 * HOUR


def test_silence_of_a_busy_series_is_found_and_a_quiet_one_may_be_silent():
    made = panel(2)
    counts = np.stack([poisson(6.0, 24 * 14, 1)[:, 0], poisson(0.02, 24 * 14, 1)[:, 0]], axis=1)
    run(made, counts)
    found = run(made, np.zeros((12, 2)), 24 * 14)
    limit = threshold(HOUR, key_days=30)
    assert found["silence"][-1, 0] > limit > found["silence"][-1, 1]


def test_a_ramp_that_no_window_finds_surprising_is_found():
    made = panel()
    calm, days = 28, 12
    mean = np.concatenate([np.full(calm * 24, 4.0), 4.0 * 1.05 ** (np.arange(days * 24) / 24)])
    found = run(made, np.random.default_rng(1).poisson(mean[:, None], (len(mean), SMALL)))
    limit = threshold(HOUR, key_days=30)
    assert np.all(found["ramp"][: calm * 24] < limit)
    assert np.mean(found["ramp"][-2 * 24 :].max(axis=0) >= limit) > 0.7


def test_a_share_rises_against_its_denominator_and_not_with_it():
    made = panel(2, shares=[True, True])
    rng = np.random.default_rng(2)
    texts = np.full(2, 40.0)
    for pane in range(24 * 10):
        made.step(pane, rng.binomial(40, 0.1, 2).astype(float), texts)
    promoted = made.step(240, np.array([20.0, 4.0]), np.array([200.0, 40.0]))
    assert promoted.surprise["burst"][0] < 3
    shifted = made.step(241, np.array([20.0, 4.0]), texts)
    assert shifted.surprise["burst"][0] > threshold(HOUR, key_days=30) > shifted.surprise["burst"][1]


def test_a_frozen_series_learns_nothing_and_finds_an_identical_second_incident():
    limit = threshold(HOUR, key_days=30)
    surprises = []
    made, frozen = panel(1), np.array([False])
    counts = poisson(5.0, 24 * 21, 1)
    for day in (10, 17):
        counts[day * 24 : day * 24 + 6] = 40
    for pane, row in enumerate(counts):
        step = made.step(pane, row, frozen=frozen)
        frozen = step.surprise["burst"] >= limit
        surprises.append(float(step.surprise["burst"][0]))
    first, second = (max(surprises[day * 24 : day * 24 + 6]) for day in (10, 17))
    assert first > limit and second > limit
    before = made.state["count"].copy()
    for pane in range(24 * 21, 24 * 21 + 8):
        made.step(pane, np.array([500.0]), frozen=np.array([True]))
    assert made.state["count"][0] == pytest.approx(before[0], rel=0.05)


def test_in_shadow_a_new_level_is_learnt_in_a_day_and_nothing_is_told():
    made = panel()
    run(made, poisson(3.0, 24 * 14))
    shadow = np.ones(SMALL, bool)
    quiet = run(made, poisson(9.0, 36, seed=5), 24 * 14, shadow=shadow)
    assert all(np.all(rows == 0) for rows in quiet.values())
    after = run(made, poisson(9.0, 24, seed=6), 24 * 14 + 36)
    assert after["burst"].max() < threshold(HOUR, key_days=30)


def test_the_hours_of_a_day_are_learnt():
    made = panel(4)
    hours = np.where(np.arange(24) < 8, 0.5, 8.0)
    mean = np.tile(hours, 21)
    run(made, np.random.default_rng(3).poisson(mean[:, None], (len(mean), 4)))
    step = made.step(21 * 24, np.full(4, 0.0))
    assert np.all(step.windows[0].expected < 2)
    for hour in range(1, 15):
        step = made.step(21 * 24 + hour, np.full(4, hours[hour]))
    assert np.all(np.abs(step.windows[0].expected - 8) < 2.5)


def test_a_known_day_explains_its_counts_and_is_not_learnt():
    made, plain = panel(), panel()
    counts = poisson(4.0, 24 * 14)
    run(made, counts)
    run(plain, counts)
    sale = poisson(12.0, 24, seed=9)
    known = run(made, sale, 24 * 14, calendar=(3.0, 0.25))
    unknown = run(plain, sale, 24 * 14)
    assert known["burst"].max() < threshold(HOUR, key_days=30) < unknown["burst"].max()
    run(made, poisson(4.0, 8, seed=10), 24 * 15)
    assert np.all(np.abs(made.step(24 * 15 + 8, np.full(SMALL, 4.0)).windows[0].expected - 4) < 1.5)


def test_a_cold_child_takes_its_siblings_rate():
    made = panel(3, [-1, 0, 0])
    counts = poisson(3.0, 24 * 10, 3)
    counts[:, 0] = counts[:, 1]
    counts[:, 2] = 0
    made.step(0, counts[0])
    run(made, counts[1:], 1)
    made.clear(2)
    step = made.step(24 * 10, np.array([3.0, 3.0, 2.0]))
    assert 0.5 < step.windows[0].expected[2] < 3
    assert step.surprise["burst"][2] == 0


def test_what_white_noise_gives_stays_within_the_budget():
    made = panel(200)
    found = run(made, poisson(5.0, 24 * 42, 200, seed=11))["burst"][24 * 14 :]
    above = found >= threshold(HOUR, key_days=7)
    opened = above[1:] & ~np.array([above[max(0, pane - 4) : pane + 1].any(axis=0) for pane in range(len(above) - 1)])
    assert opened.sum() <= 1.2 * 200 * 4


def test_habits_of_siblings_teach_what_a_burst_is_worth():
    counts = poisson(2.0, 24 * 28, 9)
    counts[-1, 1] = 14
    surprises = []
    for more_runs in (0, 300):
        made = panel(9, [-1, *[0] * 8])
        run(made, counts[:-1])
        made.state["burst_runs"][2:] += more_runs
        surprises.append(run(made, counts[-1:], len(counts) - 1)["burst"][0])
    calm, restless = surprises
    assert 0 < restless[1] < calm[1]


@pytest.mark.parametrize("parents", [[1, 0], [0], [-1, 2, 1]])
def test_a_ring_of_parents_is_refused(parents):
    with pytest.raises(ValueError, match="own ancestor"):
        generations(np.array(parents))


def test_generations_go_from_the_shop_to_its_products():
    assert [list(rows) for rows in generations(np.array([-1, 0, 1, 0, -1]))] == [[0, 4], [1, 3], [2]]


@given(st.integers(1, 5000), st.floats(0.9, 0.9999))
def test_mean_age_of_what_is_remembered(panes, decay):
    weights = decay ** np.arange(panes)
    assert mean_age(np.array([float(panes)]), decay)[0] == pytest.approx(
        float((weights * np.arange(panes)).sum() / weights.sum()), rel=1e-6, abs=1e-6
    )


@given(st.floats(0.5, 400), st.integers(1, 10**6), st.floats(0.1, 100))
def test_the_stricter_budget_counts(days, series, a_day):
    key, shop = threshold(300_000, key_days=days), threshold(300_000, shop_per_day=a_day, series=series)
    assert threshold(300_000, days, a_day, series) == max(key, shop)
    assert 10**key == pytest.approx(max(1, days * DAY / 300_000))


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        threshold(300_000, shop_per_day=0)
