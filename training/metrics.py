"""Scores of predictions against rows, counted only over cells that the rows know."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from tokenizers import Tokenizer

from serving import decode
from serving.labels import ASPECTS, BLAME, DEMANDS, EVIDENCE_LABELS, POLARITIES
from training.batches import encode, padded, token_labels
from training.data import Row, Span
from training.model import HEADS, Calibrated, RadarModel

Floats = npt.NDArray[np.float32]
#: (input_ids, attention_mask), both int64 [B, T] -> sentiment, aspects, demands, evidence as in serving/labels.py.
Predict = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Sequence[Floats]]

Thresholds = Mapping[str, float]
Counts = npt.NDArray[np.float64]

DEFAULT_THRESHOLD: Final = 0.5
OVERLAP: Final = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says about one row."""

    row: Row
    sentiment: Floats  #: [3]
    aspects: Floats  #: [13, 4]
    demands: Floats  #: [10, 2]
    evidence: Floats  #: [T, 23]
    tokens: Floats  #: [T, 23], 1 where a token is evidence by the row's spans
    offsets: tuple[Span, ...] = ()  #: place of each token in the text

    def presence(self, label: str) -> float:
        """Probability that an aspect (any polarity) or a demand is in the text."""
        if label in DEMANDS:
            return float(self.demands[DEMANDS.index(label), 0])
        return 1.0 - float(self.aspects[ASPECTS.index(label), 0])

    def polarity(self, aspect: str) -> str:
        """The likeliest polarity of an aspect, should it be present."""
        return POLARITIES[int(self.aspects[ASPECTS.index(aspect), 1:].argmax())]

    def tells(self, label: str, thresholds: Thresholds) -> bool:
        """Whether the radar tells the label, as :func:`serving.decode.decode` decides."""
        if self.presence(label) < thresholds.get(label, DEFAULT_THRESHOLD):
            return False
        blamed = label in ASPECTS and self.polarity(label) == "negative"
        return not blamed or float(self.aspects[ASPECTS.index(label), 1]) >= thresholds.get(BLAME, 0.0)


def torch_predict(model: RadarModel) -> Predict:
    """The model in training as a predictor."""

    def predict(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Sequence[Floats]:
        with torch.inference_mode():
            tensors = Calibrated(model)(torch.from_numpy(ids), torch.from_numpy(mask))
        return [tensor.float().numpy() for tensor in tensors[: len(HEADS)]]

    return predict


def wide_predict(model: RadarModel) -> Predict:
    """The wide part alone as a predictor; it knows neither strength (0.5) nor evidence (0)."""

    def predict(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Sequence[Floats]:
        with torch.inference_mode():
            sentiment, aspects, present = model.wide(torch.from_numpy(ids))
        demands = torch.stack([present.sigmoid(), torch.full_like(present, 0.5)], dim=-1)
        evidence = np.zeros((*ids.shape, len(EVIDENCE_LABELS)), np.float32)
        return [sentiment.softmax(-1).numpy(), aspects.softmax(-1).numpy(), demands.numpy(), evidence]

    return predict


def onnx_predict(path: Path) -> Predict:
    """An exported model as a predictor."""
    if not path.is_file():
        raise SystemExit(f"No model at {path}: train one with python -m training.train, or try --smoke.")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    def predict(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Sequence[Floats]:
        found: Sequence[Floats] = session.run(HEADS, {"input_ids": ids, "attention_mask": mask})
        return found

    return predict


def onnx_embed(path: Path, tokenizer: Tokenizer, output: str = "embedding") -> Callable[[Sequence[str]], Floats]:
    """The mean state of texts, [N, H], or another output of an exported model; each text is read alone, as served."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    if output not in [each.name for each in session.get_outputs()]:
        raise SystemExit(f"{path} gives no {output}: export it again with python -m training.train.")

    def embed(texts: Sequence[str]) -> Floats:
        ids = [np.array([encoding.ids], np.int64) for encoding in tokenizer.encode_batch(list(texts))]
        states = [session.run([output], {"input_ids": one, "attention_mask": np.ones_like(one)})[0] for one in ids]
        return np.concatenate(states)

    return embed


def answers(rows: Sequence[Row], tokenizer: Tokenizer, predict: Predict, size: int = 32) -> list[Answer]:
    """Run the model over rows, in batches of like lengths; the order of the rows is kept."""
    encoded = encode(rows, tokenizer)
    order = sorted(range(len(rows)), key=lambda i: len(encoded[i].ids))
    found: dict[int, Answer] = {}
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        ids, mask = padded([encoded[i].ids for i in chosen])
        sentiment, aspects, demands, evidence = predict(ids.numpy(), mask.numpy())
        for place, i in enumerate(chosen):
            used = len(encoded[i].ids)
            found[i] = Answer(
                rows[i], sentiment[place], aspects[place], demands[place], evidence[place, :used],
                token_labels(encoded[i]).numpy(), tuple(encoded[i].offsets),
            )  # fmt: skip
    return [found[i] for i in range(len(rows))]


def served(path: Path, tokenizer: Tokenizer) -> Callable[[Sequence[Row]], list[Answer]]:
    """What an exported model answers in service, where each text is read alone.

    It matters, as int8 rounds a text by the largest values of its batch.
    """
    predict = onnx_predict(path)
    return lambda rows: answers(rows, tokenizer, predict, 1)


# --- scores ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A figure in two steps, so that its bootstrap need not read the answers again: what each row adds to some counts
    ([N, ...]), and what their sum says."""

    counts: Callable[[Sequence[Answer], Thresholds], Counts]
    total: Callable[[Counts], float]

    def __call__(self, found: Sequence[Answer], thresholds: Thresholds) -> float:
        return self.total(self.counts(found, thresholds).sum(axis=0)) if found else float("nan")

    def interval(
        self, found: Sequence[Answer], thresholds: Thresholds, rounds: int = 200, seed: int = 0
    ) -> tuple[float, float]:
        """95 % bootstrap confidence interval over rows."""
        counts = self.counts(found, thresholds)
        draws = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), rounds)
        scores = [self.total(sums) for sums in np.tensordot(draws, counts, axes=1)]
        return float(np.nanpercentile(scores, 2.5)), float(np.nanpercentile(scores, 97.5))


def f1(right: float, predicted: float, true: float) -> float:
    """F1 from counts; 0 where nothing is right."""
    return float(2 * right / (predicted + true)) if right else 0.0


def micro(sums: Counts) -> float:
    """F1 of (right, predicted, true), [..., 3], added up."""
    return f1(*sums.reshape(-1, 3).sum(axis=0))


def macro(sums: Counts) -> float:
    """Mean F1 of the labels that occur; (right, predicted, true) each, [L, 3]."""
    scores = [f1(*one) for one in sums if one[2]]
    return float(np.mean(scores)) if scores else float("nan")


def share(sums: Counts) -> float:
    """Right of all, [2]."""
    return float(sums[0] / sums[1]) if sums[1] else float("nan")


def _sentiments(found: Sequence[Answer], _: Thresholds) -> Counts:
    """Right and known sentiment. Where a set knows no neutral, neutral is not an option."""
    known = {answer.row.sentiment for answer in found}
    options = [i for i, name in enumerate(POLARITIES) if name in known]
    counts = np.zeros((len(found), 2))
    for row, answer in zip(counts, found, strict=True):
        if answer.row.sentiment:
            said = POLARITIES[max(options, key=lambda i: answer.sentiment[i])]
            row[:] = said == answer.row.sentiment, True
    return counts


def _pairs(found: Sequence[Answer], thresholds: Thresholds) -> Counts:
    """Pairs of aspect and polarity: right, predicted, true."""
    counts = np.zeros((len(found), 3))
    for row, answer in zip(counts, found, strict=True):
        told = [aspect for aspect in answer.row.known_aspects if answer.tells(aspect, thresholds)]
        right = sum(answer.row.aspects.get(aspect) == answer.polarity(aspect) for aspect in told)
        row[:] = right, len(told), len(answer.row.aspects)
    return counts


def _blamed(found: Sequence[Answer], thresholds: Thresholds) -> Counts:
    """Aspects that are spoken of badly: right, predicted, true."""
    counts = np.zeros((len(found), 3))
    for row, answer in zip(counts, found, strict=True):
        for aspect in answer.row.known_aspects:
            said = answer.tells(aspect, thresholds) and answer.polarity(aspect) == "negative"
            true = answer.row.aspects.get(aspect) == "negative"
            row += said and true, said, true
    return counts


def presence_counts(found: Sequence[Answer], labels: Sequence[str], thresholds: Thresholds) -> Counts:
    """[N, L, 3]: for each known label of each row whether it is rightly told, told, and true, whatever its polarity."""
    counts = np.zeros((len(found), len(labels), 3))
    for row, answer in zip(counts, found, strict=True):
        for cell, label in zip(row, labels, strict=True):
            if label in answer.row.known_aspects or label in answer.row.known_demands:
                said, true = answer.tells(label, thresholds), label in answer.row.aspects or label in answer.row.demands
                cell[:] = said and true, said, true
    return counts


def _all_demands(found: Sequence[Answer], thresholds: Thresholds) -> Counts:
    """Rows whose known demands are all answered rightly, presence and absence; and rows with any known."""
    counts = np.zeros((len(found), 2))
    for row, answer in zip(counts, found, strict=True):
        if known := answer.row.known_demands:
            row[:] = all(answer.tells(name, thresholds) == (name in answer.row.demands) for name in known), True
    return counts


def _spans(found: Sequence[Answer], thresholds: Thresholds | None) -> Counts:
    """Evidence spans of aspects, as the radar shows them: right, shown, true. A span is right if it shares half of the
    union of both with a true span of its label. ``thresholds`` None: of the true labels, as if these were known.

    True spans with nothing but blanks between them count as one.
    """
    counts = np.zeros((len(found), 3))
    for row, answer in zip(counts, found, strict=True):
        words = [decode.trimmed(answer.row.text, *offset) for offset in answer.offsets]
        for label in answer.row.known_spans & answer.row.known_aspects:
            true = _merged(answer.row.text, answer.row.spans.get(label, ()))
            shown = bool(true) if thresholds is None else answer.tells(label, thresholds)
            said = decode.spans(answer.evidence[:, EVIDENCE_LABELS.index(label)], words) if shown else []
            right = sum(any(_shared(one, other) >= OVERLAP for other in true) for one in said)
            row += min(right, len(true)), len(said), len(true)
    return counts


def presence(labels: Sequence[str], total: Callable[[Counts], float]) -> Score:
    """The F1, micro or macro, of the presence of ``labels``."""
    return Score(lambda found, thresholds: presence_counts(found, labels, thresholds), total)


def label_f1(found: Sequence[Answer], label: str, thresholds: Thresholds) -> float:
    """F1 of one aspect's or demand's presence."""
    return presence((label,), micro)(found, thresholds)


sentiment_accuracy: Final = Score(_sentiments, share)
aspect_f1: Final = Score(_pairs, micro)
negative_f1: Final = Score(_blamed, micro)
demand_f1: Final = presence(DEMANDS, macro)
demand_accuracy: Final = Score(_all_demands, share)
span_f1: Final = Score(_spans, micro)
known_span_f1: Final = Score(lambda found, _: _spans(found, None), micro)


def evidence_f1(found: Sequence[Answer], threshold: float = DEFAULT_THRESHOLD) -> float:
    """Micro-F1 over tokens of the labels that a row truly has: are the right words marked?"""
    counts = np.zeros(3)
    for answer in found:
        for label in answer.row.spans.keys() & answer.row.known_spans:
            column = EVIDENCE_LABELS.index(label)
            said, true = answer.evidence[:, column] >= threshold, answer.tokens[:, column] > 0
            counts += (said & true).sum(), said.sum(), true.sum()
    return f1(*counts) if counts[2] else float("nan")


def _merged(text: str, spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and not text[joined[-1][1] : start].strip():
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _shared(one: Span, other: Span) -> float:
    both = min(one[1], other[1]) - max(one[0], other[0])
    return max(0, both) / (one[1] - one[0] + other[1] - other[0] - max(0, both))
