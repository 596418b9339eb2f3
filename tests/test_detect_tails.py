import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.detect.spike import tail
from stream.detect.tails import log_beta, log_gamma, log_lower, log_upper

MEANS = st.floats(0.001, 300)
SPREADS = st.floats(1.01, 30)


def one(function, *values):
    return float(function(*(np.array([value], float) for value in values))[0])


@given(st.integers(0, 60), MEANS, SPREADS)
def test_upper_tails_equal_those_of_the_scalar_function(count, mean, spread):
    log = one(log_upper, count, mean, mean * spread)
    assert math.exp(log) == pytest.approx(tail(count, mean, mean / (spread - 1)), rel=1e-6, abs=1e-12)


@given(st.integers(0, 60), MEANS, SPREADS)
def test_both_tails_together_hold_everything_once(count, mean, spread):
    below, above = one(log_lower, count, mean, mean * spread), one(log_upper, count + 1, mean, mean * spread)
    assert math.exp(below) + math.exp(above) == pytest.approx(1, abs=1e-8)


def test_tails_beyond_floating_point_keep_their_logarithm():
    assert one(log_upper, 300, 3, 3) == pytest.approx(-1088.30, abs=0.01)  # Poisson, summed with 400 digits
    assert one(log_lower, 0, 2000, 2000) == pytest.approx(-2000, rel=1e-3)


@given(st.floats(1e-4, 1e5))
def test_log_gamma(x):
    assert one(log_gamma, x) == pytest.approx(math.lgamma(x), rel=1e-10, abs=1e-10)


@given(st.floats(0.1, 500), st.floats(0.1, 500), st.floats(0.001, 0.999))
def test_beta_is_its_own_mirror(a, b, x):
    assert math.exp(one(log_beta, a, b, x)) + math.exp(one(log_beta, b, a, 1 - x)) == pytest.approx(1, abs=1e-7)
