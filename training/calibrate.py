"""Weights, temperatures and thresholds from the dev rows, so that 0.8 is right about eight times in ten.

One temperature per head (Guo et al., "On Calibration of Modern Neural Networks", 2017) and one weight of the wide part
minimise the dev loss together. One threshold per aspect and demand is the best for the mean of its F1 over the data
sets that have it, where a set counts alike whatever its size, less the share of false alarms among all rows of the
sets that never do. Labels too rare on dev for a choice keep 0.5. Given these, the least probability of blame is the
best for the mean F1 of negative aspects: where texts are mostly kind, a threshold of presence alone lets too much
doubtful blame through.

How strange a text is: the Mahalanobis distance of its embedding from training texts (Lee et al., "A Simple Unified
Framework for Detecting Out-of-Distribution Samples", NeurIPS 2018, with one class), in units of the distance that is
exceeded by 2 % of each dev set on average. The foreign texts of training/probes have no part in it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.labels import ASPECT_STATES, ASPECTS, BLAME, DEMANDS, EVIDENCE_LABELS, POLARITIES
from training.metrics import DEFAULT_THRESHOLD, Answer, Floats, label_f1, negative_f1

RARE: Final = 8
_TEMPERATURES: Final = np.geomspace(0.5, 4.0, 25)
_WEIGHTS: Final = np.arange(0.0, 1.51, 0.1)
_THRESHOLDS: Final = np.arange(0.2, 0.81, 0.05)
_BLAME: Final = np.arange(0.0, 0.61, 0.05)
_TINY: Final = 1e-7
_STRANGE: Final = 0.02
_RIDGE: Final = 0.1  # of the mean variance, added to every direction: some hardly vary among so few texts

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """Known cells of one head: log-probabilities [N, K] (or log-odds [N]) and what is true, [N]."""

    logits: Array
    truth: Array

    def loss(self, temperature: float, weight: float = 0.0, beside: Array | None = None) -> float:
        """Mean log loss when the logits are divided by ``temperature`` and ``weight`` times ``beside`` is added."""
        scaled = self.logits / temperature + (0.0 if beside is None else weight * beside)
        if scaled.ndim == 1:
            return float((np.logaddexp(0, scaled) - self.truth * scaled).mean())
        scaled = scaled - np.logaddexp.reduce(scaled, axis=-1, keepdims=True)
        return float(-scaled[np.arange(len(self.truth)), self.truth.astype(int)].mean())


def cells(found: Sequence[Answer]) -> tuple[Cells, ...]:
    """What is known, head by head, in the order of training.model.HEADS."""
    sentiment = [(answer.sentiment, POLARITIES.index(answer.row.sentiment)) for answer in found if answer.row.sentiment]
    aspects = [
        (answer.aspects[ASPECTS.index(name)], ASPECT_STATES.index(answer.row.aspects.get(name, "absent")))
        for answer in found
        for name in sorted(answer.row.known_aspects)
    ]
    demands = [
        (answer.demands[DEMANDS.index(name), 0], float(name in answer.row.demands))
        for answer in found
        for name in sorted(answer.row.known_demands)
    ]
    evidence = [
        pair
        for answer in found
        for column in (EVIDENCE_LABELS.index(name) for name in sorted(answer.row.known_spans))
        for pair in zip(answer.evidence[:, column], answer.tokens[:, column], strict=False)
    ]
    return (_softmax_cells(sentiment), _softmax_cells(aspects), _sigmoid_cells(demands), _sigmoid_cells(evidence))


def weigh(deep: Sequence[Answer], wide: Sequence[Answer]) -> tuple[list[float], list[float]]:
    """A temperature for each head and a weight of the wide part for each but evidence, which it does not mark.

    ``deep`` and ``wide`` are the answers of the encoder at temperature 1 and of the wide part alone to the same rows.
    """
    *heads, evidence = zip(cells(deep), cells(wide), strict=True)
    best = [_best(own, other.logits) for own, other in heads]
    return [t for t, _ in best] + [_best(evidence[0])[0]], [w for _, w in best]


def thresholds(found: Sequence[Answer]) -> dict[str, float]:
    """The presence threshold of every aspect and demand, and the least probability of blame."""
    presence = {label: _threshold(found, label) for label in (*ASPECTS, *DEMANDS)}
    return presence | {BLAME: _blame(found, presence)}


def surroundings(familiar: Floats, dev: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Middle [H] and scale [H, H] for :func:`serving.export.add_strangeness`.

    ``familiar`` are embeddings [N, H] of training texts, ``dev`` those of each set of dev texts.
    """
    middle = familiar.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(familiar.T.astype(float)))
    scale = directions / np.sqrt(variances + _RIDGE * variances.mean())
    distances = [strangeness(states, middle, scale) for states in dev]
    shares = np.concatenate([np.full(len(group), 1 / (len(group) * len(distances))) for group in distances])
    every = np.concatenate(distances)
    farthest_first = np.argsort(-every, kind="stable")
    unit = every[farthest_first[np.searchsorted(np.cumsum(shares[farthest_first]), _STRANGE)]]
    return middle, (scale / unit).astype(np.float32)


def strangeness(states: Floats, middle: Floats, scale: Array | Floats) -> Array:
    """[N]: what the exported model says of embeddings [N, H]."""
    found: Array = np.linalg.norm((states - middle) @ scale, axis=1)
    return found


def _threshold(found: Sequence[Answer], label: str) -> float:
    groups = _by_set(answer for answer in found if label in answer.row.known_aspects | answer.row.known_demands)
    having = [group for group in groups.values() if sum(map(_has(label), group)) >= RARE]
    others = [answer for group in groups.values() if not any(map(_has(label), group)) for answer in group]
    if not having:
        return DEFAULT_THRESHOLD
    alarms = np.array([answer.presence(label) for answer in others])

    def gain(threshold: float) -> float:
        right = float(np.mean([label_f1(group, label, {label: threshold}) for group in having]))
        return right - float((alarms >= threshold).mean()) if len(alarms) else right

    return _best_of(_THRESHOLDS, gain)


def _blame(found: Sequence[Answer], presence: Mapping[str, float]) -> float:
    """The best for the mean, over the data sets that have blame, of its F1."""
    groups = _by_set(found).values()
    having = [group for group in groups if sum("negative" in each.row.aspects.values() for each in group) >= RARE]
    if not having:
        return 0.0

    def gain(least: float) -> float:
        return float(np.mean([negative_f1(group, {**presence, BLAME: least}) for group in having]))

    return _best_of(_BLAME, gain)


def _by_set(found: Iterable[Answer]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = {}
    for answer in found:
        groups.setdefault(answer.row.source.split("/")[0] + answer.row.lang, []).append(answer)
    return groups


def _best_of(choices: Array, gain: Callable[[float], float]) -> float:
    """The middle of the choices that gain most."""
    scores = np.array([gain(float(choice)) for choice in choices])
    return round(float(choices[scores >= scores.max() - 1e-9].mean()), 3)


def _has(label: str) -> Callable[[Answer], bool]:
    return lambda answer: label in answer.row.aspects or label in answer.row.demands


def _best(known: Cells, beside: Array | None = None) -> tuple[float, float]:
    if not len(known.truth):
        return 1.0, 0.0
    weights = (0.0,) if beside is None else _WEIGHTS
    pairs = [(float(t), float(w)) for t in _TEMPERATURES for w in weights]
    return min(pairs, key=lambda pair: known.loss(pair[0], pair[1], beside))


def _softmax_cells(pairs: Sequence[tuple[object, object]]) -> Cells:
    probabilities, truth = _columns(pairs)
    return Cells(np.log(probabilities + _TINY), truth)


def _sigmoid_cells(pairs: Sequence[tuple[object, object]]) -> Cells:
    probabilities, truth = _columns(pairs)
    return Cells(np.log(probabilities + _TINY) - np.log(1 - probabilities + _TINY), truth)


def _columns(pairs: Sequence[tuple[object, object]]) -> tuple[Array, Array]:
    return np.asarray([first for first, _ in pairs], float), np.asarray([second for _, second in pairs], float)
