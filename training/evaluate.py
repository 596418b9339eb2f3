"""Figures of a model for docs/model-card.md: ``python -m training.evaluate``.

The model is read as it is shipped (int8, through ONNX Runtime) and scored on texts that neither training nor the choice
of thresholds has seen, beside the small model and baselines trained on the same rows. Only the part of the card between
the markers is rewritten, the prose around it is written by hand. The figures also go to ``docs/figures.json``;
``--gate`` compares with those of an earlier model and fails where one fell out of its interval, so that what a model
learns anew does not cost what it knew.
"""

import argparse
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import torch

from serving.forward import Forward
from serving.labels import ASPECTS, DEMANDS
from training import calibrate, data, mapping, metrics, probes, reliability
from training.baselines import Majority, SnowSentiment, TfIdf
from training.batches import Batch, collate, encode, load_tokenizer
from training.fewshot import Head
from training.metrics import Answer, Score, Thresholds, macro, micro, presence
from training.model import RadarModel
from training.train import BASE, REPOSITORY_MODEL, SMALL_MODEL, say

DOCS: Final = data.ROOT / "docs"
CARD: Final = DOCS / "model-card.md"
FIGURES: Final = DOCS / "figures.json"
BEGIN, END = "<!-- figures: written by training.evaluate -->", "<!-- end of figures -->"

#: Coarse aspects that occur at least ten times on ASQP zh-FoodBeverage dev.
ASQP_ASPECTS: Final = tuple(name for name in ASPECTS if name not in ("usability", "after-sales"))

#: What some systems answer only; no baseline marks evidence.
ANSWERS: Final = {
    "TF-IDF + LR": ("sentiment", "aspect", "demands", "suggestions"),
    "SnowNLP": ("sentiment, zh",),
    "majority": ("sentiment", "aspect", "demands", "suggestions"),
}

#: By title and system: score, lower bound, upper bound, rows.
Table = dict[str, dict[str, list[float]]]
System = tuple[Callable[[Sequence[data.Row]], list[Answer]], Thresholds]


@dataclass(frozen=True)
class Figure:
    """One line of the table: a test set, what is measured on it, how, and what was aimed at."""

    test: str
    title: str
    score: Score
    reach: float | None = None


FIGURES_WANTED: Final = (
    Figure(
        "online_shopping",
        "sentiment, zh: online_shopping_10_cats, held out; accuracy",
        metrics.sentiment_accuracy,
        0.95,
    ),
    Figure("eprstmt", "sentiment, zh: EPRSTMT, a source not trained on; accuracy", metrics.sentiment_accuracy, 0.895),
    Figure("amazon", "sentiment, en: amazon_polarity10k test; accuracy", metrics.sentiment_accuracy, 0.93),
    Figure("utterances_zh", "sentiment with neutral, zh: our utterances; accuracy", metrics.sentiment_accuracy),
    Figure("utterances_en", "sentiment with neutral, en: our utterances; accuracy", metrics.sentiment_accuracy),
    Figure("zhijiang", "aspect and polarity, zh: zhijiang_makeup, held out; micro-F1", metrics.aspect_f1, 0.82),
    Figure("asqp_zh", "aspects, zh: ASQP zh-FoodBeverage dev; micro-F1", presence(ASQP_ASPECTS, micro), 0.82),
    Figure("asqp_zh", "aspects, zh: ASQP zh-FoodBeverage dev; macro-F1", presence(ASQP_ASPECTS, macro), 0.74),
    Figure("asqp_zh", "aspects spoken of badly, zh: ASQP zh-FoodBeverage dev; micro-F1", metrics.negative_f1, 0.72),
    Figure("asqp_zh", "aspect and polarity, zh: ASQP zh-FoodBeverage dev; micro-F1", metrics.aspect_f1),
    Figure("asqp_en", "aspects spoken of badly, en: ASQP en-Phone dev; micro-F1", metrics.negative_f1, 0.65),
    Figure("asqp_en", "aspect and polarity, en: ASQP en-Phone dev; micro-F1", metrics.aspect_f1),
    Figure("utterances_zh", "aspect and polarity, zh: our utterances; micro-F1", metrics.aspect_f1),
    Figure("utterances_en", "aspect and polarity, en: our utterances; micro-F1", metrics.aspect_f1),
    Figure("zhijiang", "evidence, zh: zhijiang_makeup; span F1", metrics.span_f1, 0.8),
    Figure("zhijiang", "evidence, zh: zhijiang_makeup, were the labels known; span F1", metrics.known_span_f1),
    Figure("asqp_zh", "evidence, zh: ASQP zh-FoodBeverage dev; span F1", metrics.span_f1),
    Figure("asqp_en", "evidence, en: ASQP en-Phone dev; span F1", metrics.span_f1),
    Figure("utterances_zh", "demands, zh: our utterances; macro-F1", metrics.demand_f1, 0.85),
    Figure("utterances_en", "demands, en: our utterances; macro-F1", metrics.demand_f1, 0.85),
    Figure("outsiders_zh", "demands, zh: writers who did not know the labels; micro-F1", presence(DEMANDS, micro)),
    Figure("outsiders_zh", "aspect and polarity, zh: writers who did not know the labels; micro-F1", metrics.aspect_f1),
    Figure("outsiders_en", "demands, en: writers who did not know the labels; micro-F1", presence(DEMANDS, micro)),
    Figure("outsiders_en", "aspect and polarity, en: writers who did not know the labels; micro-F1", metrics.aspect_f1),
    Figure("annotated_zh", "demands, zh: real reviews, labelled by us, held out; micro-F1", presence(DEMANDS, micro)),
    Figure("annotated_zh", "demands, zh: real reviews, labelled by us, held out; macro-F1", metrics.demand_f1),
    Figure(
        "annotated_zh", "aspect and polarity, zh: real reviews, labelled by us, held out; micro-F1", metrics.aspect_f1
    ),
    Figure("annotated_en", "demands, en: real reviews, labelled by us, held out; micro-F1", presence(DEMANDS, micro)),
    Figure("annotated_en", "demands, en: real reviews, labelled by us, held out; macro-F1", metrics.demand_f1),
    Figure(
        "annotated_en", "aspect and polarity, en: real reviews, labelled by us, held out; micro-F1", metrics.aspect_f1
    ),
    Figure(
        "suggestions",
        "suggestions, en: SemEval-2019 task 9 A, not trained on; F1",
        presence(("feature_request",), micro),
        0.6,
    ),
    Figure("bitext", "demands, en: Bitext test; all right", metrics.demand_accuracy, 0.8),
    Figure("bitext", "demands, en: Bitext test; macro-F1", metrics.demand_f1),
    Figure("hint3", "demands, en: HINT3 shop chatbots, not trained on; macro-F1", metrics.demand_f1),
)


def shipped_metadata(path: Path) -> dict[str, Any]:
    """The ``radar`` entry of an exported model: version, thresholds, languages, max_length."""
    props = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    found: dict[str, Any] = json.loads(props["radar"])
    return found


def shipped(path: Path, tokenizer: Any) -> System:
    """An exported model and the thresholds in its metadata."""
    return metrics.served(path, tokenizer), shipped_metadata(path)["thresholds"]


def measure(
    systems: Mapping[str, System], tests: Mapping[str, Sequence[data.Row]]
) -> dict[str, dict[str, list[float]]]:
    """For every figure and every system that can answer: score, lower and upper bound, and the number of rows."""
    found = {(name, test): answer(rows) for name, (answer, _) in systems.items() for test, rows in tests.items()}
    table: Table = {}
    for figure in FIGURES_WANTED:
        for name, (_, thresholds) in systems.items():
            answers = found[name, figure.test]
            if not answers or not figure.title.startswith(ANSWERS.get(name, "")):
                continue
            bounds = figure.score.interval(answers, thresholds)
            cells = [round(value, 4) for value in (figure.score(answers, thresholds), *bounds)]
            table.setdefault(figure.title, {})[name] = [*cells, len(answers)]
        say(f"{figure.title}: " + "  ".join(f"{name} {cells[0]:.3f}" for name, cells in table[figure.title].items()))
    return table


def lines(table: Mapping[str, Mapping[str, Sequence[float]]], names: Sequence[str]) -> list[str]:
    """The table of results in Markdown."""
    reach = {figure.title: figure.reach for figure in FIGURES_WANTED}
    made = ["| test | rows | aim | " + " | ".join(names) + " |", "|---|---|---|" + "---|" * len(names)]
    for title, row in table.items():
        cells = [f"{c[0]:.3f} ({c[1]:.3f}–{c[2]:.3f})" if (c := row.get(name)) else "–" for name in names]
        aim = reach.get(title)
        rows = next(iter(row.values()))[3]
        made.append(f"| {title} | {rows} | {'' if aim is None else f'{aim:.3f}'} | " + " | ".join(cells) + " |")
    return made


def per_label(found: Sequence[Answer], thresholds: Thresholds) -> list[str]:
    """F1 of every label's presence among our held-out utterances."""
    made = ["| label | texts with it | F1 | threshold |", "|---|---|---|---|"]
    for label in (*ASPECTS, *DEMANDS):
        true = sum(label in answer.row.aspects or label in answer.row.demands for answer in found)
        made.append(
            f"| {label} | {true} | {metrics.label_f1(found, label, thresholds):.2f} | {thresholds[label]:.2f} |"
        )
    return made


def demonstration(model: System) -> list[str]:
    """What the model says about the two sentences it is shown on, which nothing in training resembles."""
    answer, thresholds = model
    made = []
    for found in answer([data.Row(data.clean(text), "zh", "demonstration") for text in data.DEMONSTRATION]):
        said = [
            f"{aspect} {found.polarity(aspect)} ({found.presence(aspect):.2f})"
            for aspect in ASPECTS
            if found.tells(aspect, thresholds)
        ]
        made.append(f"- {found.row.text} → {', '.join(said) or 'nothing'}")
    return made


# --- probes ---------------------------------------------------------------------------------------------------------


def statements(answer: Answer, thresholds: Thresholds) -> set[str]:
    """All that is said of a text: its sentiment, each aspect with its polarity, each demand."""
    aspects = {f"{name} {answer.polarity(name)}" for name in ASPECTS if answer.tells(name, thresholds)}
    demands = {name for name in DEMANDS if answer.tells(name, thresholds)}
    return {f"sentiment {int(answer.sentiment.argmax())}", *aspects, *demands}


def flips(model: System) -> dict[str, float]:
    """By perturbation, the share of statements about an undisturbed text that are no longer made; and over all."""
    answer, thresholds = model
    rows = probes.adversarial()
    plain = answer([replace(row, text=data.clean(row.text)) for row in rows])
    lost: Counter[str] = Counter()
    made: Counter[str] = Counter()
    disturbed = [(before, name, row) for before, row in zip(plain, rows, strict=True) for name, row in _attacks(row)]
    for (before, name, _), after in zip(disturbed, answer([row for *_, row in disturbed]), strict=True):
        said = statements(before, thresholds)
        made[name] += len(said)
        lost[name] += len(said - statements(after, thresholds))
    return {name: lost[name] / made[name] for name in made} | {"all": lost.total() / made.total()}


def _attacks(row: data.Row) -> list[tuple[str, data.Row]]:
    return list(probes.attacks(row).items())


def shift(model: System) -> dict[str, float]:
    """By what varies, the mean distance of a text's score, p(positive) - p(negative), from the mean of its set."""
    answer, _ = model
    sets = probes.bias_sets()
    found = answer([data.Row(data.clean(text), one.lang, "bias") for one in sets for text in one.texts])
    scores = iter([float(each.sentiment[2] - each.sentiment[0]) for each in found])
    distances: dict[str, list[float]] = {}
    for one in sets:
        values = np.array([next(scores) for _ in one.texts])
        distances.setdefault(one.varies, []).extend(np.abs(values - values.mean()).tolist())
    return {name: float(np.mean(values)) for name, values in distances.items()} | {
        "all": float(np.mean(np.concatenate(list(distances.values()))))
    }


# --- few labels -----------------------------------------------------------------------------------------------------


def few_shot(folder: Path, model_file: Path, tokenizer: Any) -> dict[str, float]:
    """HINT3 sofmattress: a head learnt from its 328 training queries. Accuracy on test queries that have an intent,
    with and without the right to abstain, and the share of out-of-scope queries on which it abstains."""
    train, test = data.intents(folder, "sofmattress", "train"), data.intents(folder, "sofmattress", "test")
    head = Head(metrics.onnx_embed(model_file, tokenizer), [text for text, _ in train], [label for _, label in train])
    found = head.probabilities([text for text, _ in test])
    named = np.array([head.names[i] for i in found.argmax(1)])
    truth = np.array([label for _, label in test])
    outside, sure = truth == mapping.HINT3_UNPLACED, found.max(1) >= head.floor
    right = named == truth
    return {
        "in scope": float(right[~outside].mean()),
        "in scope, abstaining counted as wrong": float((right & sure)[~outside].mean()),
        "out of scope, recall": float((~sure)[outside].mean()),
    }


def foreign(model_file: Path, tokenizer: Any, ours: Sequence[data.Row]) -> dict[str, float]:
    """How well ``strangeness`` tells texts from outside the domain from our held-out utterances: the chance that a
    foreign text is the stranger of two, by kind and over all."""
    strange = metrics.onnx_embed(model_file, tokenizer, "strangeness")
    texts = probes.foreign()
    home = strange([row.text for row in ours])[:, 0]
    away = strange([data.clean(one.text) or one.text for one in texts])[:, 0]
    kinds = {"all": away} | {
        kind: away[[one.kind == kind for one in texts]] for kind in sorted({one.kind for one in texts})
    }
    return {kind: float((values[:, None] > home[None, :]).mean()) for kind, values in kinds.items()}


# --- speed ----------------------------------------------------------------------------------------------------------


def speeds(
    files: Mapping[str, Path], tokenizer: Any, rows: Sequence[data.Row], seconds: float = 6.0
) -> dict[str, float]:
    """Texts per second on all cores: the models as they are served, and the full network in torch, fp32, batch 32.

    Only where the base weights are at hand is there a torch network to compare with.
    """
    encoded = sorted(encode(rows, tokenizer), key=lambda one: len(one.ids))
    parts = [collate(encoded[start : start + 32]) for start in range(0, len(encoded) - 31, 32)]
    found = {}
    for name, file in files.items():
        forward = Forward(file)
        found[name] = _rate(partial(_read, forward), parts, seconds)
        forward.close()
    if (BASE / "config.json").is_file():
        torch.set_num_threads(os.cpu_count() or 1)
        full = RadarModel.from_base(BASE).eval()
        with torch.inference_mode():
            found["torch fp32"] = _rate(lambda part: full(part.ids, part.mask), parts, seconds)
    return found


def _read(forward: Forward, part: Batch) -> object:
    return forward(part.ids.numpy(), part.mask.numpy())


def _rate(call: Callable[[Any], object], parts: Sequence[Any], seconds: float) -> float:
    call(parts[0])
    start, texts, turn = time.monotonic(), 0, 0
    while time.monotonic() - start < seconds:
        call(parts[turn * 7 % len(parts)])  # short and long ones in turn
        texts, turn = texts + len(parts[0].ids), turn + 1
    return texts / (time.monotonic() - start)


# --- the card -------------------------------------------------------------------------------------------------------


def gate(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Figures of the model that fell below the lower bound they had before."""
    return [
        f"{title}: {new[title]['model'][0]:.3f}, was {row['model'][0]:.3f} (at least {row['model'][1]:.3f})"
        for title, row in old.items()
        if title in new and new[title]["model"][0] < row["model"][1]
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Score everything and rewrite the figures in the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=REPOSITORY_MODEL, help="folder of model.onnx and tokenizer.json")
    parser.add_argument("--dry", action="store_true", help="print only: no baselines, no file is written")
    parser.add_argument("--rows", type=int, help="look at the first rows of each test only")
    parser.add_argument("--gate", type=Path, help="figures.json of an earlier model that must not be lost")
    chosen = parser.parse_args(arguments)
    before = json.loads(chosen.gate.read_text(encoding="utf-8")) if chosen.gate else {}
    folder = data.data_folder()
    path = chosen.model / "model.onnx"
    metadata = shipped_metadata(path)
    tokenizer = load_tokenizer(chosen.model / "tokenizer.json", metadata["max_length"])
    model = answer, _ = shipped(path, tokenizer)
    say("Reading the data sets ...")
    mixture = None if chosen.dry else data.mixture(folder)
    tests = dict(mixture.tests if mixture else data.tests(folder))
    ours = tests["utterances"]
    for name in ("utterances", "outsiders"):
        rows = tests.pop(name)
        tests |= {f"{name}_{lang}": [row for row in rows if row.lang == lang] for lang in ("zh", "en")}
    tests = {name: rows[: chosen.rows] for name, rows in tests.items()}
    systems = {"model": model}
    if mixture:
        systems |= {"small": shipped(SMALL_MODEL / "model.onnx", tokenizer)} | _baselines(mixture)
    table = measure(systems, tests)

    said = answer(
        [*ours, *tests["online_shopping"][:800], *tests["amazon"][:800], *tests["asqp_zh"], *tests["asqp_en"]]
    )
    panels = {
        "sentiment": reliability.sentiment_pairs(said),
        "aspects": reliability.presence_pairs(said, ASPECTS),
        "demands": reliability.presence_pairs(said, DEMANDS),
    }
    notes = [
        "Flips under the adversarial probe (aim: 0.08): " + _by_system(flips, systems),
        "Score shift under the bias probe (aim: 0.02): " + _by_system(shift, systems),
        "HINT3 sofmattress from its 328 examples (aims: 0.80, 0.65): " + _listed(few_shot(folder, path, tokenizer)),
        "Out of domain, chance that a foreign text is stranger than one of ours: "
        + _listed(foreign(path, tokenizer, ours)),
        "Expected calibration error: "
        + _listed({name: reliability.calibration_error(pairs) for name, pairs in panels.items()})
        + " ([picture](reliability.svg))",
        "Texts per second: "
        + _listed(
            speeds({"model": path, "small": SMALL_MODEL / "model.onnx"}, tokenizer, [*ours, *tests["eprstmt"]]), 0
        )
        + f" ({os.cpu_count()} cores, {platform.machine()}, ONNX Runtime {ort.__version__}, machine load "
        f"{os.getloadavg()[0]:.1f} when measured)",
    ]  # fmt: skip
    for note in notes:
        say(note)
    if mixture:
        sizes = [file.stat().st_size / 1e6 for file in (path, SMALL_MODEL / "model.onnx")]
        about = f"Model version {metadata['version']}, {sizes[0]:.0f} MB; the small model has {sizes[1]:.0f} MB. "
        labels, shown = per_label(said[: len(ours)], model[1]), demonstration(model)
        _write(about, lines(table, list(systems)), notes, labels, shown, mixture)
        FIGURES.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (DOCS / "reliability.svg").write_text(reliability.drawing(panels), encoding="utf-8")
    if worse := gate(table, before):
        raise SystemExit("Worse than before:\n" + "\n".join(worse))


def _baselines(mixture: data.Mixture) -> dict[str, System]:
    say("Training the baselines ...")
    train = data.unique(row for name, rows in mixture.sets.items() if name != "joined" for row in rows)
    tfidf = TfIdf(train)
    return {
        "TF-IDF + LR": (tfidf.answers, calibrate.thresholds(tfidf.answers(mixture.dev))),
        "SnowNLP": (SnowSentiment().answers, {}),
        "majority": (Majority(train).answers, {}),
    }


def _by_system(probe: Callable[[System], dict[str, float]], systems: Mapping[str, System]) -> str:
    """What a probe says of the model, and in short of the small one."""
    said = _listed(probe(systems["model"]))
    return said + (f"; of the small model all {probe(systems['small'])['all']:.3f}" if "small" in systems else "")


def _listed(values: Mapping[str, float], digits: int = 3) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())


def _write(
    about: str, results: Sequence[str], notes: Sequence[str], labels: Sequence[str], shown: Sequence[str],
    mixture: data.Mixture,
) -> None:  # fmt: skip
    counts = {name: len(rows) for name, rows in mixture.sets.items()}
    block = [
        BEGIN,
        about + "In brackets 95 % bootstrap bounds. Only cells a data set labels are counted. "
        "A span is right if it shares half of the union with a true one.\n",
        *results,
        *(f"\n{note}." for note in notes),
        "\nPresence per label on our held-out utterances, both languages:\n",
        *labels,
        "\nThe demonstration sentences:\n",
        *shown,
        "\nTraining rows (`joined` are pairs and triples of short rows): "
        + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        + f". Dev rows: {len(mixture.dev)}. Left out as equal or near to a held-out text: {mixture.dropped}.",
        END,
    ]
    card = CARD.read_text(encoding="utf-8")
    head, _, rest = card.partition(BEGIN)
    CARD.write_text(head + "\n".join(block) + rest.partition(END)[2], encoding="utf-8")
    say(f"Figures written to {CARD}.")


if __name__ == "__main__":
    main()
