"""Temperatures and thresholds from the dev rows, so that a probability of 0.8 is right about eight times in ten.

One temperature per head (Guo et al., "On Calibration of Modern Neural Networks", 2017) minimises the dev loss; one
threshold per aspect and demand maximises its dev F1. Labels too rare on dev for a choice keep 0.5.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.labels import ASPECT_STATES, ASPECTS, DEMANDS, EVIDENCE_LABELS, POLARITIES
from training.metrics import DEFAULT_THRESHOLD, Answer, label_f1

RARE: Final = 8
_TEMPERATURES: Final = np.geomspace(0.4, 4.0, 47)
_THRESHOLDS: Final = np.arange(0.2, 0.81, 0.05)
_TINY: Final = 1e-7

Array = npt.NDArray[np.float64]


def temperatures(found: Sequence[Answer]) -> list[float]:
    """One temperature per head, in the order of training.model.HEADS, for answers made at temperature 1."""
    sentiment = [(answer.sentiment, POLARITIES.index(answer.row.sentiment)) for answer in found if answer.row.sentiment]
    aspects = [
        (answer.aspects[ASPECTS.index(name)], ASPECT_STATES.index(answer.row.aspects.get(name, "absent")))
        for answer in found
        for name in answer.row.known_aspects
    ]
    demands = [
        (answer.demands[DEMANDS.index(name), 0], float(name in answer.row.demands))
        for answer in found
        for name in answer.row.known_demands
    ]
    evidence = [
        (answer.evidence[:, column], answer.tokens[:, column])
        for answer in found
        for column in (EVIDENCE_LABELS.index(name) for name in answer.row.known_spans)
    ]
    return [
        _best(lambda t: _softmax_loss(*_columns(sentiment), t), len(sentiment)),
        _best(lambda t: _softmax_loss(*_columns(aspects), t), len(aspects)),
        _best(lambda t: _sigmoid_loss(*_columns(demands), t), len(demands)),
        _best(lambda t: _sigmoid_loss(*_flat(evidence), t), len(evidence)),
    ]


def thresholds(found: Sequence[Answer]) -> dict[str, float]:
    """The presence threshold of every aspect and demand."""
    chosen = {}
    for label in (*ASPECTS, *DEMANDS):
        chosen[label] = DEFAULT_THRESHOLD
        if sum(label in answer.row.aspects or label in answer.row.demands for answer in found) >= RARE:
            scores = np.array([label_f1(found, label, float(threshold)) for threshold in _THRESHOLDS])
            chosen[label] = round(float(_THRESHOLDS[scores >= scores.max() - 1e-9].mean()), 3)
    return chosen


def _best(loss: Callable[[float], float], cells: int) -> float:
    return float(min(_TEMPERATURES, key=loss)) if cells else 1.0


def _columns(pairs: Sequence[tuple[object, object]]) -> tuple[Array, Array]:
    return np.asarray([first for first, _ in pairs], float), np.asarray([second for _, second in pairs], float)


def _flat(pairs: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]) -> tuple[Array, Array]:
    return (
        np.concatenate([first for first, _ in pairs]).astype(float),
        np.concatenate([second for _, second in pairs]).astype(float),
    )


def _softmax_loss(probabilities: Array, truth: Array, temperature: float) -> float:
    scaled = np.log(probabilities + _TINY) / temperature
    scaled -= np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
    return float(-scaled[np.arange(len(truth)), truth.astype(int)].mean())


def _sigmoid_loss(probabilities: Array, truth: Array, temperature: float) -> float:
    logits = (np.log(probabilities + _TINY) - np.log(1 - probabilities + _TINY)) / temperature
    return float((np.logaddexp(0, logits) - truth * logits).mean())
