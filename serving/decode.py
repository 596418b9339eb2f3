"""From the model's output tensors to what they say about each text.

Pure: tensors, offsets and texts in, :class:`TextScore` out. An answer is checked before it is believed, because a
broken server can answer with empty arrays and no error. Probabilities are rounded to three decimals first and
compared with thresholds after, so that the last bits of a float, which differ between machines, decide nothing.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.errors import BadModelAnswer
from serving.labels import ASPECT_STATES, ASPECTS, BLAME, DEMANDS, EVIDENCE_LABELS, POLARITIES
from serving.tokenizer import Offset

Span = tuple[int, int]
Floats = npt.NDArray[np.floating[Any]]

DECIMALS: Final = 3
#: Of the surest token's probability: what a token of evidence has at least, and the peak of each run of them; a lower
#: peak is an echo of another label's evidence. Chosen by span F1 on dev rows of four data sets.
EVIDENT: Final = 0.33
ECHO: Final = 0.95


class Outputs(NamedTuple):
    """The output tensors of serving/labels.py for B texts padded to T tokens; field names are tensor names."""

    sentiment: Floats
    aspects: Floats
    demands: Floats
    strangeness: Floats
    evidence: Floats

    def checked(self, texts: int, tokens: int) -> "Outputs":
        """The same, if it can be true; else :class:`BadModelAnswer`."""
        shapes = output_shapes(texts, tokens)
        for name, tensor in self._asdict().items():
            if tensor.shape != shapes[name]:
                hint = " (Triton's Python must have numpy 1.26)" if tensor.size == 0 else ""
                raise BadModelAnswer(f"'{name}' has shape {tensor.shape}, expected {shapes[name]}{hint}.")
            most = np.inf if name == "strangeness" else 1.01
            if not np.isfinite(tensor).all() or tensor.min() < -0.01 or tensor.max() > most:
                raise BadModelAnswer(f"'{name}' holds values that cannot be true: check the exported model.")
        for name in ("sentiment", "aspects"):
            if not np.allclose(getattr(self, name).sum(-1), 1, atol=0.01):
                raise BadModelAnswer(f"'{name}' does not sum to one: check the exported model.")
        return self


def output_shapes(texts: int, tokens: int) -> dict[str, tuple[int, ...]]:
    """Shape of each output tensor for ``texts`` texts of ``tokens`` tokens."""
    return {
        "sentiment": (texts, len(POLARITIES)),
        "aspects": (texts, len(ASPECTS), len(ASPECT_STATES)),
        "demands": (texts, len(DEMANDS), 2),
        "strangeness": (texts, 1),
        "evidence": (texts, tokens, len(EVIDENCE_LABELS)),
    }


class Aspect(NamedTuple):
    """An aspect the text speaks about, how it speaks of it, and where."""

    aspect: str
    sentiment: str
    prob: float
    evidence: list[Span]


class Demand(NamedTuple):
    """A demand the text voices, how strongly, and where."""

    demand: str
    strength: float
    prob: float
    evidence: list[Span]


@dataclass(frozen=True, slots=True)
class TextScore:
    """What the model says about one text; spans count code points of that text, end exclusive."""

    label: str
    score: float  # p(positive) - p(negative), in [-1, 1]
    aspects: tuple[Aspect, ...] = ()
    demands: tuple[Demand, ...] = ()
    strangeness: float = 0.0  # distance from shop language

    @property
    def foreign(self) -> bool:
        """Whether the text is farther from shop language than all but 2 % of shop texts: do not rely on the rest."""
        return self.strangeness > 1


#: The score of a text that says nothing.
NEUTRAL: Final = TextScore("neutral", 0.0)


def decode(
    outputs: Outputs, offsets: Sequence[Sequence[Offset]], texts: Sequence[str], thresholds: Mapping[str, float]
) -> list[TextScore]:
    """What checked ``outputs`` say about each of ``texts``, whose tokens stand at ``offsets``.

    A label is told from its threshold on; blame, which rings alerts, only if it is itself as likely as ``BLAME`` asks.
    """
    sentiment, aspects, demands = (
        np.round(tensor.astype(np.float64), DECIMALS)
        for tensor in (outputs.sentiment, outputs.aspects, outputs.demands)
    )
    strangeness = np.round(outputs.strangeness[:, 0].astype(np.float64), DECIMALS).tolist()
    label = sentiment.argmax(1).tolist()
    score = (np.round(sentiment[:, 2] - sentiment[:, 0], DECIMALS) + 0.0).tolist()  # no -0.0
    speaks_of = np.round(1 - aspects[:, :, 0], DECIMALS)
    polarity = aspects[:, :, 1:].argmax(2)

    present = np.concatenate([speaks_of, demands[:, :, 0]], axis=1) >= [thresholds[name] for name in EVIDENCE_LABELS]
    present[:, : len(ASPECTS)] &= (polarity > 0) | (aspects[:, :, 1] >= thresholds[BLAME])
    found: list[tuple[list[Aspect], list[Demand]]] = [([], []) for _ in texts]
    words: dict[int, list[Span | None]] = {}
    for row, column in np.argwhere(present).tolist():
        if row not in words:
            words[row] = [trimmed(texts[row], *offset) for offset in offsets[row]]
        evidence = spans(outputs.evidence[row, : len(offsets[row]), column], words[row])
        if column < len(ASPECTS):
            sense = POLARITIES[polarity[row, column]]
            found[row][0].append(Aspect(ASPECTS[column], sense, float(speaks_of[row, column]), evidence))
        else:
            prob, strength = demands[row, column - len(ASPECTS)].tolist()
            found[row][1].append(Demand(EVIDENCE_LABELS[column], strength, prob, evidence))
    return [
        TextScore(POLARITIES[label[row]], score[row], tuple(aspects), tuple(demands), strangeness[row])
        for row, (aspects, demands) in enumerate(found)
    ]


def spans(probabilities: Floats, words: Sequence[Span | None]) -> list[Span]:
    """Where the evidence of one label stands: the runs of tokens that are nearly as sure as the surest.

    ``words`` holds per token its place without white space and punctuation, None where nothing is left: a run ends
    there. As all is measured by the surest token, there is evidence wherever there is a word.
    """
    wordy = np.array([word is not None for word in words])
    if not wordy.any():
        return []
    least = 10**-DECIMALS  # of a word, so that the whole text is evidence where nothing stands out
    sure = np.where(wordy, np.maximum(np.round(probabilities.astype(np.float64), DECIMALS), least), 0)
    best = sure.max()
    chosen = np.flatnonzero(sure >= EVIDENT * best)
    runs = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
    places = [[words[token] or (0, 0) for token in (run[0], run[-1])] for run in runs if sure[run].max() >= ECHO * best]
    return [(first[0], last[1]) for first, last in places]


def trimmed(text: str, start: int, end: int) -> Span | None:
    """The span without white space and punctuation at its ends; None if nothing is left."""
    while start < end and _is_filler(text[start]):
        start += 1
    while start < end and _is_filler(text[end - 1]):
        end -= 1
    return (start, end) if start < end else None


def _is_filler(character: str) -> bool:
    return character.isspace() or unicodedata.category(character)[0] in "PZC"
