import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.detect.spike import band, open_threshold, quantile, severity, tail

MEANS = st.floats(0.001, 300)
SHAPES = st.floats(0.1, 1e6)


def exact_tail(k, mean, shape):
    def mass(j):
        q = mean / (mean + shape)
        return math.exp(
            math.lgamma(shape + j) - math.lgamma(shape) - math.lgamma(j + 1) + shape * math.log1p(-q) + j * math.log(q)
        )

    return 1 - math.fsum(mass(j) for j in range(k))


@given(st.integers(0, 60), MEANS, st.floats(0.1, 1e4))
def test_tail_equals_the_sum(k, mean, shape):
    assert tail(k, mean, shape) == pytest.approx(exact_tail(k, mean, shape), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("k", "mean", "expected"),
    [(12, 1.0, 8.3161e-10), (3, 0.3, 3.5995e-3), (60, 5.0, 4.3178e-42)],
)
def test_far_tails_keep_their_digits_with_a_known_rate(k, mean, expected):
    poisson = math.fsum(math.exp(-mean + j * math.log(mean) - math.lgamma(j + 1)) for j in range(k, k + 80))
    assert poisson == pytest.approx(expected, rel=1e-3)
    assert tail(k, mean, 1e6) == pytest.approx(poisson, rel=0.01)


@given(MEANS, SHAPES)
def test_tail_falls_with_the_count_and_reads_fractions(mean, shape):
    values = [tail(x / 2, mean, shape) for x in range(40)]
    assert values[0] == 1.0
    assert all(a >= b - 1e-12 for a, b in pairwise(values))


@given(st.floats(0.001, 0.999), MEANS, SHAPES)
def test_quantile_is_the_least_count_that_reaches_p(p, mean, shape):
    k = quantile(p, mean, shape)
    assert 1 - tail(k + 1, mean, shape) >= p - 1e-9
    assert k == 0 or 1 - tail(k, mean, shape) < p + 1e-9


def test_band_holds_the_mean_and_widens_with_doubt():
    sure, unsure = band(10, 1e6), band(10, 2)
    assert sure == (3, 18)
    assert unsure[0] < sure[0] and unsure[1] > sure[1]


@pytest.mark.parametrize(
    ("observed", "expected", "probability", "level"),
    [(5, 0.3, 1e-5, 4), (12, 1, 1e-9, 6), (60, 5, 1e-30, 10), (3, 0.3, 1e-3, 2), (1, 5, 1.0, 1), (900, 5, 0.0, 10)],
)
def test_severity(observed, expected, probability, level):
    assert severity(observed, expected, probability) == level


def test_the_shop_budget_takes_over_when_many_keys_are_alive():
    few, many = (open_threshold(30, 0.5, keys, 300_000, 12) for keys in (1, 1_500))
    assert few == pytest.approx(1 / 30 / 96)
    assert many == pytest.approx(0.5 / 1_500 / 96)
