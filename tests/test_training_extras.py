"""The wide part, plans and runs, spans and calibration as figures, heads from few labels."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from serving.card import ModelCard
from serving.labels import ASPECTS, BLAME, EVIDENCE_LABELS
from training import calibrate, data, metrics, probes, reliability, train
from training.batches import collate, encode, load_tokenizer
from training.data import Row, identity
from training.disturb import DIALECTS, disturbed, in_dialect
from training.evaluate import gate, statements
from training.fewshot import Head, novel, strangeness
from training.label import preview, queue, row_to_fill_in
from training.losses import label_losses, total
from training.model import Calibrated, RadarModel
from training.train import CONFIGS, TOKENIZER, Plan, Trainer
from training.wide import Wide, fit, hashed

NOTHING = np.zeros((0, len(EVIDENCE_LABELS)), np.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(TOKENIZER)


def tiny(tokenizer: Tokenizer) -> RadarModel:
    torch.manual_seed(0)
    return RadarModel.tiny(tokenizer.get_vocab_size())


# --- the wide part --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(4, 44_000), min_size=1, max_size=20), st.integers(0, 5))
def test_padding_adds_no_gram(ids: list[int], padding: int) -> None:
    plain, there = hashed(torch.tensor([[0, *ids, 2]]), 3, 1 << 17)
    long, also = hashed(torch.tensor([[0, *ids, 2, *[1] * padding]]), 3, 1 << 17)
    assert sorted(plain[there > 0].tolist()) == sorted(long[also > 0].tolist())
    assert int(there.sum()) == sum(max(0, len(ids) - longer) for longer in range(3))


def test_the_wide_part_learns_what_a_phrase_says(tokenizer: Tokenizer) -> None:
    rows = [row for row in data.utterances() if row.sentiment != "neutral"][:300]
    examples = encode(rows, tokenizer)
    wide = Wide()
    batch = collate(examples)
    before = total(label_losses(*wide(batch.ids), batch)).detach().item()
    fit(wide, examples)
    with torch.no_grad():
        assert float(total(label_losses(*wide(batch.ids), batch))) < before


def test_the_wide_part_counts_by_its_weight(tokenizer: Tokenizer) -> None:
    model = tiny(tokenizer).eval()
    for grams in (model.wide.feeling, model.wide.topics):
        torch.nn.init.normal_(grams.table.weight)
    batch = collate(encode([Row("物流太慢", "zh", "test")], tokenizer))
    with torch.no_grad():
        alone = Calibrated(model)(batch.ids, batch.mask)
        model.wide_weight.fill_(0.5)
        both = Calibrated(model)(batch.ids, batch.mask)
        logits, (said, _, wanted) = model(batch.ids, batch.mask), model.wide(batch.ids)
    assert torch.allclose(both[0], (logits.sentiment + 0.5 * said).softmax(-1), atol=1e-6)
    assert torch.allclose(both[2][..., 0], (logits.demands[..., 0] + 0.5 * wanted).sigmoid(), atol=1e-6)
    assert torch.equal(alone[2][..., 1], both[2][..., 1]) and torch.equal(alone[3], both[3])


# --- plans and runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_plan_can_be_read_and_names_known_sets(path: Path) -> None:
    plan = Plan.read(path, minutes=5.0, rows=None)
    assert plan.minutes == 5.0 and plan.rows > 0
    assert plan.shares.keys() <= {
        "utterances", "joined", "online_shopping", "waimai", "amazon", "zhijiang", "asqp_zh", "asqp_en", "acos_laptop",
        "dimabsa_laptop", "oats", "bitext", "clinc", "disturbed", "annotated", "dialects",
        *(row.source for row in data.utterances()),
    }  # fmt: skip


def test_an_unknown_field_of_a_plan_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        "version = 'test'\nrows = 1\nminutes = 1\nlearning_speed = 3\n[shares]\n", encoding="utf-8"
    )
    with pytest.raises(SystemExit, match="learning_speed"):
        Plan.read(tmp_path / "plan.toml")


def test_sets_are_named_whole_or_by_source() -> None:
    ours = [Row("好", "zh", source) for source in ("utterances/zh", "utterances/shop", "utterances/shop")]
    mixture = data.Mixture({"utterances": ours}, [], {}, 0)
    assert [len(mixture.named(name)) for name in mixture.names()] == [3, 2, 1] and not mixture.named("utterance")


def test_passes_show_every_row_before_any_again() -> None:
    rows = [Row(str(i), "en", "test") for i in range(10)]
    mixture = data.Mixture({"test": rows}, [], {}, 0)
    passes = [mixture.one_pass({"test": 4, "absent": 3}, number) for number in range(5)]
    shown = [row.text for one in passes for row in one]
    assert sorted(shown[:10]) == sorted(shown[10:]) == sorted(row.text for row in rows)


def test_a_part_of_a_set_may_have_a_share_of_its_own() -> None:
    rows = [Row(str(i), "en", "test/late" if i > 7 else "test") for i in range(10)]
    one = data.Mixture({"test": rows}, [], {}, 0).one_pass({"test": 10, "test/late": 2, "test/other": 5}, 0)
    assert sorted(row.text for row in one) == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "8", "9", "9"]


def test_disturbed_rows_keep_their_labels_and_their_evidence_in_place() -> None:
    rows = [row for row in data.utterances() if row.spans][:200]
    by_labels = {(tuple(sorted(row.aspects.items())), tuple(sorted(row.demands.items()))) for row in rows}
    words = {row.text[start:end] for row in rows for spans in row.spans.values() for start, end in spans}
    plain = {row.text for row in rows}
    made = disturbed(rows, 400)
    assert sum(row.text not in plain for row in made) > 300
    for row in made:
        assert (tuple(sorted(row.aspects.items())), tuple(sorted(row.demands.items()))) in by_labels
        assert all(row.text[start:end] in words for spans in row.spans.values() for start, end in spans)
        assert (row.plain is None) == (row.text in plain) and (row.plain is None or row.plain in plain)


def test_dialects_are_other_words_for_utterances_that_are_trained_on() -> None:
    rows = {identity(row.text): row for row in data.unique(data.utterances())}
    items = [json.loads(line) for path in DIALECTS.glob("*.jsonl") for line in path.open(encoding="utf-8")]
    assert {data.split_of(rows[item["of"]].text) for item in items} == {"train"}
    held_out = [text for one in probes.bias_sets() for text in one.texts]
    held_out += [row.text for row in rows.values() if data.split_of(row.text) == "test"]
    near = data.nearest([data.clean(item["text"]) for item in items], list(map(data.clean, held_out)))
    assert [item["text"] for item, likeness in zip(items, near, strict=True) if likeness >= 0.6] == []
    spoken = in_dialect(list(rows.values()))
    assert len(spoken) > 700 and all(row.plain != row.text and not row.spans for row in spoken)


@pytest.mark.parametrize("halves", [False, True], ids=["fp32", "bf16"])
def test_answers_to_a_text_and_its_plain_wording_are_drawn_together(
    halves: bool, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "HALVES", halves)
    trainer = Trainer(tiny(tokenizer), Plan("test", {}, rows=1, minutes=1), tmp_path)
    rows = [Row("物流咋恁慢", "zh", "test", plain=plain) for plain in (None, "物流咋恁慢", "物流怎么这么慢")]
    one_by_one = []
    for row in rows:
        trainer.model.eval()
        chosen = encode([row], tokenizer)
        batch = collate(chosen)
        one_by_one.append(trainer._unlike_plain(train._answer(trainer.model, batch.ids, batch.mask), chosen).item())
    assert one_by_one[:2] == [0.0, pytest.approx(0, abs=1e-6)] and one_by_one[2] > 1e-6


@pytest.fixture
def mixture() -> data.Mixture:
    rows = data.unique(data.utterances())
    return data.Mixture({"utterances": rows[:64]}, rows[64:80], {}, 0)


@pytest.mark.parametrize("adapter", ["", "lora", "dora"])
def test_a_run_goes_on_where_it_was_and_can_be_merged(
    adapter: str, mixture: data.Mixture, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    if adapter:
        pytest.importorskip("peft")
    plan = Plan("test", {"utterances": 64}, rows=64, minutes=5, size=16, frozen=1, adapter=adapter, rank=2)
    first = Trainer(tiny(tokenizer), plan, tmp_path)
    first.run(mixture, tokenizer)
    second = Trainer(tiny(tokenizer), replace(plan, rows=128), tmp_path)
    second.resume()
    assert second.rows == 64 and second.progress == 0.5
    second.run(mixture, tokenizer)
    assert second.rows == 128 and len(second.losses) == 2
    batch = collate(encode(mixture.dev[:4], tokenizer))
    model = second.model.eval()
    with torch.no_grad():
        before = model(batch.ids, batch.mask)
        model.merge()
        after = model(batch.ids, batch.mask)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(before, after, strict=True))
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_frozen_layers_stay_as_they_are(mixture: data.Mixture, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = tiny(tokenizer)
    before = {name: value.clone() for name, value in model.encoder.named_parameters()}
    plan = Plan("test", {"utterances": 64}, rows=64, minutes=5, size=16, frozen=2)
    Trainer(model, plan, tmp_path).run(mixture, tokenizer)
    after = dict(model.encoder.named_parameters())
    assert {name.split(".")[2] for name, value in before.items() if not torch.equal(value, after[name])} == {"1"}


def test_weights_are_blended_with_earlier_ones(tokenizer: Tokenizer) -> None:
    model = tiny(tokenizer)
    earlier = {name: tensor + 2 for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    wanted = {name: tensor + 0.5 for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    model.blend(earlier, 0.25)
    assert all(torch.allclose(model.state_dict()[name], tensor) for name, tensor in wanted.items())


def test_a_run_ends_when_nothing_gets_better(tokenizer: Tokenizer, tmp_path: Path) -> None:
    trainer = Trainer(tiny(tokenizer), Plan("test", {}, rows=10, minutes=1, patience=2), tmp_path)
    trainer.scores = [0.5, 0.7, 0.6]
    assert not trainer.stale
    trainer.scores.append(0.7)
    assert trainer.stale


def test_an_early_end_takes_the_best_state(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.9, 0.8, 0.7])
    for name in ("aspect_f1", "demand_f1", "evidence_f1"):
        monkeypatch.setattr(metrics, name, lambda *_: math.nan)
    monkeypatch.setattr(metrics, "sentiment_accuracy", lambda *_: next(scores))
    monkeypatch.setattr(train, "SAVE_SECONDS", -1)
    trainer = Trainer(tiny(tokenizer), Plan("test", {"utterances": 64}, rows=640, minutes=5, patience=2), tmp_path)
    trainer.run(data.mixture(None), tokenizer)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert trainer.rows == 3 * 32 and trainer.stale
    assert all(torch.equal(tensor, best[name]) for name, tensor in trainer.model.state_dict().items())


def test_an_appointed_end_drives_progress(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert Trainer(tiny(tokenizer), Plan("test", {}, rows=10, minutes=1), tmp_path).progress == 0
    over, halfway = (
        Trainer(tiny(tokenizer), Plan("test", {}, rows=10, minutes=1), tmp_path, until=time.time() + seconds)
        for seconds in (-10, 1000)
    )
    halfway._began = time.time() - 1000
    assert over.progress == 1.0 and halfway.progress == pytest.approx(0.5, abs=0.01)


# --- figures --------------------------------------------------------------------------------------------------------


def answer(row: Row, present: dict[str, float], evidence: dict[str, tuple[int, ...]] | None = None) -> metrics.Answer:
    """An answer in which every character is a token."""
    aspects = np.zeros((len(ASPECTS), 4), np.float32)
    aspects[:, 0] = 1
    for name, probability in present.items():
        aspects[ASPECTS.index(name)] = (1 - probability, probability, 0, 0)
    marks = np.zeros((len(row.text), len(EVIDENCE_LABELS)), np.float32)
    for name, places in (evidence or {}).items():
        marks[list(places), EVIDENCE_LABELS.index(name)] = 0.9
    offsets = tuple((i, i + 1) for i in range(len(row.text)))
    return metrics.Answer(
        row, np.array([0.8, 0, 0.2], np.float32), aspects, np.zeros((10, 2), np.float32), marks, marks, offsets
    )


ROW = Row(
    "物流太慢了包装也破了", "zh", "test", "negative", {"logistics": "negative", "packaging": "negative"},
    frozenset(ASPECTS), spans={"logistics": ((0, 2), (2, 4)), "packaging": ((5, 7), (8, 9))},
    known_spans=frozenset(ASPECTS),
)  # fmt: skip


def test_spans_need_half_of_the_union_and_a_label_that_is_found() -> None:
    marks = {"logistics": (0, 1, 2, 3), "packaging": (5, 6, 8)}
    half = dict.fromkeys(ASPECTS, 0.5)
    found = answer(ROW, {"logistics": 0.9, "packaging": 0.9}, marks)
    assert metrics.span_f1([found], half) == 1.0
    assert metrics.span_f1([answer(ROW, {"logistics": 0.9}, marks)], half) == 0.5
    assert metrics.known_span_f1([answer(ROW, {}, marks)], half) == 1.0
    assert metrics.span_f1([answer(ROW, {"logistics": 0.9}, {"logistics": (0,)})], half) == 0.0


def test_negative_aspects_and_presence_are_counted_apart() -> None:
    found = [answer(ROW, {"logistics": 0.9, "price": 0.9})]
    half = dict.fromkeys(ASPECTS, 0.5)
    assert metrics.presence_counts(found, ("price",), half).tolist() == [[[0, 1, 0]]]
    assert metrics.negative_f1(found, half) == 0.5
    assert metrics.presence(("logistics", "packaging"), metrics.macro)(found, half) == 0.5
    assert metrics.presence(("logistics", "price"), metrics.micro)(found, half) == pytest.approx(2 / 3)


def test_the_bootstrap_brackets_the_score_and_narrows_with_rows() -> None:
    half = dict.fromkeys(ASPECTS, 0.5)
    found = [answer(ROW, {"logistics": 0.9, "packaging": 0.9 * (i % 2)}) for i in range(40)]
    score, (low, high) = metrics.aspect_f1(found, half), metrics.aspect_f1.interval(found, half)
    few_low, few_high = metrics.aspect_f1.interval(found[:8], half)
    assert few_low < low < score < high and high - low < few_high - few_low


def test_doubtful_blame_of_what_is_there_is_left_out() -> None:
    kind = replace(ROW, sentiment="positive", aspects={"price": "positive"}, spans={})
    taken_amiss = answer(kind, {})
    taken_amiss.aspects[ASPECTS.index("price")] = (0.1, 0.47, 0.0, 0.43)
    found = [answer(ROW, {"logistics": 0.9, "packaging": 0.9})] * 10 + [taken_amiss] * 30
    chosen = calibrate.thresholds(found)
    assert metrics.negative_f1(found, {**chosen, BLAME: 0.0}) < 0.7
    assert metrics.negative_f1(found, chosen) == 1.0
    assert 0.47 < chosen[BLAME] < 0.9


def test_a_statement_lost_is_a_flip() -> None:
    limits = dict.fromkeys(EVIDENCE_LABELS, 0.5)
    before, after = answer(ROW, {"logistics": 0.9, "price": 0.6}), answer(ROW, {"logistics": 0.9})
    assert statements(before, limits) - statements(after, limits) == {"price negative"}


def test_a_true_probability_has_no_calibration_error() -> None:
    pairs = np.array([(0.75, 1.0), (0.75, 1.0), (0.75, 1.0), (0.75, 0.0)])
    assert reliability.calibration_error(pairs) == 0
    assert reliability.calibration_error(np.array([(0.9, 0.0), (0.9, 1.0)])) == pytest.approx(0.4)
    assert reliability.drawing({"one": pairs, "two": pairs}).count("<circle") == 2


def test_the_gate_names_what_was_lost() -> None:
    old = {"kept": {"model": [0.8, 0.75, 0.85, 100]}, "lost": {"model": [0.8, 0.75, 0.85, 100]}}
    new = {"kept": {"model": [0.76, 0.7, 0.8, 100]}, "lost": {"model": [0.74, 0.7, 0.8, 100]}}
    (line,) = gate(new, old)
    assert line.startswith("lost")


# --- few labels -----------------------------------------------------------------------------------------------------

EXAMPLES = {
    "gift_wrap": [
        "can you gift wrap it",
        "is gift wrapping possible",
        "please wrap it as a gift",
        "gift wrap with card",
    ],
    "invoice": ["I need an invoice", "please send the invoice", "invoice for my company", "where is my invoice"],
}


def embed(texts: list[str]) -> np.ndarray:
    """Counts of letters: enough to tell gifts from invoices."""
    return np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)


def test_a_head_learns_from_four_examples_each_and_may_abstain() -> None:
    texts = [text for examples in EXAMPLES.values() for text in examples]
    labels = [label for label, examples in EXAMPLES.items() for _ in examples]
    head = Head(embed, texts, labels)
    assert head(["do you gift wrap", "send an invoice please"]) == ["gift_wrap", "invoice"]
    head.floor = 1.01
    assert head(["do you gift wrap"]) == [None]


def test_a_head_asks_for_more_examples() -> None:
    with pytest.raises(ValueError, match="add examples"):
        Head(embed, ["one", "two", "three"], ["a", "a", "b"])


def test_the_queue_begins_with_the_least_certain_and_the_strangest() -> None:
    seen = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    states = np.array([[1, 0], [1, 1], [0, 2]], np.float32)
    assert novel(states, seen, 1) == [1]
    assert np.allclose(strangeness(states, seen)[[0, 2]], 0, atol=1e-6)


def test_a_preview_finds_past_texts_with_the_new_label() -> None:
    past = ["gift wrap please", "can it be gift wrapped"] + [f"the parcel number {i} is late again" for i in range(120)]
    seen = preview(embed, "gift_wrap", EXAMPLES["gift_wrap"], past)
    assert {text for _, text in seen.found} == set(past[:2]) and seen.texts == len(past)


def test_the_queue_takes_the_uncertain_and_the_strange_in_turn() -> None:
    card = ModelCard("demand", 1, "test", Path(), dict.fromkeys(EVIDENCE_LABELS, 0.5), 128)
    plain = [replace(ROW, text=text) for text in ("sure", "unsure", "strange")]
    found = [answer(row, {"price": p}) for row, p in zip(plain, (0.99, 0.51, 0.99), strict=True)]
    states = np.array([[1, 0], [1, 0], [1, 1]], np.float32)
    seen = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    assert queue(found, states, seen, card, 2) == [1, 2]
    assert row_to_fill_in(found[1], card)["aspects"] == [{"aspect": "price", "sentiment": "negative", "evidence": []}]
