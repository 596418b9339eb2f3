"""The texts written for this project: our utterances and the probes, checked line by line."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.labels import ASPECTS, DEMANDS, POLARITIES
from training import probes
from training.data import DEMONSTRATION, OUTSIDERS, ROOT, UTTERANCES, clean, find, key, likenesses, split_of
from training.probes import PERTURBATIONS

LANGS = ("zh", "en")


def items(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


ITEMS = items(UTTERANCES)


def near_pairs(texts: Iterable[str], others: Iterable[str] = (), limit: float = 0.6) -> list[tuple[str, str]]:
    """Pairs whose character trigrams overlap by ``limit`` or more (Jaccard): within texts, and of others with texts."""
    asked = [text for text in texts if key(text)]
    all_texts = [text for text in others if key(text)] + asked
    first = len(all_texts) - len(asked)
    return [
        (all_texts[other], asked[one])
        for ones, them, likeness in likenesses(asked, all_texts)
        for one, other in zip(ones[likeness >= limit].tolist(), them[likeness >= limit].tolist(), strict=True)
        if other < first + one
    ]


def faults(item: dict[str, Any]) -> list[str]:
    """What is wrong with a row, in words; nothing if it is well formed."""
    aspects = [label["aspect"] for label in item["aspects"]]
    demands = [label["demand"] for label in item["demands"]]
    text = clean(item["text"])
    wrong = [
        f"{name} has {value!r}"
        for name, value, known in (
            ("lang", item["lang"], LANGS),
            ("kind", item["kind"], ("chat", "review")),
            ("sentiment", item["sentiment"], POLARITIES),
        )
        if value not in known
    ]
    wrong += [f"unknown or twice: {name}" for name in aspects if name not in ASPECTS or aspects.count(name) > 1]
    wrong += [f"unknown or twice: {name}" for name in demands if name not in DEMANDS or demands.count(name) > 1]
    wrong += [f"no polarity: {label}" for label in item["aspects"] if label["sentiment"] not in POLARITIES]
    wrong += [f"strength outside (0, 1]: {label}" for label in item["demands"] if not 0 < label["strength"] <= 1]
    for label in (*item["aspects"], *item["demands"]):
        wrong += [] if label["evidence"] else [f"no evidence: {label}"]
        wrong += [f"not there, or twice: {words}" for words in label["evidence"] if not find(text, clean(words))]
    return wrong


def test_a_faulty_row_is_found_out() -> None:
    right = {"text": "退钱，快退钱", "lang": "zh", "kind": "chat", "sentiment": "negative", "aspects": []}
    sound = {"demand": "return_refund", "strength": 0.9, "evidence": ["快退钱"]}
    assert faults(right | {"demands": [sound]}) == []
    for broken in ({"evidence": ["退钱"]}, {"evidence": []}, {"strength": 0}, {"demand": "refund"}):
        assert faults(right | {"demands": [sound | broken]})
    assert faults(right | {"demands": [sound, sound]}) and faults(right | {"demands": [], "kind": "mail"})


def test_the_guide_says_of_its_pairs_what_the_rows_say() -> None:
    guide = (ROOT / "docs" / "labels.md").read_text(encoding="utf-8")
    table = guide.split("| border |")[1].split("\n\n")[0]
    rows = {item["text"]: item for item in ITEMS}
    pairs = [
        pair for cell in table.split(" | ") for pair in re.findall(r"(?:^|; )([^→]+) → (.+?)(?=; [^→]+ →| \||$)", cell)
    ]
    assert len(pairs) == len(re.findall("→", table)) > 40
    for text, said in pairs:
        row = rows[text.strip('"')]
        labels = re.findall("|".join((*ASPECTS, *DEMANDS)), said.split(", not ")[0])
        assert sorted(labels) == sorted(
            [*(one["aspect"] for one in row["aspects"]), *(one["demand"] for one in row["demands"])]
        ), text
        strength = float((re.findall(r"0\.\d", said) or ["0.6"])[0])
        assert all(one["strength"] == strength for one in row["demands"]), text


def test_rows_are_labelled_by_the_scheme_and_their_evidence_stands_in_the_text() -> None:
    assert {item["text"]: wrong for item in ITEMS if (wrong := faults(item))} == {}


@pytest.mark.parametrize("lang", LANGS)
def test_no_utterance_is_nearly_another(lang: str) -> None:
    assert near_pairs(clean(item["text"]) for item in ITEMS if item["lang"] == lang) == []


@pytest.mark.parametrize("lang", LANGS)
def test_every_demand_has_enough_texts_to_learn_from_and_to_be_tested_on(lang: str) -> None:
    texts = Counter[str]()
    held_out = Counter[str]()
    for item in ITEMS:
        if item["lang"] == lang:
            demands = [label["demand"] for label in item["demands"]]
            texts.update(demands)
            if split_of(clean(item["text"])) != "train":
                held_out.update(demands)
    assert {demand: count for demand in DEMANDS if (count := texts[demand]) < 120} == {}
    assert {demand: count for demand in DEMANDS if (count := held_out[demand]) < 15} == {}


@pytest.mark.parametrize("lang", LANGS)
def test_outsiders_are_labelled_by_the_scheme(lang: str) -> None:
    outsiders = [item for item in items(OUTSIDERS) if item["lang"] == lang]
    assert len(outsiders) >= 500
    for item in outsiders:
        aspects = {label["aspect"]: label["sentiment"] for label in item["aspects"]}
        demands = {label["demand"]: label["strength"] for label in item["demands"]}
        masked = set(item.get("masked", ()))
        assert aspects.keys() <= set(ASPECTS) and demands.keys() <= set(DEMANDS), item
        assert masked <= {*ASPECTS, *DEMANDS} - aspects.keys() - demands.keys(), item
        assert {*aspects.values(), item["sentiment"] or "neutral"} <= set(POLARITIES), item
        assert all(0 < strength <= 1 for strength in demands.values()), item


# --- probes ---------------------------------------------------------------------------------------------------------

BASE = probes.adversarial()


def test_no_probe_is_nearly_an_utterance() -> None:
    variants = [text for one in probes.bias_sets() for text in one.texts]
    texts = [row.text for row in BASE] + [one.text for one in probes.foreign()] + variants
    ours = {clean(text) for text in (*(item["text"] for item in ITEMS), *DEMONSTRATION)}
    assert [pair for pair in near_pairs(map(clean, texts), ours) if pair[0] in ours] == []


def test_no_adversarial_text_is_nearly_another() -> None:
    assert near_pairs(clean(row.text) for row in BASE) == []


def test_bias_sets_have_four_texts_or_more_in_both_languages() -> None:
    sets = probes.bias_sets()
    assert Counter(one.lang for one in sets).keys() == set(LANGS) and len(sets) >= 60
    assert {one.varies for one in sets} >= {"name", "region", "gender", "age", "dialect"}
    for one in sets:
        assert len(set(one.texts)) == len(one.texts) >= 4


def test_adversarial_texts_carry_every_label_in_both_languages() -> None:
    assert len(BASE) >= 200
    for lang in LANGS:
        rows = [row for row in BASE if row.lang == lang]
        assert {name for row in rows for name in row.demands} == set(DEMANDS)
        assert {name for row in rows for name in row.aspects} == set(ASPECTS)
        assert {row.sentiment for row in rows} == set(POLARITIES)
        assert sum(not row.aspects and not row.demands for row in rows) >= 10


def test_foreign_texts_are_many_and_of_every_kind() -> None:
    kinds = Counter(one.kind for one in probes.foreign())
    assert kinds.keys() == {"zh", "en", "code", "log", "random"} and kinds.total() >= 150


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_changes_most_of_the_texts(name: str) -> None:
    changed = sum(name in probes.attacks(row) for row in BASE)
    assert changed >= 0.8 * len(BASE)


@given(st.text(alphabet=st.sampled_from("退货能便宜吗的不，。 refund please it's size 12!")), st.sampled_from(LANGS))
def test_perturbations_leave_the_words_readable(text: str, lang: str) -> None:
    bare = "".join(text.split())
    assert "".join(probes.spaced(text, lang).split()) == bare
    assert probes.with_emoji(text, lang).replace("📦", "") == text
    assert len(probes.look_alike(text, lang)) == len(text)
    assert probes.stuffed(text, lang).startswith(text) and probes.commanded(text, lang).startswith(text)


@pytest.mark.parametrize(
    ("name", "text", "lang", "expected"),
    [
        ("spaces", "我要退货退款", "zh", "我要 退货 退款"),
        ("spaces", "please refund my order", "en", "ple ase refund my or der"),
        ("misspelling", "客服没有退款", "zh", "克服木有腿款"),
        ("misspelling", "Your refund, please", "en", "ur refnud, pls"),
        ("emoji", "快递坏了，退货", "zh", "快递坏了，📦退货📦"),
        ("look-alikes", "退货退", "zh", "蜕货蜕"),
        ("look-alikes", "poor old case", "en", "pооr old cаsе"),
    ],
)
def test_perturbations_by_example(name: str, text: str, lang: str, expected: str) -> None:
    assert PERTURBATIONS[name](text, lang) == expected
