"""Scores of predictions against rows, counted only over cells that the rows know."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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

DEFAULT_THRESHOLD: Final = 0.5


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

    def tells(self, label: str, thresholds: Mapping[str, float]) -> bool:
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


def sentiment_accuracy(found: Sequence[Answer]) -> float:
    """Share of rows with the right polarity. Where a set knows no neutral, neutral is not an option."""
    known = [answer for answer in found if answer.row.sentiment is not None]
    if not known:
        return float("nan")
    options = [i for i, name in enumerate(POLARITIES) if any(answer.row.sentiment == name for answer in known)]
    right = [POLARITIES[max(options, key=lambda i: answer.sentiment[i])] == answer.row.sentiment for answer in known]
    return float(np.mean(right))


def aspect_counts(answer: Answer, thresholds: Mapping[str, float]) -> tuple[int, int, int]:
    """(right, predicted, true) pairs of aspect and polarity in one row."""
    right = predicted = 0
    for aspect in answer.row.known_aspects:
        if answer.tells(aspect, thresholds):
            predicted += 1
            right += answer.row.aspects.get(aspect) == answer.polarity(aspect)
    return right, predicted, len(answer.row.aspects)


def aspect_f1(found: Sequence[Answer], thresholds: Mapping[str, float]) -> float:
    """Micro-F1 over pairs of aspect and polarity."""
    return f1(*np.sum([aspect_counts(answer, thresholds) for answer in found], axis=0))


def presence_f1(
    found: Sequence[Answer], thresholds: Mapping[str, float], labels: Sequence[str], average: str = "micro"
) -> float:
    """Micro- or macro-F1 of the presence of ``labels``, whatever their polarity."""
    counts = [presence_counts(found, label, thresholds) for label in labels]
    return f1(*np.sum(counts, axis=0)) if average == "micro" else float(np.mean([f1(*count) for count in counts]))


def negative_f1(found: Sequence[Answer], thresholds: Mapping[str, float], labels: Sequence[str]) -> float:
    """Micro-F1 over the aspects that are spoken of badly, which is what alerts are made of."""
    counts = np.zeros(3)
    for answer in found:
        for label in answer.row.known_aspects & set(labels):
            said = answer.tells(label, thresholds) and answer.polarity(label) == "negative"
            true = answer.row.aspects.get(label) == "negative"
            counts += said and true, said, true
    return f1(*counts)


def demand_f1(found: Sequence[Answer], thresholds: Mapping[str, float]) -> float:
    """Macro-F1 over the demands that occur among the rows."""
    scores = [
        label_f1(found, demand, thresholds)
        for demand in DEMANDS
        if any(demand in answer.row.demands for answer in found)
    ]
    return float(np.mean(scores)) if scores else float("nan")


def label_f1(found: Sequence[Answer], label: str, thresholds: Mapping[str, float]) -> float:
    """F1 of one aspect's or demand's presence."""
    return f1(*presence_counts(found, label, thresholds))


def presence_counts(found: Sequence[Answer], label: str, thresholds: Mapping[str, float]) -> tuple[int, int, int]:
    """(right, predicted, true) texts with the label."""
    known = [answer for answer in found if label in answer.row.known_aspects or label in answer.row.known_demands]
    said = [answer.tells(label, thresholds) for answer in known]
    true = [label in answer.row.aspects or label in answer.row.demands for answer in known]
    return sum(a and b for a, b in zip(said, true, strict=True)), sum(said), sum(true)


def demand_accuracy(found: Sequence[Answer], thresholds: Mapping[str, float]) -> float:
    """Share of rows whose known demands are all answered rightly, presence and absence."""
    right = [
        all(answer.tells(name, thresholds) == (name in answer.row.demands) for name in answer.row.known_demands)
        for answer in found
        if answer.row.known_demands
    ]
    return float(np.mean(right)) if right else float("nan")


def evidence_f1(found: Sequence[Answer], threshold: float = DEFAULT_THRESHOLD) -> float:
    """Micro-F1 over tokens of the labels that a row truly has: are the right words marked?"""
    counts = np.zeros(3)
    for answer in found:
        for label in answer.row.spans.keys() & answer.row.known_spans:
            column = EVIDENCE_LABELS.index(label)
            said, true = answer.evidence[:, column] >= threshold, answer.tokens[:, column] > 0
            counts += (said & true).sum(), said.sum(), true.sum()
    return f1(*counts) if counts[2] else float("nan")


def span_f1(found: Sequence[Answer], thresholds: Mapping[str, float] | None, overlap: float = 0.5) -> float:
    """Micro-F1 over evidence spans as the radar shows them; a span is right if it shares ``overlap`` of the union of
    both with a true span of its label. ``thresholds`` None: evidence of the true labels, as if these were known.

    True spans with no more than a character between them count as one, as the decoder joins them.
    """
    counts = np.zeros(3)
    for answer in found:
        words = [decode.trimmed(answer.row.text, *offset) for offset in answer.offsets]
        for label in answer.row.known_spans & answer.row.known_aspects:
            true = _merged(answer.row.spans.get(label, ()))
            shown = bool(true) if thresholds is None else answer.tells(label, thresholds)
            said = decode.spans(answer.evidence[:, EVIDENCE_LABELS.index(label)], words) if shown else []
            right = sum(any(_shared(one, other) >= overlap for other in true) for one in said)
            counts += min(right, len(true)), len(said), len(true)
    return f1(*counts)


def _merged(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _shared(one: Span, other: Span) -> float:
    both = min(one[1], other[1]) - max(one[0], other[0])
    return max(0, both) / (one[1] - one[0] + other[1] - other[0] - max(0, both))


def f1(right: float, predicted: float, true: float) -> float:
    """F1 from counts; 0 where nothing is right."""
    return float(2 * right / (predicted + true)) if right else 0.0


def interval(
    found: Sequence[Any], score: Callable[[Sequence[Any]], float], rounds: int = 200, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap confidence interval of a score over rows."""
    chooser = np.random.default_rng(seed)
    scores = [score([found[i] for i in chooser.integers(0, len(found), len(found))]) for _ in range(rounds)]
    return float(np.nanpercentile(scores, 2.5)), float(np.nanpercentile(scores, 97.5))
