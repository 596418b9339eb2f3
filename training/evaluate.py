"""Figures of the shipped model for docs/model-card.md: ``python -m training.evaluate``.

The model is read as it is shipped (int8, through ONNX Runtime) and scored on texts that neither training nor the choice
of thresholds has seen, beside two baselines trained on the same rows. Only the part of the card between the markers is
rewritten; the prose around it is written by hand.
"""

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from serving.labels import ASPECTS, DEMANDS
from training import calibrate, data, metrics
from training.baselines import Majority, TfIdf
from training.batches import load_tokenizer
from training.metrics import Answer
from training.train import REPOSITORY_MODEL, say

CARD: Final = data.ROOT / "docs" / "model-card.md"
BEGIN, END = "<!-- figures: written by training.evaluate -->", "<!-- end of figures -->"

Score = Callable[[Sequence[Answer]], float]
Systems = Mapping[str, tuple[Callable[[Sequence[data.Row]], list[Answer]], Mapping[str, float]]]

#: Test set, what it shows, and the task scored on it.
TASKS: Final = (
    ("online_shopping", "sentiment, zh: online_shopping_10_cats, held out", "sentiment"),
    ("eprstmt", "sentiment, zh: EPRSTMT, a source not trained on", "sentiment"),
    ("amazon", "sentiment, en: amazon_polarity10k test", "sentiment"),
    ("utterances_zh", "sentiment with neutral, zh: our utterances, held out", "sentiment"),
    ("utterances_en", "sentiment with neutral, en: our utterances, held out", "sentiment"),
    ("zhijiang", "aspects, zh: zhijiang_makeup, held out", "aspects"),
    ("asqp_zh", "aspects, zh: ASQP zh-FoodBeverage dev", "aspects"),
    ("asqp_en", "aspects, en: ASQP en-Phone dev", "aspects"),
    ("utterances_zh", "aspects, zh: our utterances, held out", "aspects"),
    ("utterances_en", "aspects, en: our utterances, held out", "aspects"),
    ("utterances_zh", "demands, zh: our utterances, held out", "demands"),
    ("utterances_en", "demands, en: our utterances, held out", "demands"),
    ("hint3", "demands, en: HINT3 shop chatbots, a source not trained on", "demands"),
    ("zhijiang", "evidence, zh: zhijiang_makeup, held out", "evidence"),
    ("asqp_zh", "evidence, zh: ASQP zh-FoodBeverage dev", "evidence"),
    ("asqp_en", "evidence, en: ASQP en-Phone dev", "evidence"),
    ("utterances_zh", "evidence, zh: our utterances, held out", "evidence"),
    ("utterances_en", "evidence, en: our utterances, held out", "evidence"),
)


def score_of(task: str, thresholds: Mapping[str, float]) -> Score:
    """The figure of a task: accuracy, micro-F1 of aspect and polarity, macro-F1 of demands, token F1 of evidence."""
    scores: dict[str, Score] = {
        "sentiment": metrics.sentiment_accuracy,
        "aspects": lambda found: metrics.aspect_f1(found, thresholds),
        "demands": lambda found: metrics.demand_f1(found, thresholds),
        "evidence": metrics.evidence_f1,
    }
    return scores[task]


def shipped_metadata(path: Path) -> dict[str, Any]:
    """The ``radar`` entry of an exported model: version, thresholds, languages, max_length."""
    props = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    found: dict[str, Any] = json.loads(props["radar"])
    return found


def figures(systems: Systems, tests: Mapping[str, Sequence[data.Row]]) -> list[str]:
    """The table of results, one line per test set and task."""
    lines = [
        "| test | rows | " + " | ".join(systems) + " |",
        "|---|---|" + "---|" * len(systems),
    ]
    found = {(name, test): answer(rows) for name, (answer, _) in systems.items() for test, rows in tests.items()}
    for test, title, task in TASKS:
        cells = []
        for name, (_, thresholds) in systems.items():
            if task == "evidence" and name != "model":
                cells.append("–")
                continue
            score = score_of(task, thresholds)
            low, high = metrics.interval(found[name, test], score)
            cells.append(f"{score(found[name, test]):.3f} ({low:.3f}–{high:.3f})")
        lines.append(f"| {title} | {len(tests[test])} | " + " | ".join(cells) + " |")
        say(lines[-1])
    return lines


def per_label(found: Sequence[Answer], thresholds: Mapping[str, float]) -> list[str]:
    """F1 of every label's presence among our held-out utterances."""
    lines = ["| label | texts with it | F1 | threshold |", "|---|---|---|---|"]
    for label in (*ASPECTS, *DEMANDS):
        true = sum(label in answer.row.aspects or label in answer.row.demands for answer in found)
        lines.append(
            f"| {label} | {true} | {metrics.label_f1(found, label, thresholds[label]):.2f} | {thresholds[label]:.2f} |"
        )
    return lines


def demonstration(answer: Callable[[Sequence[data.Row]], list[Answer]], thresholds: Mapping[str, float]) -> list[str]:
    """What the model says about the two sentences it is shown on, which nothing in training resembles."""
    lines = []
    for found in answer([data.Row(data.clean(text), "zh", "demonstration") for text in data.DEMONSTRATION]):
        said = [
            f"{aspect} {found.polarity(aspect)} ({found.presence(aspect):.2f})"
            for aspect in ASPECTS
            if found.presence(aspect) >= thresholds[aspect]
        ]
        lines.append(f"- {found.row.text} → {', '.join(said) or 'nothing'}")
    return lines


def speed(answer: Callable[[Sequence[data.Row]], list[Answer]], rows: Sequence[data.Row]) -> float:
    """Texts per second in batches of 32 of like lengths, tokenising included."""
    answer(rows[:64])
    start = time.monotonic()
    answer(rows)
    return len(rows) / (time.monotonic() - start)


def main() -> None:
    """Score everything and rewrite the figures in the card."""
    folder = data.data_folder()
    say("Reading the data sets ...")
    mixture = data.mixture(folder)
    tests = {name: list(rows) for name, rows in mixture.tests.items()}
    ours = tests.pop("utterances")
    tests |= {f"utterances_{lang}": [row for row in ours if row.lang == lang] for lang in ("zh", "en")}

    path = REPOSITORY_MODEL / "model.onnx"
    metadata = shipped_metadata(path)
    tokenizer = load_tokenizer(REPOSITORY_MODEL / "tokenizer.json", metadata["max_length"])
    predict = metrics.onnx_predict(path)

    def model(rows: Sequence[data.Row]) -> list[Answer]:
        return metrics.answers(rows, tokenizer, predict)

    say("Training the baselines ...")
    train = data.unique(row for row in mixture.train if row.source != "joined")
    tfidf, majority = TfIdf(train), Majority(train)
    systems: Systems = {
        "model": (model, metadata["thresholds"]),
        "TF-IDF + LR": (tfidf.answers, calibrate.thresholds(tfidf.answers(mixture.dev))),
        "majority": (majority.answers, {}),
    }
    counts = Counter(row.source.split("/")[0] for row in mixture.train)
    rate = speed(model, ours + tests["eprstmt"])
    block = [
        BEGIN,
        f"Model version {metadata['version']}, {path.stat().st_size / 1e6:.0f} MB. In brackets 95 % bootstrap bounds. "
        "Sentiment: accuracy. Aspects: micro-F1 over pairs of aspect and polarity. Demands: macro-F1. Evidence: "
        "token F1 on labels that are truly there. Only cells a data set labels are counted.\n",
        *figures(systems, tests),
        "\nPresence per label on our held-out utterances, both languages:\n",
        *per_label(model(ours), metadata["thresholds"]),
        "\nThe demonstration sentences:\n",
        *demonstration(model, metadata["thresholds"]),
        f"\nSpeed: {rate:.0f} texts/s at batch 32 ({os.cpu_count()} cores, {platform.machine()}, ONNX Runtime "
        f"{ort.__version__}, machine load {os.getloadavg()[0]:.1f} when measured).",
        "\nTraining rows (utterances count four times, `joined` are pairs and triples of short rows): "
        + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        + f". Dev rows: {len(mixture.dev)}. Left out as equal or near to a held-out text: {mixture.dropped}.",
        END,
    ]  # fmt: skip
    card = CARD.read_text(encoding="utf-8")
    head, _, rest = card.partition(BEGIN)
    CARD.write_text(head + "\n".join(block) + rest.partition(END)[2], encoding="utf-8")
    say(f"Figures written to {CARD}.")


if __name__ == "__main__":
    main()
