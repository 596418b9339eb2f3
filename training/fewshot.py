"""New labels from a few examples: a head on what the trained encoder already reads, fitted in a second.

The encoder stays as it is. Its mean state says what a text is about, character n-grams say how it is put; a logistic
regression over both needs some 8 to 32 examples per label. In the HINT3 trials this beat each part alone, and weighing
labels alike, however many examples they have, made 0.895 of 0.884 (held-back training queries of three shops). A text
whose likeliest label is not likely enough belongs to none of them: :attr:`Head.floor` is chosen by cross-validation on
the examples alone, so that ``keep`` of them are still accepted.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

Floats = npt.NDArray[np.float32]
Texts = Sequence[str]
Embed = Callable[[Texts], Floats]  #: texts -> [N, H]

LEAST: Final = 2  #: examples of a label, without which nothing can be held back to choose the floor
KEEP: Final = 0.85


class Head:
    """Labels learnt from ``texts``, one each; raises ValueError where a label has too few."""

    def __init__(self, embed: Embed, texts: Texts, labels: Sequence[str], keep: float = KEEP) -> None:
        names, counts = np.unique(labels, return_counts=True)
        if len(names) < 2 or counts.min() < LEAST:
            raise ValueError(f"A head needs two labels or more with {LEAST} examples each: add examples.")
        self._embed = embed
        self._grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit(texts)
        states = embed(texts)
        self._middle = states.mean(axis=0)
        features = self._features(texts, states)
        self._model = LogisticRegression(C=20.0, class_weight="balanced", max_iter=1000)
        folds = StratifiedKFold(int(min(5, counts.min())), shuffle=True, random_state=0)
        held_back = cross_val_predict(self._model, features, list(labels), cv=folds, method="predict_proba")
        self.floor = float(np.quantile(held_back.max(axis=1), 1 - keep))
        self._model.fit(features, list(labels))

    @property
    def names(self) -> list[str]:
        """The labels, in the order of :meth:`probabilities`."""
        return [str(name) for name in self._model.classes_]

    def probabilities(self, texts: Texts) -> npt.NDArray[np.float64]:
        """[texts, labels]"""
        found: npt.NDArray[np.float64] = self._model.predict_proba(self._features(texts, self._embed(texts)))
        return found

    def __call__(self, texts: Texts) -> list[str | None]:
        """The label of each text; None where none is likely enough."""
        found = self.probabilities(texts)
        return [self.names[row.argmax()] if row.max() >= self.floor else None for row in found]

    def _features(self, texts: Texts, states: Floats) -> Any:
        centred = states - self._middle
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        return hstack([csr_matrix(centred / np.maximum(lengths, 1e-9)), self._grams.transform(texts)]).tocsr()


def novel(states: Floats, seen: Floats, count: int) -> list[int]:
    """Places of the ``count`` states farthest (by cosine) from the nearest of ``seen``, the farthest first."""
    return [int(i) for i in np.argsort(-strangeness(states, seen), kind="stable")[:count]]


def strangeness(states: Floats, seen: Floats) -> Floats:
    """[N]: 1 minus the cosine to the nearest of ``seen``, both taken from the middle of ``seen``."""
    middle = seen.mean(axis=0)
    ours, theirs = (_unit(part - middle) for part in (states, seen))
    found: Floats = 1 - (ours @ theirs.T).max(axis=1)
    return found


def _unit(vectors: Floats) -> Floats:
    found: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return found
