"""The training room: mappings that never guess, spans that land on tokens, masks that hold, and the whole path once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from serving.export import export
from serving.labels import ASPECT_STATES, ASPECTS, DEMANDS, EVIDENCE_LABELS, POLARITIES
from training import calibrate, data, mapping, metrics
from training.batches import IGNORED, batches, collate, encode, load_tokenizer, trainable
from training.data import Quad, Row
from training.losses import task_losses, total
from training.model import Logits, RadarModel
from training.train import TOKENIZER

SCHEMES = (mapping.ZHIJIANG, mapping.ASQP_ZH, mapping.ASQP_EN, mapping.LAPTOP, mapping.OATS)
try:
    DATA: Path | None = data.data_folder()
except SystemExit:
    DATA = None
needs_data = pytest.mark.skipif(DATA is None, reason="no data folder: set RADAR_DATA")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> RadarModel:
    torch.manual_seed(0)
    return RadarModel.tiny(tokenizer.get_vocab_size()).eval()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_use_our_labels_only(scheme: mapping.Scheme) -> None:
    named = {*scheme.to_aspect.values(), *scheme.covered, *(name for names in scheme.doubt.values() for name in names)}
    assert named <= set(ASPECTS)


def test_longest_prefix_decides_and_unknown_categories_mask_everything() -> None:
    assert mapping.ASQP_ZH.aspect("通用-物流#物流速度") == "logistics"
    assert mapping.ASQP_ZH.aspect("通用-物流#运费") is None
    assert mapping.ASQP_ZH.doubted("通用-物流#运费") == ("logistics", "price")
    assert mapping.ASQP_ZH.doubted("通用-物流#物流速度") == ()
    assert mapping.ZHIJIANG.doubted("其他") == ASPECTS
    assert mapping.laptop_category("KEYBOARD#QUALITY") == "#QUALITY"
    assert mapping.LAPTOP.aspect(mapping.laptop_category("SUPPORT#GENERAL")) == "service"
    assert mapping.LAPTOP.doubted(mapping.laptop_category("Out_Of_Scope#GENERAL")) == ASPECTS


def test_intents_use_our_demands_only() -> None:
    for intent in (*mapping.BITEXT.values(), *mapping.HINT3.values()):
        assert {*intent.demands, *intent.doubt} <= set(DEMANDS)


def test_a_row_masks_doubt_contradiction_and_missing_words() -> None:
    quads = [
        Quad("价格", "positive", ((0, 2),)),
        Quad("价格", "negative", ()),
        Quad("气味", "negative", ((3, 5),)),
        Quad("物流", "negative", ()),
        Quad("包装", "negative", ((6, 8),)),
    ]
    row = data.aspect_row("便宜，难闻，破了", "zh", "test", quads, mapping.ZHIJIANG)
    assert row.aspects == {"logistics": "negative", "packaging": "negative"}
    assert not row.known_aspects & {"price", "efficacy", "usability", "quality"}
    assert "service" in row.known_aspects
    assert "packaging" in row.known_spans and "logistics" not in row.known_spans


def test_spans_survive_cleaning() -> None:
    text, spans = data.clean_spans("  ＡＢＣ包裝！！！！！！破損  很差", ((5, 7), (13, 15)))
    assert [text[start:end] for start, end in spans] == ["包装", "破损"]


@pytest.mark.parametrize("words", ["box was crushed", "support"])
def test_spans_land_on_the_right_tokens(words: str, tokenizer: Tokenizer) -> None:
    text = "Lovely mug, but the box was crushed and support is silent."
    span = data.find(text, words)
    assert span
    row = Row(text, "en", "test", spans={"packaging": (span,)}, known_spans=frozenset({"packaging"}))
    (one,) = encode([row], tokenizer)
    marked = collate([one]).evidence[0, :, EVIDENCE_LABELS.index("packaging")].bool().tolist()
    places = [one.offsets[i] for i, mark in enumerate(marked) if mark]
    assert text[places[0][0] : places[-1][1]].strip() == words
    assert not marked[0] and not marked[-1]


def test_words_in_two_places_are_nobodys_evidence() -> None:
    assert data.find("bad, bad", "bad") is None
    assert data.find("good", "bad") is None


def test_unknown_cells_are_masked_and_cost_nothing(tokenizer: Tokenizer) -> None:
    rows = [
        Row("便宜", "zh", "test", aspects={"price": "positive"}, known_aspects=frozenset({"price", "size"})),
        Row("还行吧", "zh", "test", sentiment="neutral"),
    ]
    batch = collate(encode(rows, tokenizer))
    assert batch.aspects[0, ASPECTS.index("price")] == ASPECT_STATES.index("positive")
    assert batch.aspects[0, ASPECTS.index("size")] == ASPECT_STATES.index("absent")
    assert int((batch.aspects != IGNORED).sum()) == 2
    assert batch.sentiment.tolist() == [IGNORED, POLARITIES.index("neutral")]
    assert not batch.demands_known.any() and not batch.evidence_known.any()
    logits = Logits(torch.randn(2, 3), torch.randn(2, 13, 4), torch.randn(2, 10, 2), torch.randn(*batch.evidence.shape))
    losses = task_losses(logits, batch)
    assert losses["demands"] == losses["strength"] == losses["evidence"] == 0
    assert losses["sentiment"] > 0 and losses["aspects"] > 0


def test_joining_unites_labels_and_masks_disagreement() -> None:
    everything = mapping.ALL_ASPECTS
    one = Row(
        "东西便宜。", "zh", "a", "positive", {"price": "positive", "size": "positive"}, everything,
        spans={"price": ((2, 4),)}, known_spans=everything,
    )  # fmt: skip
    two = Row(
        "盒子破了", "zh", "b", "negative", {"packaging": "negative", "size": "negative"}, everything - {"overall"},
        spans={"packaging": ((2, 4),)}, known_spans=everything,
    )  # fmt: skip
    row = data.join(one, two)
    assert row.text == "东西便宜,盒子破了" and row.sentiment is None
    assert row.aspects == {"price": "positive", "packaging": "negative"}
    assert not row.known_aspects & {"size", "overall"}
    assert [row.text[start:end] for spans in row.spans.values() for start, end in spans] == ["便宜", "破了"]


def test_only_reviews_without_a_cue_count_as_free_of_demands() -> None:
    plain, asking = data.demand_free(
        [Row("外观好看,做工也不错", "zh", "test"), Row("做工不错,能便宜点吗", "zh", "test")]
    )
    assert plain.known_demands == mapping.ALL_DEMANDS and not plain.demands
    assert not asking.known_demands


def test_leaks_and_look_alikes_are_left_out() -> None:
    rows = [Row(text, "zh", "test") for text in ("很好，喜欢!", "完全不同的一句话", data.DEMONSTRATION[0] + "呀")]
    kept, dropped = data.without_leaks(rows, ["很好 喜欢"])
    assert [row.text for row in kept] == ["完全不同的一句话"] and dropped == 2


def test_the_split_is_by_content() -> None:
    assert data.split_of("Very good!") == data.split_of("very  GOOD")
    splits = [data.split_of(str(i)) for i in range(2000)]
    assert 0.8 < splits.count("train") / 2000 < 0.9


def test_our_utterances_are_well_formed() -> None:
    rows = list(data.utterances())
    assert len(rows) > 500
    for row in rows:
        assert row.sentiment in POLARITIES
        assert row.aspects.keys() <= set(ASPECTS) and set(row.aspects.values()) <= set(POLARITIES)
        assert row.demands.keys() <= set(DEMANDS) and all(0 < strength <= 1 for strength in row.demands.values())


def test_the_demonstration_is_not_among_the_training_rows() -> None:
    shown = {data.key(text) for text in data.DEMONSTRATION}
    assert not shown & {data.key(row.text) for row in data.mixture(None).train}


def test_batches_hold_every_row_once_and_cut_texts_with_labels_are_left_out(tokenizer: Tokenizer) -> None:
    rows = [Row("好" * n, "zh", "test", "positive") for n in range(1, 100)]
    rows.append(Row("真的不错，" * 100, "zh", "test", "positive", known_demands=mapping.ALL_DEMANDS))
    rows.append(Row("质量好，" * 100, "zh", "test", aspects={"quality": "positive"}, known_aspects=mapping.ALL_ASPECTS))
    encoded = trainable(encode(rows, tokenizer))
    found = [one.row.text for chosen in batches(encoded, 8, seed=1) for one in chosen]
    assert sorted(found) == sorted(row.text for row in rows[:-1])


def test_padding_changes_nothing(model: RadarModel) -> None:
    ids = torch.tensor([[0, 20, 30, 2]])
    padded = torch.tensor([[0, 20, 30, 2, 1, 1]])
    with torch.no_grad():
        plain, long = model(ids, torch.ones_like(ids)), model(padded, (padded != 1).long())
    for one, other in zip(plain[:3], long[:3], strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(plain.evidence, long.evidence[:, :4], atol=1e-5)


def test_one_step_lowers_the_loss(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    learner = RadarModel.tiny(tokenizer.get_vocab_size()).eval()
    batch = collate(encode(list(data.utterances())[:16], tokenizer))
    optimiser = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = total(task_losses(learner(batch.ids, batch.mask), batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach().item())
    assert losses[-1] < losses[0]


def test_the_export_answers_like_the_model(model: RadarModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = export(model, TOKENIZER, tmp_path, {"version": "test"})
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["padding"] is None
    rows = [Row("物流慢", "zh", "test"), Row("a much longer text about the price of this kettle", "en", "test")]
    ours = metrics.answers(rows, tokenizer, metrics.torch_predict(model))
    theirs = metrics.answers(rows, tokenizer, metrics.onnx_predict(path))
    for one, other in zip(ours, theirs, strict=True):
        assert one.aspects.shape == (13, 4) and one.demands.shape == (10, 2)
        assert np.allclose(one.aspects, other.aspects, atol=0.05)
        assert np.allclose(one.evidence, other.evidence, atol=0.05)


def test_calibration_softens_overconfidence_and_thresholds_separate() -> None:
    chooser = np.random.default_rng(0)
    found = []
    for i in range(400):
        present, sure = i % 2 == 0, chooser.random() < 0.7
        said = 0.99 if present == sure else 0.7
        demands = np.zeros((10, 2), np.float32) + 0.01
        demands[0, 0] = said if present else said - 0.65
        row = Row(
            str(i), "en", "test", demands={DEMANDS[0]: 0.5} if present else {}, known_demands=frozenset({DEMANDS[0]})
        )
        empty = np.zeros((0, 23), np.float32)
        found.append(
            metrics.Answer(row, np.full(3, 1 / 3, np.float32), np.zeros((13, 4), np.float32), demands, empty, empty)
        )
    chosen = calibrate.thresholds(found)
    assert metrics.label_f1(found, DEMANDS[0], chosen) == 1.0
    assert chosen["price"] == metrics.DEFAULT_THRESHOLD
    temperatures, weights = calibrate.weigh(found, found)
    assert temperatures[0] == 1.0 and weights[0] == 0.0
    assert calibrate.cells(found)[2].loss(temperatures[2]) <= calibrate.cells(found)[2].loss(1.0) + 1e-9


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    "name", ["zhijiang", "acos_laptop", "dimabsa_laptop", "oats", "bitext", "clinc", "eprstmt", "hint3"]
)
def test_readers_give_rows_that_point_into_their_text(name: str) -> None:
    assert DATA
    rows = list(getattr(data, name)(DATA))
    assert len(rows) > 250
    for row in rows:
        assert row.aspects.keys() <= row.known_aspects and row.demands.keys() <= row.known_demands
        assert all(0 <= start < end <= len(row.text) for spans in row.spans.values() for start, end in spans)
