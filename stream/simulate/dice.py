"""Chance, drawn in blocks: numpy's generator is reproducible but slow one number at a time."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import log
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")
BLOCK = 8192


class Dice:
    """A stream of random decisions; the same seed gives the same decisions."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._block: list[float] = []

    def random(self) -> float:
        """A number in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(BLOCK).tolist()
        return self._block.pop()

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]

    def weighted(self, weights: Weights[T]) -> T:
        return weights.options[bisect(weights.bounds, self.random() * weights.total)]

    def wait(self, mean_ms: float) -> int:
        """An exponential waiting time, at least one millisecond."""
        return 1 + int(-mean_ms * log(1.0 - self.random()))

    def poisson(self, mean: float) -> int:
        return int(self._rng.poisson(mean))


class Weights(Generic[T]):
    """Options with weights, prepared for :meth:`Dice.weighted`."""

    def __init__(self, weights: Mapping[T, float]) -> None:
        self.options = list(weights)
        *self.bounds, self.total = accumulate(weights.values())
