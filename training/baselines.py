"""Baselines on the same rows: the commonest answer, TF-IDF of character n-grams with logistic regression, SnowNLP.

They answer in the same shape as the model, so that the same scores, thresholds and intervals apply; they mark no
evidence.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from snownlp import SnowNLP

from serving.labels import ASPECT_STATES, ASPECTS, DEMANDS, EVIDENCE_LABELS, POLARITIES
from training.data import Row
from training.metrics import Answer, Floats

_NO_TOKENS: Floats = np.zeros((0, len(EVIDENCE_LABELS)), np.float32)


class Majority:
    """Says of every text what is commonest in training."""

    def __init__(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        self._sentiment = _shares((row.sentiment for row in rows if row.sentiment), POLARITIES)
        self._aspects = np.stack([
            _shares((row.aspects.get(name, "absent") for row in rows if name in row.known_aspects), ASPECT_STATES)
            for name in ASPECTS
        ])  # fmt: skip
        present = [[name in row.demands for row in rows if name in row.known_demands] for name in DEMANDS]
        self._demands = np.array([[np.mean(known), 0.5] for known in present], np.float32)

    def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """The same answer for every row."""
        return [Answer(row, self._sentiment, self._aspects, self._demands, _NO_TOKENS, _NO_TOKENS) for row in rows]


class TfIdf:
    """One logistic regression per task and label over character 1- to 3-grams, which need no word segmentation."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), max_features=40_000, sublinear_tf=True)
        inputs = self._vectors.fit_transform([row.text for row in rows])
        self._sentiment = _fit(inputs, [row.sentiment for row in rows])
        self._aspects = [
            _fit(inputs, [row.aspects.get(name, "absent") if name in row.known_aspects else None for row in rows])
            for name in ASPECTS
        ]
        self._demands = [
            _fit(inputs, [str(name in row.demands) if name in row.known_demands else None for row in rows])
            for name in DEMANDS
        ]

    def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """One answer per row, in order."""
        inputs = self._vectors.transform([row.text for row in rows])
        sentiment = _probabilities(self._sentiment, inputs, POLARITIES)
        aspects = np.stack([_probabilities(model, inputs, ASPECT_STATES) for model in self._aspects], axis=1)
        present = np.stack([_probabilities(model, inputs, ("False", "True"))[:, 1] for model in self._demands], axis=1)
        demands = np.stack([present, np.full_like(present, 0.5)], axis=-1)
        return [Answer(row, sentiment[i], aspects[i], demands[i], _NO_TOKENS, _NO_TOKENS) for i, row in enumerate(rows)]


class SnowSentiment:
    """SnowNLP's naive Bayes for Chinese, trained on shop reviews; of aspects and demands it knows nothing."""

    def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """One answer per row, in order; English rows count as undecided."""
        nothing = np.tile(np.array([1, 0, 0, 0], np.float32), (len(ASPECTS), 1))
        none = np.zeros((len(DEMANDS), 2), np.float32)
        found = []
        for row in rows:
            positive = SnowNLP(row.text).sentiments if row.lang == "zh" and row.sentiment else 0.5
            sentiment = np.array([1 - positive, 0, positive], np.float32)
            found.append(Answer(row, sentiment, nothing, none, _NO_TOKENS, _NO_TOKENS))
        return found


def _shares(values: Iterable[str], names: Sequence[str]) -> Floats:
    counts = Counter(values)
    return np.array([counts[name] / max(1, counts.total()) for name in names], np.float32)


def _fit(inputs: Any, truth: Sequence[str | None]) -> Any:
    known = [i for i, value in enumerate(truth) if value is not None]
    return OneVsRestClassifier(LogisticRegression(C=10.0, solver="liblinear")).fit(
        inputs[known], [truth[i] for i in known]
    )


def _probabilities(model: Any, inputs: Any, names: Sequence[str]) -> Floats:
    found = np.zeros((inputs.shape[0], len(names)), np.float32)
    found[:, [names.index(name) for name in model.classes_]] = model.predict_proba(inputs)
    return found
